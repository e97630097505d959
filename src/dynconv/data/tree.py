"""The files below a folder or in an archive, read where they are: nothing is unpacked to disk."""

from __future__ import annotations

import io
import os
import stat
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Literal

from dynconv.data import archive
from dynconv.data.dataset import DataError
from dynconv.errors import escaped

Parts = tuple[str, ...]
"""A path below a tree: the names of its folders, and its own."""
Content = Path | BinaryIO


@dataclass(frozen=True)
class Entry:
    """A file or a folder; `broken` for what is neither, such as a link to nothing or a socket."""

    parts: Parts
    kind: Literal["file", "folder", "broken"]


class Store(ABC):
    """Files that can be read by their names.

    Attributes:
        path: of the folder or archive.
        in_any_order: whether a file can be read without those before it.
    """

    in_any_order = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @abstractmethod
    def contents(self, files: Sequence[Parts]) -> Iterator[tuple[int, Content]]:
        """Each file, as its position in `files` and its content; in the order in which they are read fastest."""

    def name_of(self, parts: Parts) -> str:
        """A file's name in messages."""
        return escaped(str(self.path.joinpath(*parts)))


class Tree(Store):
    """Files in folders."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Everything in the tree, but nothing below hidden folders. Raises OSError or DataError."""


def tree_at(path: Path) -> Tree:
    """The folder or archive at `path`."""
    if path.is_dir():
        return FolderTree(path)
    return ZipTree(path) if path.suffix.lower() == ".zip" else TarTree(path)


def is_archive(path: Path) -> bool:
    """Whether `path` is a file with the name of an archive."""
    return path.name.lower().endswith((*archive.ENDINGS, ".zip")) and path.is_file()


def is_hidden(name: str) -> bool:
    """Whether users do not see a file or folder of this name; `__MACOSX` is what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


class FolderTree(Tree):
    """Links are followed, but never into a folder that contains them."""

    def entries(self) -> Iterator[Entry]:
        yield from self._below(self.path, (), frozenset({_identity(self.path)}))

    def _below(self, folder: Path, parts: Parts, above: frozenset[tuple[int, int]]) -> Iterator[Entry]:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in entries:
            own = (*parts, entry.name)
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError:  # a link to itself, or to a place that may not be searched
                is_folder = is_file = False
            if is_folder:
                identity = _identity(Path(entry.path))
                if identity in above:
                    continue
                yield Entry(own, "folder")
                if not is_hidden(entry.name):
                    yield from self._below(Path(entry.path), own, above | {identity})
            else:
                yield Entry(own, "file" if is_file else "broken")

    def contents(self, files: Sequence[Parts]) -> Iterator[tuple[int, Content]]:
        yield from ((position, self.path.joinpath(*parts)) for position, parts in enumerate(files))


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


class ZipTree(Tree):
    """Members that are links or lead outside are refused, as is one that unpacks to too many bytes."""

    def entries(self) -> Iterator[Entry]:
        with self._opened() as file:
            for member in file.infolist():
                parts = PurePosixPath(member.filename).parts
                if ".." in parts or member.filename.startswith("/") or stat.S_ISLNK(member.external_attr >> 16):
                    raise DataError(
                        f"{self.name_of(())}: holds '{escaped(member.filename)[:200]}', a link or a path that leads "
                        "outside; refused as unsafe"
                    )
                if parts and not any(map(is_hidden, parts[:-1])):
                    yield Entry(parts, "folder" if member.is_dir() else "file")

    def contents(self, files: Sequence[Parts]) -> Iterator[tuple[int, Content]]:
        with self._opened() as file:
            members = {PurePosixPath(member.filename).parts: member for member in file.infolist()}
            for position, parts in enumerate(files):
                yield position, io.BytesIO(self._read(file, members[parts], self.name_of(parts)))

    def _read(self, file: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> bytes:
        try:
            with file.open(member) as stream:
                content = stream.read(archive.LARGEST_FILE + 1)
        except RuntimeError as error:  # of an encrypted member
            raise DataError(f"{where}: is encrypted; unpack the archive first") from error
        except (zipfile.BadZipFile, EOFError, NotImplementedError, ValueError, OSError, zlib.error) as error:
            raise DataError(f"{where}: cannot be unpacked ({escaped(str(error))}); copy the archive again") from error
        if len(content) > archive.LARGEST_FILE:
            raise DataError(f"{where}: unpacks to more than {archive.LARGEST_FILE:,} bytes; remove it")
        return content

    def _opened(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            raise DataError(
                f"{self.name_of(())}: truncated or not a zip archive ({escaped(str(error))}); copy it again"
            ) from error


class TarTree(Tree):
    """Plain or gzipped; see `archive.members` for what is refused."""

    in_any_order = False

    def entries(self) -> Iterator[Entry]:
        for member in archive.members(self.path, archive.LARGEST_IMAGES):
            if member.path.parts and not any(map(is_hidden, member.path.parts[:-1])):
                yield Entry(member.path.parts, "file" if member.is_file else "folder")

    def contents(self, files: Sequence[Parts]) -> Iterator[tuple[int, Content]]:
        positions = {parts: position for position, parts in enumerate(files)}
        for member in archive.members(self.path, archive.LARGEST_IMAGES):
            position = positions.pop(member.path.parts, None) if member.is_file else None
            if position is not None:
                yield position, io.BytesIO(member.content())
