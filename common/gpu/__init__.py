"""Kernels compiled at run time for a GPU, and nnabla functions made of them that give the numbers of nnabla's own."""
