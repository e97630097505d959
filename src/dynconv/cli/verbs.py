"""The verbs of the command, each with its one description: for `dynconv --help`, its own help, and the README.

Imports nothing, so that `dynconv --help` answers at once.
"""

from __future__ import annotations

VERBS: dict[str, tuple[str, str]] = {
    "train": ("train [PRESET] [--FIELD VALUE ...]", "Train a network and write a run directory."),
    "evaluate": ("evaluate RUN [--data X]", "Measure a trained network: accuracy, loss, confusion."),
    "predict": ("predict IMAGE|FOLDER|- ...", "Classify images, by default with the weights in the package."),
    "export": ("export RUN [--format onnx|pt2]", "Write a network for other runtimes, preprocessing inside."),
    "report": ("report RUN [RUN ...]", "Write a page about a run, or about several side by side."),
    "explain": ("explain RUN IMAGE ...", "Show what the routing does with images."),
    "serve": ("serve [RUN] [--port 8000]", "Serve a network over HTTP, with a page for people."),
    "runs": ("runs [FOLDER]", "List runs in a table."),
    "describe": ("describe [PRESET] [--FIELD VALUE ...]", "Print a network: shapes, parameters, multiply-adds."),
    "presets": ("presets", "List the named recipes."),
    "bench": ("bench WHAT", "Time layer, step, predict, infer (other runtimes) or serve on this machine."),
    "doctor": ("doctor", "Print what matters about this machine and its data."),
}
"""Name -> how it is called, what it does."""
