"""Draw what runs have learned."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("plot")
