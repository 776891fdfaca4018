"""Audio files, and spectrograms of them."""
