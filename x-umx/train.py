"""Train X-UMX, or UMX for one source (arXiv 2010.04228)."""
from x_umx.__main__ import launch

if __name__ == "__main__":
    launch("train")
