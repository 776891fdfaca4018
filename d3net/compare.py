"""Compare multidilated dense blocks with blocks of one dilation per layer, and of none, at small scale."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("compare")
