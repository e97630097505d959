"""Reads named members of a tar archive, plain or gzipped, with bounded memory.

This module parses headers itself because `tarfile` reads long names and pax records whole, whatever size they claim or
have, and remembers every member. Memory holds at most the wanted members, `LARGEST_MEMBER` each, and a few megabytes.
Nothing is unpacked to disk, so a member named `../x` could do no harm; it is refused all the same.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from dynconv.data.dataset import DataError
from dynconv.errors import escaped

LARGEST_MEMBER = 40 << 20
"""Maximum bytes of a member; an official batch has 31 million."""
LARGEST_ARCHIVE = 1 << 30
"""Maximum bytes once unpacked; the official archive has 186 million."""
_LARGEST_RECORD = 64 << 10  # bytes of a long name or of pax records; paths are shorter than 4 KiB
_PIECE = 1 << 20
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _PAX_SOLARIS = b"L", b"K", b"x", b"g", b"X"


def read(path: Path, wanted: Collection[str]) -> dict[str, bytes]:
    """The contents of the members whose base names are in `wanted`, by base name.

    Raises:
        DataError: the file is damaged, not an archive, too large, unsafe, or has none of the wanted members.
    """
    where, found = escaped(str(path)), dict[str, bytes]()
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
            _walk(_Tar(where, stream), wanted, found)
    except (tarfile.TarError, EOFError, zlib.error, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or escaped(str(error)) or type(error).__name__
        raise DataError(f"{where}: truncated or not an archive ({reason}); download it again") from error
    if not found:
        raise DataError(f"{where}: contains none of the expected files ({', '.join(list(wanted)[:2])}, ...)")
    return found


class _Tar:
    """The unpacked bytes of an archive, counted."""

    def __init__(self, where: str, stream: BinaryIO) -> None:
        self.where = where
        self._stream = stream
        self._total = 0

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises EOFError if the archive ends before them."""
        pieces = []
        while size:
            piece = self._some(size)
            if not piece:
                raise EOFError("it ends in the middle")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def skip(self, size: int) -> None:
        """Skips `size` bytes."""
        while size:
            piece = self._some(size)
            if not piece:
                raise EOFError("it ends in the middle")
            size -= len(piece)

    def drain(self) -> None:
        """Reads to the end, where gzip has its checksum."""
        while self._some(_PIECE):
            pass

    def _some(self, size: int) -> bytes:
        piece = self._stream.read(min(size, _PIECE))
        self._total += len(piece)
        if self._total > LARGEST_ARCHIVE:
            raise self.refused(f"unpacks to more than {LARGEST_ARCHIVE:,} bytes")
        return piece

    def refused(self, what: str) -> DataError:
        """The error for an archive that is not the official one."""
        return DataError(f"{self.where}: {what}; use the official archive")


def _walk(tar: _Tar, wanted: Collection[str], found: dict[str, bytes]) -> None:
    long_name: str | None = None
    while any(header := tar.take(tarfile.BLOCKSIZE)):
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        if not 0 <= member.size <= LARGEST_ARCHIVE:
            raise tar.refused(f"a member claims {member.size:,} bytes")
        padding = -member.size % tarfile.BLOCKSIZE
        if member.type in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _PAX_SOLARIS):
            if member.size > _LARGEST_RECORD:
                raise tar.refused(f"an extended header has {member.size:,} bytes")
            record = tar.take(member.size)
            tar.skip(padding)
            if member.type == _LONG_NAME:
                long_name = record.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif member.type in (_PAX, _PAX_SOLARIS):
                long_name = _pax_path(tar, record) or long_name
            continue
        name = PurePosixPath(long_name or member.name)
        long_name = None
        if name.is_absolute() or ".." in name.parts or not (member.isfile() or member.isdir()):
            shown = escaped(str(name))[:200]
            raise DataError(f"{tar.where}: holds '{shown}', a link or a path that leads outside; refused as unsafe")
        if member.isdir():  # has no content, whatever size its header claims
            continue
        if name.name not in wanted:
            tar.skip(member.size + padding)
            continue
        if name.name in found:
            raise tar.refused(f"contains {name.name} twice")
        if member.size > LARGEST_MEMBER:
            raise tar.refused(f"{name.name} has {member.size:,} bytes")
        found[name.name] = tar.take(member.size)
        tar.skip(padding)
    tar.drain()


def _pax_path(tar: _Tar, record: bytes) -> str | None:
    """The path in pax records, each `LENGTH KEY=VALUE\\n`; None if they contain none."""
    path = None
    while record:
        digits, _, _ = record[:10].partition(b" ")
        length = int(digits)
        if length <= len(digits) + 1 or length > len(record):
            raise ValueError("damaged pax header")
        key, _, value = record[len(digits) + 1 : length].rstrip(b"\n").partition(b"=")
        record = record[length:]
        if key == b"path":
            path = value.decode("utf-8", "surrogateescape")
        elif key == b"size" or key.startswith(b"GNU.sparse"):
            raise tar.refused("contains a sparse or very large member")
    return path
