"""Reads configurations in YAML, with time and memory bounded by the size of the file.

A kilobyte of nested aliases stands for a thousand million values, and some conversions of YAML 1.1 take quadratic time.
Here every value counts as often as the file repeats it, and a number or word without quotes has a longest length.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

from dynconv.errors import DynconvError

LARGEST = 1 << 20
"""Maximum bytes of a file; the configuration of a run has one thousand."""
MOST_VALUES = 50_000
"""Maximum number of values, with those that aliases repeat."""
LONGEST_WORD = 1000
"""Maximum characters of a value without quotes, such as a number."""


def read(path: Path) -> dict[str, Any]:
    """The fields in the file; empty if it holds none.

    Raises:
        OSError: the file cannot be read.
        DynconvError: it is not YAML, too large, or holds something other than fields; one line that names it.
    """
    with path.open("rb") as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DynconvError(f"{path}: has more than {LARGEST:,} bytes; a configuration has a few thousand")
    try:
        fields = yaml.load(content.decode("utf-8"), _Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise DynconvError(f"{path}: not YAML: line {line}: {error.problem}") from error
    except Exception as error:  # the values' conversions raise whatever Python does, such as KeyError for !!bool x
        reason = " ".join(str(error).split()) if isinstance(error, ValueError | yaml.YAMLError) else ""
        raise DynconvError(f"{path}: not YAML: {reason or 'a value that cannot be converted'}") from error
    if fields is None:
        return {}
    if not isinstance(fields, dict):
        raise DynconvError(f"{path}: must hold fields, as in 'epochs: 5', not a {type(fields).__name__}")
    return fields


class _Loader(yaml.SafeLoader):
    """Counts values while it composes them, before any is repeated or converted."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0
        self._sizes: dict[str | None, int] = {}  # of the values that have an anchor

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self._values
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._sizes and event.anchor in self.anchors:
                raise self._error(event, "a value contains itself")
            self._values += self._sizes.get(event.anchor, 0)
        else:
            self._values += 1
        if self._values > MOST_VALUES:
            raise self._error(event, f"more than {MOST_VALUES:,} values")
        node: Node | None = super().compose_node(parent, index)
        anchor = getattr(event, "anchor", None)
        if anchor and not isinstance(event, yaml.AliasEvent):
            self._sizes[anchor] = self._values - before
        if isinstance(node, ScalarNode) and node.style is None and len(node.value) > LONGEST_WORD:
            raise self._error(event, f"a value of {len(node.value):,} characters")
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        for name in found:
            if not isinstance(name, str):
                raise self._error(node, f"the name of a field is a {type(name).__name__}; write it in quotes")
        return found

    @staticmethod
    def _error(where: Any, problem: str) -> yaml.MarkedYAMLError:
        return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)
