"""What is written and read: the weights file and the run directory, each with its version."""
