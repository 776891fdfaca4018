"""Learned quantizers: networks that find their own bit widths within a budget of memory (arXiv 1905.11452)."""
