"""Draw a generated street scene, its classes, and those that a network finds."""
from d3net.__main__ import launch

if __name__ == "__main__":
    launch("plot_scene")
