"""The subcommands, each with the one description that `dynconv --help`, its own help and the README share; and what
asks for help.

Imports nothing, so that `dynconv --help` answers at once.
"""

from __future__ import annotations

VERBS: dict[str, tuple[str, str]] = {
    "train": ("train [PRESET] [--FIELD VALUE ...]", "Train a network and write a run directory."),
    "sweep": ("sweep FILE [--data X]", "Search hyper-parameters: many runs, judged on images held out of training."),
    "evaluate": ("evaluate RUN [--data X]", "Evaluate a trained network: accuracy, loss, confusion."),
    "data": ("data DATA", "Look at a data set: counts, sizes, damage, copies, samples, doubtful labels."),
    "predict": ("predict IMAGE|FOLDER|- ...", "Classify images, by default with the packaged weights."),
    "export": (
        "export RUN [--format onnx|pt2|web]",
        "Export a network, including its preprocessing, for other runtimes.",
    ),
    "report": ("report RUN [RUN ...]", "Write a report: a page, or --format pdf, md, tex, ipynb to hand in."),
    "explain": ("explain RUN IMAGE ...", "Show how a network routes the given images."),
    "serve": ("serve [RUN] [--port 8000]", "Serve a network over HTTP: a web page and an API."),
    "runs": ("runs [FOLDER]", "List runs in a table."),
    "describe": ("describe [PRESET] [--FIELD VALUE ...]", "Print a network: shapes, parameters, multiply-adds."),
    "presets": ("presets", "List the named recipes."),
    "bench": ("bench WHAT", "Time layer, step, predict, infer (other runtimes) or serve on this machine."),
    "doctor": ("doctor", "Check this machine and its data, and say what to do about problems."),
    "completion": ("completion bash|zsh|fish", "Print a script that completes words in a shell."),
}
"""Name -> usage, and description."""

HELP_ALL = "--help-all"
"""Shows every option where --help shows those used most."""
HELP = ("-h", "--help", HELP_ALL)
"""The words that ask for help instead of a run."""
