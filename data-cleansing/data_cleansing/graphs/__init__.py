"""Graphs of networks made again of faster functions, with the tangents of what they compute."""
