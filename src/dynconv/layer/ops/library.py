"""One C++ file as a library, called through ctypes. Without a compiler everything works, by the other algorithms."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dynconv.layer.ops import processor, targets
from dynconv.layer.ops.build import UnavailableError, built, warn_once


class Library:
    """One C++ file as a library, compiled and loaded when it is first asked for.

    Beside `functions` it exports `dynconv_NAME_release()`, which frees the workspaces kept for the next calls, and
    `dynconv_NAME_workspace_bytes()`, what they take.

    Args:
        source: the file; its stem is the NAME.
        functions: for each exported function, how many integers and then how many arrays it takes. It returns 0, or 1
            where there is not enough memory.
        seconds: about how long it takes to compile.
    """

    def __init__(self, source: Path, functions: Mapping[str, tuple[int, int]], seconds: int) -> None:
        self.name = source.stem
        self._source, self._functions, self._seconds = source, functions, seconds
        self._lock = threading.Lock()
        self._found: ctypes.CDLL | str | None = None

    def available(self) -> bool:
        """Whether the library can be used here; compiles it if that has not been done yet."""
        return not isinstance(self._library(), str)

    def status(self) -> str:
        """One line for people: that the library can be used, or why not and what to do."""
        found = self._library()
        return f"not available: {found}" if isinstance(found, str) else "available"

    def obstacle(self) -> str:
        """Why the library, which would be used now, cannot be; empty if it can.

        The first reason in a process is logged as a warning, since the other algorithms are slower.
        """
        if self.available():
            return ""
        if self._wanted():
            warn_once("operators", f"convolutions take slower algorithms: the {self.name} operator is {self.status()}")
        return self.status()

    def call(self, function: str, integers: tuple[int, ...], *arrays: Tensor | None) -> None:
        """Calls a function that writes into some of the arrays.

        Raises:
            RuntimeError: the library is not available.
            MemoryError: the function found not enough memory.
        """
        library = self._library()
        if isinstance(library, str):
            raise RuntimeError(f"the {self.name} operator is not available: {library}")
        pointers = [None if array is None else array.data_ptr() for array in arrays]
        if getattr(library, function)(*integers, *pointers):
            raise MemoryError(f"{function}: not enough memory for its workspace")

    def release_workspace(self) -> None:
        """Frees the memory that the library keeps for its next calls."""
        library = self._library()
        if not isinstance(library, str):
            getattr(library, f"dynconv_{self.name}_release")()

    def workspace_bytes(self) -> int:
        """Memory kept for the library's next calls and used by calls in progress."""
        library = self._library()
        if isinstance(library, str):
            return 0
        function = getattr(library, f"dynconv_{self.name}_workspace_bytes")
        function.restype = ctypes.c_int64
        return int(function())

    def _wanted(self) -> bool:
        try:
            return processor.limit() != "none"
        except ValueError:
            return True

    def _library(self) -> ctypes.CDLL | str:
        """The library, or the reason why there is none."""
        with self._lock:
            if self._found is None:
                self._found = self._load()
            return self._found

    def _load(self) -> ctypes.CDLL | str:
        for prebuilt in (True, False):
            try:
                with built(self._source, self._seconds, prebuilt) as path:
                    try:
                        library = ctypes.CDLL(str(path))
                    except OSError as error:
                        if path.parent == targets.PREBUILT:  # there is no libgomp, which not every torch brings
                            continue
                        return f"cannot load {path}: {error} (remove it, or name another folder in XDG_CACHE_HOME)"
            except UnavailableError as reason:
                return str(reason)
            break
        for name, (integers, arrays) in self._functions.items():
            function = getattr(library, name)
            function.argtypes = [ctypes.c_int64] * integers + [ctypes.c_void_p] * arrays
            function.restype = ctypes.c_int
        return library
