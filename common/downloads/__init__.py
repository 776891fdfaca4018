"""Files from elsewhere, fetched once and never trusted."""
