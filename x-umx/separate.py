"""Split music into stems with X-UMX or UMX (arXiv 2010.04228)."""
from x_umx.__main__ import launch

if __name__ == "__main__":
    launch("separate")
