"""The command `dynconv`. Results go to standard output, messages to standard error.

Each subcommand is a module of this package and is imported only when it is called.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
from collections.abc import Sequence

import dynconv
from dynconv.cli.terminal import filled
from dynconv.cli.verbs import HELP, VERBS
from dynconv.errors import DynconvError, escaped

_EXAMPLES = """examples:
  dynconv train quick                  # on CIFAR-10, downloaded if not found
  dynconv train quick --data shapes    # on the generated set; no download
  dynconv train standard --model.experts 2 --seed 3
  dynconv train --config run.yaml --data ~/cifar-10-batches-py
  dynconv train --resume runs/20250101-120000-quick-cifar10-seed0"""
_EXIT_CODES = (
    "exit codes: 0 done, 1 training failed or some images could not be read, 2 wrong input, "
    "75 stopped by a scheduler, 130 interrupted"
)
_USAGE_WIDTH = 28  # of most commands; what is said of a longer one begins on the next line

_LISTS = ("completion", "describe", "doctor", "presets", "runs")
"""Commands that only print something. The others load PyTorch and work, so seconds pass before they say anything."""


def main(words: Sequence[str] | None = None) -> int:
    """Runs the subcommand that `words` (default: the command line) begin with; returns the exit code."""
    # Makes torch allocate large blocks in huge pages; it reads the variable once, at its first allocation. Without
    # this, a training step on a CPU spends a tenth of its time on page faults.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        code = _run(sys.argv[1:] if words is None else words)
        sys.stdout.flush()
        return code
    except DynconvError as error:
        _say(f"error: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        _say("interrupted")
        return 130
    except BrokenPipeError:  # the reader of the output has stopped reading, as in `dynconv runs | head`
        _write_nothing_more()
        return 0
    except OSError as error:
        if not (message := _of_the_disk(error)):
            raise
        _write_nothing_more()  # of what standard output still holds, if it is what cannot be written
        _say(f"error: {message}")
        return 2


def _say(message: str) -> None:
    """Prints a message on standard error: one line, for programs that read it, unless that is a terminal."""
    text = f"dynconv: {message}"
    print(filled(text) if sys.stderr.isatty() else text, file=sys.stderr)


def usage() -> str:
    """What `dynconv --help` prints."""
    options = "the options of a command; --help-all: every hyper-parameter, too"
    return "\n\n".join([
        "usage: dynconv COMMAND ...",
        filled("Train and use image classifiers with dynamic convolutions."),
        "\n".join(_described(*each) for each in VERBS.values()),
        "\n".join([_described("dynconv COMMAND --help", options), "  dynconv --version"]),
        _EXAMPLES,
        filled(_EXIT_CODES, hanging="  "),
    ])  # fmt: skip


def _described(usage: str, text: str) -> str:
    start, hanging = f"  {usage:<{_USAGE_WIDTH}}  ", " " * (_USAGE_WIDTH + 4)
    if len(usage) <= _USAGE_WIDTH:
        return filled(text, start, hanging)
    return f"  {usage}\n{filled(text, hanging)}"


def _of_the_disk(error: OSError) -> str:
    """What to say of a disk that has failed, is full or may not be written, a quota, a limit; else empty."""
    if "No usable temporary directory" in str(error):  # Python's tempfile, which torch asks for one when it is imported
        return "no folder for temporary files can be written; free some space in /tmp, or set TMPDIR"
    where = escaped(str(error.filename)) if error.filename else "a file, or standard output"
    if error.errno == errno.EIO:
        return f"{where}: the disk or the connection to it has failed ({error.strerror})"
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        return ""
    return f"{where}: cannot be written ({error.strerror}); free some space"


def _write_nothing_more() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"dynconv {dynconv.__version__}")
        return 0
    if words[0] not in VERBS:
        close = difflib.get_close_matches(words[0], VERBS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(VERBS)}"
        raise DynconvError(f"no command {words[0]!r}; {hint}")
    _never_fail_to_print()
    waits = words[0] not in _LISTS and set(HELP).isdisjoint(words)
    if waits and sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":  # of torchrun's processes, the first
        print(f"dynconv {dynconv.__version__}: loading PyTorch", file=sys.stderr, flush=True)
    code: int = importlib.import_module(f"dynconv.cli.{words[0]}").run(words[1:])
    return code


def _never_fail_to_print() -> None:
    """Makes the output streams print what they cannot encode, such as a file name in another encoding, as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
