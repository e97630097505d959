"""A weights file or a run -> probabilities, and what the routing does.

It is the only place where a picture becomes the network's input.
"""
