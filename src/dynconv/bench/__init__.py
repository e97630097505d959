"""What this machine needs for a layer, a training step, prediction, other runtimes and the server."""
