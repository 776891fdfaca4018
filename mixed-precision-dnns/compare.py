"""Compare the parametrizations of a quantizer, and three ways to spend 70 kB, in equal steps from one float network."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("compare")
