"""Reads the pickles of the python versions of CIFAR-10 and CIFAR-100 without trusting them.

An ordinary unpickler runs whatever code a file asks for, and even NumPy's own objects can crash the process when they
are given a file's state. Here, a file can access neither: in place of NumPy's functions it gets stand-ins that accept
what the official files contain and raise ValueError otherwise; the array is made from the checked bytes afterwards.
"""

from __future__ import annotations

import math

import numpy as np

from dynconv.data.bounded_pickle import BoundedUnpickler, RefusedError, StandIn
from dynconv.data.dataset import DataError

_MOST_OPERATIONS = 40
"""Maximum number of operations for each image; an official batch takes about 7.5."""
_MOST_ENCODED = 6400  # bytes that a file may have encoded from its strings for each image; an official batch has 3100

_DTYPE_STATE = (3, "|", None, None, None, -1, -1, 0)
"""What NumPy writes for uint8: version, no byte order, no fields, no flags."""


def load(where: str, data: bytes, key: str = "labels", images: int = 10_000) -> tuple[np.ndarray, list[int]]:
    """The images, uint8 [N, P], and the labels of one batch.

    Args:
        where: the file's name in messages.
        data: the file's content.
        key: the name of the labels in it.
        images: how many images an official file has; others take as many resources at most.

    Raises:
        DataError: the file is damaged, is not a batch, or asks for anything that no batch needs.
    """
    try:
        batch = _Unpickler(data, images).load()
    except RefusedError as error:
        raise DataError(f"{where}: {error}, which no CIFAR file does; refused as unsafe") from error
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{where}: truncated or damaged ({type(error).__name__}); copy the file again") from error
    if not isinstance(batch, dict) or not {"data", key} <= batch.keys():
        raise DataError(f"{where}: has no 'data' and '{key}'; this is not a CIFAR batch")
    pixels, labels = batch["data"], batch[key]
    if not isinstance(pixels, _Array) or pixels.value is None:
        found = "an empty array" if isinstance(pixels, _Array) else type(pixels).__name__
        raise DataError(f"{where}: images are {found}, must be an array of uint8")
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{where}: labels are not a list of whole numbers")
    return pixels.value, labels


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


class _Unpickler(BoundedUnpickler):
    """Admits what a batch is made of; makes one array at most."""

    with_state = (_Type, _Array)

    def __init__(self, data: bytes, images: int) -> None:
        super().__init__(data, _MOST_OPERATIONS * images)
        self._most_encoded = _MOST_ENCODED * images
        self._encoded = self._arrays = 0
        array_class = StandIn(_refuse)

        def reconstruct(kind: object, shape: object, code: object) -> _Array:
            if kind is not array_class or shape != (0,) or self._arrays:
                raise ValueError("not the reconstruction of the one array")
            self._arrays += 1
            return _Array()

        self.known = {
            ("numpy", "ndarray"): array_class,
            ("numpy", "dtype"): StandIn(_type),
            ("numpy.core.multiarray", "_reconstruct"): StandIn(reconstruct),
            ("numpy._core.multiarray", "_reconstruct"): StandIn(reconstruct),
            ("_codecs", "encode"): StandIn(self._encode),  # bytes, as Python 3 writes them into protocol 2
        }

    def _encode(self, text: object, encoding: object) -> bytes:
        if not isinstance(text, str) or encoding != "latin1":
            raise ValueError("not bytes")
        self._encoded += len(text)
        if self._encoded > self._most_encoded:
            raise ValueError("more bytes than a batch has")
        return text.encode("latin1")
