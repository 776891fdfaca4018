"""Starts the command `export` of `x_umx`."""
from x_umx.__main__ import launch

if __name__ == "__main__":
    launch("export")
