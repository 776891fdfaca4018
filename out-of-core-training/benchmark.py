"""Largest batch, and speed over batch sizes: in-core, with the scheduler, with virtual addressing."""
from out_of_core_training.__main__ import launch

if __name__ == "__main__":
    launch("benchmark")
