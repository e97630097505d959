"""What can be loaded: named data sets, and formats of data on disk. Each registers itself.

To add a data set, decorate its function with `data_set`. To add a format, decorate its reader with `form`. Then import
the module in `data/__init__.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from dynconv.data.dataset import Dataset
from dynconv.data.frame import DataConfig
from dynconv.data.listing import Listing

Get = TypeVar("Get", bound=Callable[[int, DataConfig], Dataset])
Read = TypeVar("Read", bound=Callable[[Path, DataConfig], Dataset])


@dataclass(frozen=True)
class Named:
    """A data set that needs no path.

    Attributes:
        name: the value of `--data`.
        title: the name in messages.
        classes: class names, in the order of the labels.
        archive: names of the files that `get` downloads; empty if `get` generates the images.
        mirrored: whether a mirrored image is still one of its class; false for digits.
        train_images: number of training images of a download without images for validation; 0 where it may have some.
        get: downloads or generates the images; takes a seed, and how images of other sizes are to be read, which it may
            leave to its caller. Raises DataError.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    archive: str
    mirrored: bool
    train_images: int
    get: Callable[[int, DataConfig], Dataset]


@dataclass(frozen=True)
class Form:
    """A format of data on disk.

    Attributes:
        description: the files by which users recognise it.
        find: returns where under a path this format is, or None; looks at names, those in archives included.
        read: reads what `find` found. How images of other sizes are to be read is its second argument; a reader may as
            well return them as they are, all of one size. Raises DataError.
        missing: if `find` returns None but a path holds part of this format: what is missing, and what to do.
        find_named: as `find`, for a path that the user has named and where no `find` found anything: may accept what is
            less surely of this format.
        list_images: lists the image files of what `find` found, where a form has such. Raises DataError.
    """

    description: str
    find: Callable[[Path], Path | None]
    read: Callable[[Path, DataConfig], Dataset]
    missing: Callable[[Path], str | None] = lambda _: None
    list_images: Callable[[Path], Listing] | None = None
    find_named: Callable[[Path], Path | None] = lambda _: None


NAMED: dict[str, Named] = {}
"""The registered data sets by name. `auto` takes the first, or else the first that is generated."""

FORMS: list[Form] = []
"""The registered formats. A path that holds several is read as the first of them."""


def data_set(
    name: str,
    title: str,
    classes: tuple[str, ...],
    archive: str = "",
    *,
    mirrored: bool = True,
    train_images: int = 0,
) -> Callable[[Get], Get]:
    """Registers the decorated function, `Named.get`, as the data set `name`."""

    def register(get: Get) -> Get:
        NAMED[name] = Named(name, title, classes, archive, mirrored, train_images, get)
        return get

    return register


def form(
    description: str,
    find: Callable[[Path], Path | None],
    missing: Callable[[Path], str | None] = lambda _: None,
    list_images: Callable[[Path], Listing] | None = None,
    find_named: Callable[[Path], Path | None] = lambda _: None,
) -> Callable[[Read], Read]:
    """Registers the decorated function as the reader of what `find` finds."""

    def register(read: Read) -> Read:
        FORMS.append(Form(description, find, read, missing, list_images, find_named))
        return read

    return register
