"""Measure a trained network: error, size in kB and mean bits, as its training printed them."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("eval")
