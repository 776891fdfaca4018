"""Harmful training examples, found by their influence (arXiv 2103.11807)."""
