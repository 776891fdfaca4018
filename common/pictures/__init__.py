"""Image files read and written, and figures drawn."""
