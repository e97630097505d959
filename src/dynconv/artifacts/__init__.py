"""Reads and writes the weights file and the run directory, each with its format version."""
