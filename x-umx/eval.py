"""Score a separation model on MUSDB18 with museval (BSS eval v4), beside the published numbers."""
from x_umx.__main__ import launch

if __name__ == "__main__":
    launch("eval")
