"""Export D3Net as ONNX."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("export")
