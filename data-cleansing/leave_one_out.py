"""Check the scores against the truth: leave every image out in turn, train again, measure the validation loss."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("leave_one_out")
