"""What a command reads from its command line, and shows."""
