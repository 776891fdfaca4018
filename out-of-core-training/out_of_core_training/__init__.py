"""Training networks larger than the memory of the GPU, by swapping on a schedule (arXiv 2010.14109)."""
