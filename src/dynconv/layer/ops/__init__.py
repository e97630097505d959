"""Compiled operators: the build, and per operator one source file for a CPU and one for a GPU."""
