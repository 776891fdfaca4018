"""Find the training images that harm a classifier: train, score, retrain without the worst, report."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("cleanse")
