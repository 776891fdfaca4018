"""Measure inference at the published sizes, and a training step, against what nnabla offers on a CPU."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("benchmark")
