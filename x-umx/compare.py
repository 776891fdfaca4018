"""Compare X-UMX with one UMX for each source, and with X-UMX that lacks one of its three ideas, at small scale."""
from x_umx.__main__ import launch

if __name__ == "__main__":
    launch("compare")
