"""Music source separation with D3Net (arXiv 2010.01733)."""
