"""Segmentation of street scenes with D3Net (arXiv 2011.11844)."""
