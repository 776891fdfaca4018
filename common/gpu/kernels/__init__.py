"""Sources of kernels in CUDA C++."""
