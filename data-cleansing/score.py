"""Score the training images of a run: how much does each one raise or lower the validation loss?."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("score")
