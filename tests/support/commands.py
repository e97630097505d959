"""The commands that README and documentation tell to type."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def calls(program: str) -> list[tuple[str, list[str]]]:
    """The page, and the words after the program, of each of its calls on all pages."""
    found = []
    for page in PAGES:
        for line in _lines_of(page):
            if re.match(rf"(?:.*[ !])?{program} ", line):
                found += [(page.name, words) for words in _after(program, line.removeprefix("!"))]
    assert found, program
    return found


def _lines_of(page: Path) -> list[str]:
    """What stands in the blocks without a language, continued lines joined; and each code within a sentence."""
    text = page.read_text(encoding="utf-8")
    blocks = [block.replace("\\\n", " ") for kind, block in BLOCK.findall(text) if not kind]
    # What quotes a message, on the page of messages, quotes no command.
    prose = "\n".join(line for line in BLOCK.sub("", text).splitlines() if not line.startswith("> "))
    return [*"\n".join(blocks).splitlines(), *(" ".join(code.split()) for code in re.findall(r"`([^`]+)`", prose))]


def _after(program: str, line: str) -> Iterator[list[str]]:
    """The words after the program, for each command of a line of the shell that calls it."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    for separator, group in itertools.groupby(lexer, lambda token: set(token) <= set("|&;")):
        words = list(itertools.dropwhile(lambda word: re.match(r"srun$|exec$|[A-Z_]+=", word), group))
        if not separator and words[:1] == [program]:
            yield words[1:]
