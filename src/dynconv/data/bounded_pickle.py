"""An unpickler for files that are not trusted: it calls only stand-ins, and time and memory are bounded.

An ordinary unpickler runs whatever code a file asks for. Even one that only admits certain names, such as torch's, lets
a file hash deeply nested tuples, which exhausts the stack of the process, or build a list of 56 bytes for each of its
bytes. This one is the unpickler written in Python, whose memory grows only with the file and the counted operations.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from dynconv.errors import escaped


class RefusedError(Exception):
    """The file asks for something that was not admitted; the message says for what."""


class StandIn:
    """What a pickle gets in place of a function, to be called."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)


_NOT_NEEDED = (pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
"""A bytearray reserves whatever length the file claims; sets hash their items, like the keys of a dict."""


def _keys(code: int, stack: list[Any]) -> list[Any]:
    """The keys that an operation is about to put into a dict."""
    if code in (pickle.SETITEMS[0], pickle.DICT[0]):  # the stack begins at the mark
        return stack[::2]
    return stack[-2:-1] if code == pickle.SETITEM[0] else []


def _filled(code: int, unpickler: BoundedUnpickler) -> Any:
    """What an operation is about to put keys into."""
    if code == pickle.SETITEMS[0]:
        return unpickler.metastack[-1][-1]
    return unpickler.stack[-3] if code == pickle.SETITEM[0] else {}


def _counted(code: int, operation: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(unpickler: BoundedUnpickler) -> None:
        unpickler.count()
        # Python hashes nested tuples without a limit: a few hundred thousand levels exhaust the stack of the process.
        if any(not isinstance(key, (str, bytes, int)) for key in _keys(code, unpickler.stack)):
            raise ValueError("a key that is neither a string nor a number")
        if not isinstance(_filled(code, unpickler), dict):  # a tensor has numbered places, too
            raise ValueError("keys for something other than a dict")
        # NumPy's and torch's objects take any state, and some crash the process.
        if code == pickle.BUILD[0] and type(unpickler.stack[-2]) not in unpickler.with_state:
            raise ValueError("a state for an object that has none")
        operation(unpickler)

    return run


class BoundedUnpickler(pickle._Unpickler):  # the Python version; the C version has no limits
    """Admits lists, tuples, dicts, strings, numbers and the stand-ins in `known`, and counts operations.

    Args:
        data: the pickle; strings of Python 2 are read as latin1.
        most_operations: maximum number of operations.

    Raises:
        RefusedError: by `load`, if the file asks for a name that is not in `known`. Any other exception of `load` means
            that the pickle is damaged.
    """

    stack: list[Any]  # what follows the last mark; typeshed knows neither this nor the next
    metastack: list[list[Any]]  # what came before each mark
    known: Mapping[tuple[str, str], StandIn] = {}
    """The stand-ins, by module and name."""
    with_state: ClassVar[tuple[type, ...]] = ()
    """The types of those objects made by stand-ins that check the file's state themselves."""
    dispatch: ClassVar = {
        code: _counted(code, operation)
        for code, operation in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in _NOT_NEEDED
    }

    def __init__(self, data: bytes, most_operations: int) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._left = most_operations

    def count(self) -> None:
        """Called before each operation."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many operations")

    def find_class(self, module: str, name: str) -> StandIn:
        """The stand-in for a name; RefusedError if there is none."""
        if (module, name) not in self.known:
            raise RefusedError(f"asks for {escaped(f'{module}.{name}')[:100]}")
        return self.known[module, name]

    def persistent_load(self, pid: Any) -> Any:
        """Raises RefusedError; where a format has outside objects, a subclass reads them."""
        raise RefusedError("refers to outside objects")
