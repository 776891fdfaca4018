"""Predictions for a GPU that need none."""
