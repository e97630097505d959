"""A file that says what to search -> many training runs, the best of them, and a page about all."""
