"""Measure what quantization costs in training, and the throughput of images and processes."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("benchmark")
