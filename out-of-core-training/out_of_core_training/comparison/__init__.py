"""The batches and speeds of the three modes that the paper compares."""
