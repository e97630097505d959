"""A weights file or a run -> probabilities, and what the routing does.

This is the only package in which a picture becomes the network's input.
"""
