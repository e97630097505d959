"""Who trains a run: a lock that one process holds, across hosts too.

The file `lock` in the run's directory names the process. Two things keep a second one out: the system's lock on the
file, which ends with the process however it ends, and, where there is none or another host cannot see it, the file's
age: its holder touches it every `HEARTBEAT` seconds, and after `STALE` seconds without that it counts as dead.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from dynconv.errors import DynconvError

fcntl: ModuleType | None
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

HEARTBEAT, STALE = 20.0, 120.0
_UNSEEN = f"; if it has died, wait {STALE:.0f} s"

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(run: Path) -> Iterator[None]:
    """Holds the lock of a run, and removes what a killed process left half-written.

    Raises:
        DynconvError: another process holds it; or the directory cannot be written.
    """
    file = run / "lock"
    try:
        handle = _open(file)
    except OSError as error:
        raise DynconvError(f"{file}: cannot be written ({error.strerror or error})") from error
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(handle, ended), daemon=True)
    try:
        os.ftruncate(handle, 0)
        os.lseek(handle, 0, os.SEEK_SET)
        os.write(handle, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        for partial in run.glob(".*.partial"):
            partial.unlink(missing_ok=True)
        beating.start()
        yield
    finally:
        ended.set()
        with contextlib.suppress(OSError):  # as on a disk that has vanished
            file.unlink(missing_ok=True)
        if beating.ident is not None:
            beating.join()
        os.close(handle)


def _open(file: Path) -> int:
    """The file, locked. Raises DynconvError if another process holds it."""
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            mine = _take(handle)
            holder = _holder(handle)
            elsewhere = holder.get("host") != socket.gethostname()
            if mine is False or (holder and (mine is None or elsewhere) and _age(file, handle) < STALE):
                raise DynconvError(
                    f"{file.parent}: process {holder.get('pid', '?')} on {holder.get('host', 'this host')} is training "
                    f"this run; wait until it ends, or end it{_UNSEEN if mine is not False else ''}"
                )
            if os.path.samestat(os.fstat(handle), file.stat()):
                if holder:
                    logger.info("the process that trained this run before, %s, has died", holder.get("pid", "?"))
                return handle
        except FileNotFoundError:  # its holder has just ended, and removed it
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _take(handle: int) -> bool | None:
    """Takes the system's lock on the file, if no other process has it; None where there are no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True


def _holder(handle: int) -> dict[str, Any]:
    """What the file says; nothing if it is new, or was not written to its end."""
    try:
        content = json.loads(os.read(handle, 1000))
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _age(file: Path, handle: int) -> float:
    """Seconds since the file was touched, by the clock of the file system."""
    with tempfile.NamedTemporaryFile(dir=file.parent, prefix=".now.", suffix=".partial") as now:
        return os.fstat(now.fileno()).st_mtime - os.fstat(handle).st_mtime


def _beat(handle: int, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with contextlib.suppress(OSError):
            os.utime(handle)
