"""Learned bit widths in files: packed weights, ONNX models."""
