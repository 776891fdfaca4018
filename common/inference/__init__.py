"""Trained networks run by the fastest engine."""
