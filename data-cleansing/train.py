"""Train as arXiv 2103.11807 does, and record what scoring needs: the order of the images and the final parameters."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("train")
