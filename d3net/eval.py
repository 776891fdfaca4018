"""Score D3Net with the metrics of the field, beside the published numbers."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("eval")
