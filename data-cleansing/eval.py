"""Retrain a run without the worst images of each method that it has scores of, beside random and no removal."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("eval")
