"""The error for a user's mistake."""


class DynconvError(Exception):
    """One line for people: what is wrong, where, and what to do. The command prints it and exits with 2."""
