"""Loops over float32 arrays, compiled for the functions where nnabla is slow on a CPU.

A kernel treats the elements, samples or groups from `start` to `stop` and releases the interpreter's lock, so that
`common.cpu.parallel.run_parallel` can give every core a range. Partial sums belong to ranges of fixed size, never to
threads: results do not depend on the number of cores.
"""
