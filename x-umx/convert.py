"""Convert weights from and to PyTorch: UMX of open-unmix-pytorch, X-UMX of asteroid."""
from x_umx.__main__ import launch

if __name__ == "__main__":
    launch("convert")
