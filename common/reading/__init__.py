"""Files that others made: opened, bounded and decoded, with errors of one line."""
