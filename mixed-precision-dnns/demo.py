"""Watch a ResNet learn its own bit widths on real handwritten digits, within 90 kB of weights; two to three minutes."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("demo")
