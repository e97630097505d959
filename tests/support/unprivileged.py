"""Permissions that count, also for root, whom the kernel lets pass otherwise."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path

_VERSION_3 = 0x20080522
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


@contextlib.contextmanager
def closed(path: Path, mode: int = 0) -> Iterator[None]:
    """`path` with this mode, for this thread; root does without the capabilities that override modes."""
    before = path.stat().st_mode
    path.chmod(mode)
    try:
        with _without_overriding() if sys.platform == "linux" and os.geteuid() == 0 else contextlib.nullcontext():
            yield
    finally:
        path.chmod(before)


@contextlib.contextmanager
def _without_overriding() -> Iterator[None]:
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = _Header(_VERSION_3, 0), (_Data * 2)()
    assert libc.capget(ctypes.byref(header), data) == 0
    effective = data[0].effective
    data[0].effective &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    assert libc.capset(ctypes.byref(header), data) == 0
    try:
        yield
    finally:
        data[0].effective = effective
        assert libc.capset(ctypes.byref(header), data) == 0
