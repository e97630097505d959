"""Finds the data set that `--data` names, in the usual places and in any registered format."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dynconv.data import places
from dynconv.data.dataset import DataError, Dataset
from dynconv.data.frame import DataConfig
from dynconv.data.framing import in_frame
from dynconv.data.listing import Listing
from dynconv.data.registry import FORMS, NAMED, Form, Named
from dynconv.errors import escaped

logger = logging.getLogger(__name__)

AUTO = "auto"


def expand(path: str) -> Path:
    """The path with `~` expanded. Raises DataError if there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{escaped(path)}: there is no such home directory; write the path in full") from error


def load(source: str, *, seed: int = 0, wanted: DataConfig | None = None) -> Dataset:
    """The data set that `source` names.

    Args:
        source: the name of a registered data set, `auto`, or a path to a folder or an archive. A data set that can be
            downloaded is read from $DYNCONV_DATA, else ./data, else the cache, else it is downloaded. `auto` reads any
            data set in these places, else downloads the first registered one, else generates one.
        seed: seed of a generated data set.
        wanted: how images of other sizes and shapes are read; by default as `DataConfig` has it.

    Raises:
        DataError: nothing was found, or the data found is damaged or not the named data set. Damaged data is never
            skipped in favour of the next place.
    """
    wanted = wanted or DataConfig()
    return in_frame(_found(source, seed, wanted), wanted)


def _found(source: str, seed: int, wanted: DataConfig) -> Dataset:
    if source not in (AUTO, *NAMED):
        path = expand(source)
        if not os.path.exists(path):  # noqa: PTH110 - Path.exists() raises where a folder cannot be searched
            names = ", ".join((AUTO, *NAMED))
            raise DataError(
                f"{escaped(source)}: does not exist; give a path to a folder or an archive, or one of {names}"
            )
        return read(path, wanted)
    asked = NAMED[source] if source != AUTO else next(iter(NAMED.values()))
    if not asked.archive:
        return asked.get(seed, wanted)
    if named := os.environ.get(places.VARIABLE):
        return _accepted(read(expand(named), wanted), asked, source, f"${places.VARIABLE}, {named},")
    for place in _places(asked):
        if found_at(place):
            dataset = read(place, wanted)
            if dataset.name != asked.name and dataset.name in NAMED and source != AUTO:
                logger.info("%s holds %s, not %s", place, NAMED[dataset.name].title, asked.title)
                continue
            return _accepted(dataset, asked, source, str(place))
    try:
        return asked.get(seed, wanted)
    except DataError as error:
        substitute = next(each for each in NAMED.values() if not each.archive)
        if source == AUTO:
            logger.warning(_banner(asked, substitute, error))
            return substitute.get(seed, wanted)
        cache = places.cache_folder()
        raise DataError(
            f"{asked.title} is not in ${places.VARIABLE} (not set), ./data or {cache}, and {error}. You can use "
            f"--data PATH, put {asked.archive} into {cache}, set {places.VARIABLE}, or use --data {substitute.name} "
            f"({substitute.title})"
        ) from error


def at_hand(source: str) -> bool:
    """Whether `load` needs no download for `source`."""
    generated = source in NAMED and not NAMED[source].archive
    if generated or source not in (AUTO, *NAMED) or os.environ.get(places.VARIABLE):
        return True
    return any(found_at(place) for place in _places(NAMED[next(iter(NAMED)) if source == AUTO else source]))


def _places(asked: Named) -> list[Path]:
    """The usual places of a data set, and its archive in each of them, which is read where it is."""
    return [each for place in places.usual_places(asked.name) for each in (place, place / asked.archive)]


def found_at(path: Path) -> bool:
    """Whether `path` holds data in a registered format, damaged or not, or cannot be searched."""
    try:
        return _form_of(path) is not None
    except OSError:
        return True  # possibly the user's data, so it is not skipped; `read` reports the error


def read(path: Path, wanted: DataConfig | None = None) -> Dataset:
    """Reads the data set at `path`, in any registered format, as `load` does. Its `origin` is an absolute path.

    Raises:
        DataError: there is no data set, or it is damaged.
    """
    path = path.absolute()
    with _readable(path):
        found = _form_of(path) or _form_named(path)
        dataset = found[0].read(found[1], wanted or DataConfig()) if found else None
        missing = None if found else next(filter(None, (form.missing(path) for form in FORMS)), None)
    if dataset is None:
        if not os.path.exists(path):  # noqa: PTH110
            raise DataError(f"{escaped(str(path))}: does not exist; give a folder or an archive that holds the data")
        if missing:
            raise DataError(f"{escaped(str(path))}: {missing}")
        forms = "; ".join(form.description for form in FORMS)
        raise DataError(f"{escaped(str(path))}: holds none of the supported data formats: {forms}")
    named = NAMED.get(dataset.name)
    if named and named.classes != dataset.classes:  # a folder that happens to have this name
        dataset = replace(dataset, name=f"{dataset.name}-folder")
    return in_frame(dataset, wanted or DataConfig())


def image_files(path: Path) -> Listing | None:
    """The image files of the data set at `path`; None where its form has none. Raises DataError as `read` does."""
    with _readable(path):
        found = _form_of(path) or _form_named(path)
        return found[0].list_images(found[1]) if found and found[0].list_images else None


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns the system's errors about what is below `path` into DataError."""
    try:
        yield
    except OSError as error:
        where = escaped(str(error.filename or path))
        raise DataError(f"{where}: cannot be read ({error.strerror or type(error).__name__})") from error


def _form_of(path: Path) -> tuple[Form, Path] | None:
    """The format of the data at `path`, and its location. Raises OSError if `path` cannot be searched."""
    if not os.path.exists(path):  # noqa: PTH110
        return None
    return next(((form, found) for form in FORMS if (found := form.find(path)) is not None), None)


def _form_named(path: Path) -> tuple[Form, Path] | None:
    """As `_form_of`, for a path that the user has named and where that found nothing."""
    return next(((form, found) for form in FORMS if (found := form.find_named(path)) is not None), None)


def _accepted(dataset: Dataset, wanted: Named, source: str, place: str) -> Dataset:
    """The data set if it is what `source` asks for; `auto` accepts any, and logs a message."""
    if dataset.name == wanted.name:
        return dataset
    count, classes = len(dataset.train.labels), len(dataset.classes)
    holds = f"{escaped(place)} holds {count:,} images of {classes} classes, not {wanted.title}"
    if source != AUTO:
        raise DataError(f"{holds}; use --data {escaped(dataset.origin)}")
    logger.info("%s; auto uses it anyway", holds)
    return dataset


def _banner(wanted: Named, substitute: Named, error: DataError) -> str:
    line = "=" * 78
    looked = ", ".join(str(place) for place in places.usual_places(wanted.name))
    return (
        f"NO {wanted.title}: using `{substitute.name}`, {substitute.title}, instead.\n{line}\n"
        f"Looked in ${places.VARIABLE} (not set), {looked}; {error}.\n"
        f"Accuracy on `{substitute.name}` says nothing about {wanted.title}. "
        f"To use {wanted.title}, give --data PATH.\n{line}"
    )
