"""Functions for the CPU, where those of nnabla are slow: compiled loops, and nnabla functions made of them."""
