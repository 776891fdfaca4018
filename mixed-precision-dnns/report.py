"""List what every layer of a network costs: bits, kB, multiply-accumulates and bit operations for one image."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("report")
