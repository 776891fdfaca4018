"""Music source separation with X-UMX and UMX (arXiv 2010.04228)."""
