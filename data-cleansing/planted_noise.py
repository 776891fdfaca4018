"""Measure what cleansing is worth: wrong labels planted, removals judged by pairs of trainings."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("planted_noise")
