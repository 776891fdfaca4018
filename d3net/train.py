"""Train D3Net: a network that separates a source of music, or one that segments street scenes."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("train")
