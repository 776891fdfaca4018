"""Turn a trained network into a small file, and into an ONNX model that runs elsewhere."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("export")
