"""Split music into stems with D3Net (arXiv 2010.01733)."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("separate")
