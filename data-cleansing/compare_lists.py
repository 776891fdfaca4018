"""Compare the list of suspicious labels with cleanlab's and with the scores, where wrong labels were planted."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("compare_lists")
