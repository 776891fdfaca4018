"""Write the report of a run: worst and best images, accuracy over removal, histograms, sizes, in one HTML file."""
from data_cleansing.__main__ import launch

if __name__ == "__main__":
    launch("report")
