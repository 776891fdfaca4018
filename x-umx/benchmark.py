"""Measure separation and training at the published size against what nnabla and norbert offer on a CPU."""
from x_umx.__main__ import launch

if __name__ == "__main__":
    launch("benchmark")
