"""Training runs: configuration, loop, log, checkpoints."""
