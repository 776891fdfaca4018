"""Gradient descent that is recorded, and replayed from its record."""
