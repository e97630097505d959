"""Reads what `torch.save` wrote, without `torch.load`: no file can crash the process or take more memory than it has.

The file is a zip archive with one pickle and the bytes of each tensor, all stored without compression. The archive
holds a checksum (CRC-32) of each, which `torch.load` does not look at; here, damage is found in files of any version.
"""

from __future__ import annotations

import math
import sys
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynconv.data.bounded_pickle import BoundedUnpickler, StandIn

_MOST_OPERATIONS = 2_000_000
"""Maximum number of operations; the state of six blocks takes about 5,000."""

_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
}


def read(path: Path) -> Any:
    """The tree of dicts, lists, tuples, numbers, strings and tensors in the file. Tensors are on the CPU.

    Raises:
        OSError: the file cannot be read.
        RefusedError: the pickle asks for something other than tensors.
        Exception: the file is damaged, which can fail in any way.
    """
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        stored = all(member.compress_type == zipfile.ZIP_STORED for member in members)
        if not stored or sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("an archive that expands")
        (name,) = (member.filename for member in members if member.filename.endswith("/data.pkl"))
        return _Unpickler(archive, name.removesuffix("data.pkl")).load()


class _Dict(dict[Any, Any]):
    """An OrderedDict; what a module's state has beside its tensors is not needed."""

    def __setstate__(self, state: object) -> None:
        pass


class _Unpickler(BoundedUnpickler):
    with_state = (_Dict,)

    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.read(f"{root}data.pkl"), _MOST_OPERATIONS)
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != sys.byteorder.encode():
            raise ValueError("numbers in the order of another machine")
        self._archive, self._root = archive, root
        self._storages: dict[str, Tensor] = {}
        self._storage_types = {StandIn(_refuse): dtype for dtype in _TYPES.values()}
        self.known = {
            ("collections", "OrderedDict"): StandIn(lambda: _Dict()),
            ("torch._utils", "_rebuild_tensor_v2"): StandIn(_tensor),
            **{("torch", name): kind for name, kind in zip(_TYPES, self._storage_types, strict=True)},
        }

    def persistent_load(self, pid: Any) -> Tensor:
        """The flat tensor of a storage."""
        what, kind, key, _, count = pid
        if what != "storage" or type(kind) is not StandIn or type(key) is not str or type(count) is not int:
            raise ValueError("not a storage")
        if key not in self._storages:
            content = bytearray(self._archive.read(f"{self._root}data/{key}"))
            dtype = self._storage_types[kind]
            self._storages[key] = torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)
        return self._storages[key]


def _tensor(storage: object, offset: object, size: object, stride: object, *_: object) -> Tensor:
    """A view of a storage. It never has more elements than the storage, so no tensor expands."""
    if not isinstance(storage, Tensor) or not isinstance(size, tuple) or not isinstance(stride, tuple):
        raise ValueError("not a tensor")
    if any(type(number) is not int or number < 0 for number in (offset, *size, *stride)):
        raise ValueError("not the shape of a tensor")
    if math.prod(size) > len(storage):
        raise ValueError("a tensor larger than its content")
    return storage.as_strided(size, stride, offset)  # type: ignore[arg-type]  # torch checks the bounds


def _refuse(*_: object) -> object:
    raise ValueError("a call of a type")
