"""Our C++ operators: built by the compiler at first use, cached, called through ctypes.

Without a compiler everything works, by the other algorithms; `Native.status` says why there is none.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent
# Not -ffast-math: linking with it flushes denormals to zero in the whole process.
_FLAGS = "-std=c++17 -O2 -march=native -fno-math-errno -fno-trapping-math -fno-signed-zeros -fopenmp -fPIC -shared"


class _Unavailable(Exception):
    pass


class Native:
    """One C++ file of this folder as a library.

    Args:
        name: of the file, without its ending.
        functions: for each exported function, how many integers and then how many arrays it takes. It returns 0, or 1
            where there is not enough memory.
        seconds: about how long it takes to compile.
    """

    def __init__(self, name: str, functions: Mapping[str, tuple[int, int]], seconds: int) -> None:
        self.name = name
        self._functions = functions
        self._seconds = seconds

    def available(self) -> bool:
        """Whether the library can be used here; builds it if that has not been done yet."""
        return not isinstance(self._library, str)

    def status(self) -> str:
        """One line for people: that the library is live, or why not."""
        return "available" if self.available() else f"not available: {self._library}"

    def call(self, function: str, integers: tuple[int, ...], *arrays: Tensor | None) -> None:
        """Calls a function that writes into some of the arrays.

        Raises:
            RuntimeError: the library is not available.
            MemoryError: the function found not enough memory.
        """
        library = self._library
        if isinstance(library, str):
            raise RuntimeError(f"the {self.name} operator is not available: {library}")
        pointers = [None if array is None else array.data_ptr() for array in arrays]
        if getattr(library, function)(*integers, *pointers):
            raise MemoryError(f"{function}: not enough memory for its work space")

    def run(self, function: str) -> None:
        """Calls a function without arguments, if the library is there."""
        if not isinstance(self._library, str):
            getattr(self._library, function)()

    @cached_property
    def _library(self) -> ctypes.CDLL | str:
        """The built library, or the reason why there is none."""
        try:
            library = ctypes.CDLL(str(self._build()))
        except (_Unavailable, OSError) as reason:
            return str(reason)
        for name, (integers, arrays) in self._functions.items():
            function = getattr(library, name)
            function.argtypes = [ctypes.c_int64] * integers + [ctypes.c_void_p] * arrays
            function.restype = ctypes.c_int
        return library

    def _build(self) -> Path:
        compiler = shutil.which(os.environ.get("CXX", "g++"))
        if compiler is None:
            raise _Unavailable("no C++ compiler found (install g++, or name one in CXX)")
        target = _cache_directory() / f"{self.name}-{self._digest(compiler)}.so"
        if target.exists():
            return target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                built = Path(folder) / target.name
                command = [compiler, *_FLAGS.split(), str(_FOLDER / f"{self.name}.cpp"), "-o", str(built)]
                # Nobody expects the first forward pass to take that long.
                notice = f"dynconv: compiling its operator `{self.name}`, once, about {self._seconds} seconds"
                print(notice, file=sys.stderr, flush=True)
                result = subprocess.run(command, capture_output=True, text=True, check=False)
                if result.returncode:
                    first = (result.stderr.strip().splitlines() or ["no message"])[0]
                    raise _Unavailable(f"{compiler} could not compile it: {first}")
                built.replace(target)
        except OSError as error:
            raise _Unavailable(f"cannot write the cache {target.parent}: {error.strerror}") from error
        return target

    def _digest(self, compiler: str) -> str:
        """Of all that the library depends on. -march=native: a cache that several machines share must not hand one the
        other's instructions."""
        version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
        sources = [_FOLDER / f"{self.name}.cpp", *sorted(_FOLDER.glob("*.h"))]
        key = (version, _FLAGS, torch.backends.cpu.get_cpu_capability(), platform.processor(), _cpu_flags())
        content = b"".join(source.read_bytes() for source in sources) + "\n".join(key).encode()
        return hashlib.sha256(content).hexdigest()[:16]


def _cache_directory() -> Path:
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dynconv"
    except RuntimeError as error:
        raise _Unavailable("there is no home directory for the cache; name a folder in XDG_CACHE_HOME") from error


def _cpu_flags() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def nhwc(x: Tensor) -> Tensor:
    """x [N, C, H, W] with channels contiguous; `contiguous` alone lets pass a batch of one or a 1x1 map with other
    strides."""
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
