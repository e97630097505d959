"""The exception for users' mistakes."""


class DynconvError(Exception):
    """A one-line message: what is wrong, where, and what to do. The command prints it and exits with code 2."""
