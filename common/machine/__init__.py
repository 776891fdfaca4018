"""The surroundings of a process: device, other ranks, files, errors, seeds."""
