"""Measure what preparing and scoring a training image costs, against loops as the published code runs them."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("benchmark")
