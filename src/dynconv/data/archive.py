"""Reads the members of a tar archive, plain or gzipped, with bounded memory.

This module parses headers itself because `tarfile` reads long names and pax records whole, whatever size they claim or
have, and remembers every member. Memory holds at most one member, and a few megabytes. Nothing is unpacked to disk, so
a member named `../x` could do no harm; it is refused all the same.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from dynconv.data.dataset import DataError
from dynconv.errors import escaped

LARGEST_BATCH = 40 << 20
"""Maximum bytes of a batch file; an official one has 31 million."""
LARGEST_ARCHIVE = 1 << 30
"""Maximum bytes of an archive of batches once unpacked; the official one has 186 million."""
LARGEST_IMAGES = 1 << 38
"""The same for an archive of images."""
ENDINGS = (".tar.gz", ".tgz", ".tar")
"""How the names of such archives end."""
_LARGEST_RECORD = 64 << 10  # bytes of a long name or of pax records; paths are shorter than 4 KiB
LARGEST_FILE = 256 << 20
"""Maximum bytes of a member whose content is taken."""
_PIECE = 1 << 20
_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _PAX_SOLARIS = b"L", b"K", b"x", b"g", b"X"


def read(
    path: Path, wanted: Collection[str], largest: int = LARGEST_BATCH, largest_archive: int = LARGEST_ARCHIVE
) -> dict[str, bytes]:
    """The contents of the members whose base names are in `wanted`, by base name.

    Args:
        largest: maximum bytes of a wanted member.
        largest_archive: maximum bytes of the archive once unpacked.

    Raises:
        DataError: the file is damaged, not an archive, too large, unsafe, or has none of the wanted members.
    """
    where, found = escaped(str(path)), dict[str, bytes]()
    for member in members(path, largest_archive):
        name = member.path.name
        if not member.is_file or name not in wanted:
            continue
        if name in found:
            raise _refused(where, f"contains {name} twice")
        if member.size > largest:
            raise _refused(where, f"{name} has {member.size:,} bytes")
        found[name] = member.content()
    if not found:
        raise DataError(f"{where}: contains none of the expected files ({', '.join(list(wanted)[:2])}, ...)")
    return found


def files(
    path: Path, wanted: Collection[str], largest: int = LARGEST_BATCH, largest_archive: int = LARGEST_ARCHIVE
) -> dict[str, bytes]:
    """As `read`, but `path` may be a folder as well, of which it takes those of the wanted files that are there.

    Raises:
        DataError: as for `read`; or a file cannot be read.
    """
    if path.is_file():
        return read(path, wanted, largest, largest_archive)
    found = {}
    for file in (path / name for name in wanted if (path / name).is_file()):
        try:
            if (size := file.stat().st_size) > largest:
                raise DataError(f"{escaped(str(file))}: has {size:,} bytes; use the official files")
            found[file.name] = file.read_bytes()
        except OSError as error:
            raise DataError(f"{escaped(str(file))}: cannot be read ({error.strerror})") from error
    return found


@dataclass
class Member:
    """A file or a folder in an archive; its content can be taken until the next one is asked for."""

    path: PurePosixPath
    size: int
    is_file: bool
    _tar: _Tar
    _left: int

    def content(self) -> bytes:
        """Its bytes. Raises DataError where it has so many that they could exhaust the memory."""
        if self.size > LARGEST_FILE:
            raise _refused(self._tar.where, f"{escaped(str(self.path))} has {self.size:,} bytes")
        self._left -= self.size
        try:
            return self._tar.take(self.size)
        except _DAMAGE as error:
            raise _damaged(self._tar.where, error) from error

    def skip(self) -> None:
        self._tar.skip(self._left)


def members(path: Path, largest: int = LARGEST_ARCHIVE) -> Iterator[Member]:
    """Every file and folder, in the order of the archive.

    Args:
        largest: maximum bytes of the archive once unpacked.

    Raises:
        DataError: the file is damaged, not an archive, too large, or unsafe.
    """
    where = escaped(str(path))
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            stream = cast(BinaryIO, gzip.GzipFile(fileobj=file)) if packed else file
            yield from _walk(_Tar(where, stream, largest))
    except _DAMAGE as error:
        raise _damaged(where, error) from error


class _Tar:
    """The unpacked bytes of an archive, counted."""

    def __init__(self, where: str, stream: BinaryIO, largest: int) -> None:
        self.where = where
        self._stream = stream
        self._largest = largest
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

    def claim(self, size: int) -> None:
        """Refuses a member that claims more bytes than an archive may have."""
        if not 0 <= size <= self._largest:
            raise _refused(self.where, f"a member claims {size:,} bytes")

    def _some(self, size: int) -> bytes:
        piece = self._stream.read(min(size, _PIECE))
        self._total += len(piece)
        if self._total > self._largest:
            raise _refused(self.where, f"unpacks to more than {self._largest:,} bytes")
        return piece


_DAMAGE = (tarfile.TarError, EOFError, zlib.error, ValueError, OSError)


def _damaged(where: str, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or escaped(str(error)) or type(error).__name__
    return DataError(f"{where}: truncated or not an archive ({reason}); download it again")


def _refused(where: str, what: str) -> DataError:
    return DataError(f"{where}: {what}; use the official archive")


def _walk(tar: _Tar) -> Iterator[Member]:
    long_name: str | None = None
    while any(header := tar.take(tarfile.BLOCKSIZE)):
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        tar.claim(info.size)
        padding = -info.size % tarfile.BLOCKSIZE
        if info.type in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_GLOBAL, _PAX_SOLARIS):
            if info.size > _LARGEST_RECORD:
                raise _refused(tar.where, f"an extended header has {info.size:,} bytes")
            record = tar.take(info.size)
            tar.skip(padding)
            if info.type == _LONG_NAME:
                long_name = record.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            elif info.type in (_PAX, _PAX_SOLARIS):
                long_name = _pax_path(tar, record) or long_name
            continue
        name = PurePosixPath(long_name or info.name)
        long_name = None
        if name.is_absolute() or ".." in name.parts or not (info.isfile() or info.isdir()):
            shown = escaped(str(name))[:200]
            raise DataError(f"{tar.where}: holds '{shown}', a link or a path that leads outside; refused as unsafe")
        left = 0 if info.isdir() else info.size + padding  # a folder has no content, whatever its header claims
        member = Member(name, info.size, not info.isdir(), tar, left)
        yield member
        member.skip()
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
            raise _refused(tar.where, "contains a sparse or very large member")
    return path
