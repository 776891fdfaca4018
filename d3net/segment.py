"""Find the classes of every pixel of street scenes with D3Net (arXiv 2011.11844)."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("segment")
