"""Draw the spectrograms of a song and of the stems that were separated from it."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("plot_stems")
