"""Reads the pickles of CIFAR-10's python version without trusting them.

An ordinary unpickler runs whatever code a file asks for, and even NumPy's own objects can crash the process when they
are given a file's state. Here, a file can access neither: in place of NumPy's functions it gets stand-ins that accept
what the official files contain and raise ValueError otherwise; the array is made from the checked bytes afterwards.
This module uses the unpickler written in Python, whose memory grows only with the file and the counted operations.
"""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from dynconv.data.dataset import DataError
from dynconv.validation import escaped

_MOST_OPERATIONS = 400_000
"""Maximum number of operations; an official batch takes about 75,000."""
_MOST_ENCODED = 64 << 20  # bytes that a file may have encoded from its strings; an official batch has 31 MB

_DTYPE_STATE = (3, "|", None, None, None, -1, -1, 0)
"""What NumPy writes for uint8: version, no byte order, no fields, no flags."""


def load(where: str, data: bytes) -> tuple[np.ndarray, list[int]]:
    """The images, uint8 [N, P], and the labels of one batch.

    Args:
        where: the file's name in messages.
        data: the file's content.

    Raises:
        DataError: the file is damaged, is not a batch, or asks for anything that no batch needs.
    """
    try:
        batch = _Unpickler(where, data).load()
    except DataError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{where}: truncated or damaged ({type(error).__name__}); copy the file again") from error
    if not isinstance(batch, dict) or not {"data", "labels"} <= batch.keys():
        raise DataError(f"{where}: has no 'data' and 'labels'; this is not a CIFAR-10 batch")
    images, labels = batch["data"], batch["labels"]
    if not isinstance(images, _Array) or images.value is None:
        found = "an empty array" if isinstance(images, _Array) else type(images).__name__
        raise DataError(f"{where}: images are {found}, must be an array of uint8")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{where}: labels are not a list of whole numbers")
    return images.value, labels


class _StandIn:
    """What a pickle gets in place of a function; it can be called but accepts no state."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise ValueError("a state for a function")


class _Type:
    """The only type, uint8."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        if state != _DTYPE_STATE:
            raise ValueError("not the type uint8")


class _Array:
    """An array of uint8; its `value` is set once the state is checked."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise ValueError("not the state of an array")
        version, shape, kind, fortran, content = state
        if version != 1 or not isinstance(kind, _Type) or type(fortran) not in (bool, int):
            raise ValueError("not the state of an array of uint8")
        if isinstance(content, str):  # how Python 2 wrote bytes
            content = content.encode("latin1")
        if not isinstance(content, bytes) or not isinstance(shape, tuple) or self.value is not None:
            raise ValueError("not the content of an array")
        if any(type(side) is not int or side < 0 for side in shape) or math.prod(shape) != len(content):
            raise ValueError("a shape that does not match the content")
        flat = np.frombuffer(content, np.uint8)
        self.value = (flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)).copy()


def _type(code: object, *_: object) -> _Type:
    if code != "u1":
        raise ValueError("an array of a type other than uint8")
    return _Type()


def _refuse(*_: object) -> object:
    raise ValueError("a call of a class")


_NOT_NEEDED = (pickle.BYTEARRAY8, pickle.EMPTY_SET, pickle.ADDITEMS, pickle.FROZENSET)
"""A bytearray reserves whatever length the file claims; sets hash their items, like the keys of a dict."""


def _keys(code: int, stack: list[Any]) -> list[Any]:
    """The keys that an operation is about to put into a dict."""
    if code in (pickle.SETITEMS[0], pickle.DICT[0]):  # the stack begins at the mark
        return stack[::2]
    return stack[-2:-1] if code == pickle.SETITEM[0] else []


def _counted(code: int, operation: Callable[[Any], None]) -> Callable[[Any], None]:
    def run(unpickler: _Unpickler) -> None:
        unpickler.count()
        # Python hashes nested tuples without a limit: a few hundred thousand levels exhaust the stack of the process.
        if any(not isinstance(key, (str, bytes)) for key in _keys(code, unpickler.stack)):
            raise ValueError("a key that is not a string")
        operation(unpickler)

    return run


class _Unpickler(pickle._Unpickler):  # the Python version; the C version has no limits
    """Admits lists, dicts, strings, numbers and the stand-ins, and counts operations."""

    stack: list[Any]  # what follows the last mark; typeshed does not know it
    dispatch: ClassVar = {
        code: _counted(code, operation)
        for code, operation in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in _NOT_NEEDED
    }

    def __init__(self, where: str, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._where = where
        self._operations = self._encoded = self._arrays = 0
        array_class = _StandIn(_refuse)

        def reconstruct(kind: object, shape: object, code: object) -> _Array:
            if kind is not array_class or shape != (0,) or self._arrays:
                raise ValueError("not the reconstruction of the one array")
            self._arrays += 1
            return _Array()

        self._known: dict[tuple[str, str], _StandIn] = {
            ("numpy", "ndarray"): array_class,
            ("numpy", "dtype"): _StandIn(_type),
            ("numpy.core.multiarray", "_reconstruct"): _StandIn(reconstruct),
            ("numpy._core.multiarray", "_reconstruct"): _StandIn(reconstruct),
            ("_codecs", "encode"): _StandIn(self._encode),  # bytes, as Python 3 writes them into protocol 2
        }

    def count(self) -> None:
        """Called before each operation."""
        self._operations += 1
        if self._operations > _MOST_OPERATIONS:
            raise ValueError("more operations than a batch needs")

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in for a name; DataError if there is none."""
        found = self._known.get((module, name))
        if found is None:
            asked = escaped(f"{module}.{name}")[:100]
            raise DataError(f"{self._where}: asks for {asked}, which no CIFAR-10 file needs; refused as unsafe")
        return found

    def persistent_load(self, pid: Any) -> Any:
        """Raises DataError, because no CIFAR-10 file needs this."""
        raise DataError(f"{self._where}: refers to outside objects, which no CIFAR-10 file does; refused as unsafe")

    def _encode(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("not bytes")
        self._encoded += len(text)
        if self._encoded > _MOST_ENCODED:
            raise ValueError("more bytes than a batch has")
        return text.encode("latin1")
