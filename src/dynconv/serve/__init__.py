"""Serves a trained network over HTTP, with a web page and an API."""
