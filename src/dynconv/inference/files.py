"""Image files: found from the words of a command line, read in the background, copied by class."""

from __future__ import annotations

import io
import logging
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self

from torch import Tensor

from dynconv.artifacts.files import write_atomically
from dynconv.data.dataset import DataError
from dynconv.data.frame import Frame
from dynconv.data.image import ENDINGS
from dynconv.data.tree import FolderTree, is_hidden
from dynconv.errors import DynconvError, escaped
from dynconv.inference.predictor import to_pixels

logger = logging.getLogger(__name__)

STANDARD_INPUT = "-"


def find(words: Sequence[str]) -> list[str]:
    """The images that the words name: files as they are, and the image files below folders, sorted.

    Hidden files and folders are passed over; files with other endings are counted and logged.

    Raises:
        DynconvError: a folder cannot be read or has no images, or standard input is named twice.
    """
    found: list[str] = []
    for word in words:
        is_folder = word != STANDARD_INPUT and os.path.isdir(word)  # noqa: PTH112 - Path.is_dir() raises on a name that is too long
        found += _images_below(Path(word)) if is_folder else [word]
    if found.count(STANDARD_INPUT) > 1:
        raise DynconvError("-: standard input holds one image, so it can be named only once")
    return found


def _images_below(folder: Path) -> list[str]:
    files = list(_files_below(folder))
    images = [str(path) for path in sorted(files) if path.suffix.lower() in ENDINGS]
    if not images:
        raise DynconvError(f"{escaped(str(folder))}: has no files with the ending of an image, such as .png or .jpg")
    if others := len(files) - len(images):
        count = (
            "1 file without the ending of an image is"
            if others == 1
            else f"{others} files without the ending of an image are"
        )
        logger.info("%s: %s left out", escaped(str(folder)), count)
    return images


def _files_below(folder: Path) -> Iterator[Path]:
    try:
        for entry in FolderTree(folder).entries():
            if entry.kind != "folder" and not is_hidden(entry.parts[-1]):
                yield folder.joinpath(*entry.parts)
    except OSError as error:
        raise DynconvError(f"{escaped(str(error.filename))}: cannot be read ({error.strerror})") from error


class Reader:
    """Reads images in the background. Small files go to a single thread: decoding one takes less time than handing the
    interpreter's lock from thread to thread. Photographs are read several at once.

    Args:
        frame: what becomes of other sizes and shapes.
    """

    SMALL = 16 << 10  # bytes of a file

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def __enter__(self) -> Self:
        self._one, self._many = ThreadPoolExecutor(1), ThreadPoolExecutor()
        return self

    def __exit__(self, *_: object) -> None:
        for pool in (self._one, self._many):
            pool.shutdown(cancel_futures=True)

    def submit(self, source: str) -> Future[Tensor | str]:
        """The pixels, or why there are none."""
        try:
            small = source == STANDARD_INPUT or Path(source).stat().st_size <= self.SMALL
        except (OSError, ValueError):  # reading the file will tell what is wrong with it
            small = True
        return (self._one if small else self._many).submit(_read, source, self._frame)


def _read(source: str, frame: Frame) -> Tensor | str:
    """The pixels, or why there are none."""
    try:
        if source == STANDARD_INPUT:
            return to_pixels(io.BytesIO(sys.stdin.buffer.read()), frame, "standard input")
        return to_pixels(Path(source), frame, escaped(source))
    except DataError as error:
        return str(error)


def copy_by_class(source: str, label: str, folder: Path) -> Path:
    """Copies an image into folder/<class>; if its name is taken, under its name with a number.

    Raises:
        DynconvError: the copy cannot be written, or the image is standard input, which has no name.
    """
    if source == STANDARD_INPUT:
        raise DynconvError("copy-to: standard input has no name to copy it under; name image files")
    file = Path(source)
    target = folder / re.sub(r"[/\\]|^\.+$", "_", label) / file.name  # a class name is not a path
    number = 1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while target.exists():
            number += 1
            target = target.with_name(f"{file.stem}-{number}{file.suffix}")
    except OSError as error:
        where = escaped(str(target))
        raise DynconvError(f"{where}: cannot be written ({error.strerror}); choose another --copy-to") from error
    write_atomically(target, lambda partial: shutil.copy2(file, partial))
    return target
