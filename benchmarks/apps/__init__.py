"""Worker and producer files of the measured systems, each run in its own system's environment."""
