"""A trained network over HTTP, with a page for people."""
