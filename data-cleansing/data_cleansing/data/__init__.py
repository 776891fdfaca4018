"""Labelled images: where they come from, and how a network gets them."""
