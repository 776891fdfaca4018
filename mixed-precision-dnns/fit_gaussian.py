"""Fit the six parametrizations of a quantizer to N(0, 1) by gradient descent: section 2.3 of arXiv 1905.11452."""
from mixed_precision_dnns.__main__ import launch

if __name__ == "__main__":
    launch("fit_gaussian")
