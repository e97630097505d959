"""From what the user said to a data set: finds the data where users have it, by looking."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from platformdirs import user_cache_path

from dynconv.data import arrays, cifar10, download, folder, shapes
from dynconv.data.dataset import DataError, Dataset

VARIABLE = "DYNCONV_DATA"
_FORMS = (cifar10, arrays, folder)


def cache_folder() -> Path:
    """Where the downloaded archive is kept: the platform's cache directory for dynconv."""
    return user_cache_path("dynconv")


def expand(path: str) -> Path:
    """The path with `~` replaced. Raises DataError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"{path}: there is no such home directory; write the path in full") from error


def load(source: str, *, seed: int = 0, announce: Callable[[str], None] = print) -> Dataset:
    """The data set that `source` names.

    Args:
        source: `cifar10`: from $DYNCONV_DATA, else ./data, else the cache, else downloaded. `auto`: whichever set is in
            these places, else CIFAR-10 downloaded, else `shapes`. `shapes`: the generated set. Anything else: a path to
            a folder or an archive.
        seed: of the generated set.
        announce: takes lines for the user.

    Raises:
        DataError: nothing found, or what is there is damaged or, for `cifar10`, another set. It is never passed over
            for the next place.
    """
    if source == "shapes":
        return shapes.generate(seed)
    if source not in ("cifar10", "auto"):
        return _read(expand(source), announce)
    if named := os.environ.get(VARIABLE):
        return _found(_read(expand(named), announce), source, f"${VARIABLE}, {named},", announce)
    places = (Path("data"), cache_folder())
    for place in places:
        if _form_of(place):
            return _found(_read(place, announce), source, str(place), announce)
    try:
        return read(download.download(cache_folder(), announce))
    except DataError as error:
        if source == "auto":
            announce(_banner(places, error))
            return shapes.generate(seed)
        raise DataError(
            f"CIFAR-10 is not in ${VARIABLE} (not set), ./data or {cache_folder()}, and {error}. Three ways out: "
            f"--data PATH; put {download.FILE} into {cache_folder()} or set {VARIABLE}; or --data shapes, "
            "generated images"
        ) from error


def _found(dataset: Dataset, source: str, place: str, announce: Callable[[str], None]) -> Dataset:
    """The data set, where it is one that `source` means; `auto` takes any, and says so."""
    if dataset.name == "cifar10":
        return dataset
    holds = f"{place} holds {len(dataset.train.labels):,} images of {len(dataset.classes)} classes, not CIFAR-10"
    if source == "cifar10":
        raise DataError(f"{holds}; use --data {dataset.origin}")
    announce(f"{holds}; auto takes it all the same")
    return dataset


def _read(path: Path, announce: Callable[[str], None]) -> Dataset:
    dataset = read(path)
    if folder.find(path) and all((path / split).is_dir() for split in ("test", "val")):
        announce(f"{path}: val/ is left out, since there is test/; to hold images out for validation: --data.holdout")
    return dataset


def at_hand(source: str) -> bool:
    """Whether `load` needs no download for `source`."""
    if source not in ("cifar10", "auto") or os.environ.get(VARIABLE):
        return True
    return any(_form_of(place) for place in (Path("data"), cache_folder()))


def read(path: Path) -> Dataset:
    """Reads the data set at `path`, in whichever form it is: official files, archive, arrays or class folders.

    Raises:
        DataError: there is none, or it is damaged.
    """
    form = _form_of(path)
    if form is None:
        if not path.exists():
            raise DataError(f"{path}: does not exist; name a folder or an archive that holds the data")
        raise DataError(
            f"{path}: holds none of the forms that can be read: {cifar10.PYTHON_FOLDER}/, {cifar10.BINARY_FOLDER}/, "
            f"{' or '.join(cifar10.ARCHIVES)}, train-images.npy and its three companions, an .npz, or train/ and test/ "
            "with a folder for each class"
        )
    return form()


def _form_of(path: Path) -> Callable[[], Dataset] | None:
    for form in _FORMS:
        found = form.find(path)
        if found is not None:
            return lambda form=form, found=found: form.read(found)  # type: ignore[misc]
    return None


def _banner(places: tuple[Path, ...], error: DataError) -> str:
    line = "=" * 78
    looked = ", ".join(str(place) for place in places)
    return (
        f"{line}\nNO CIFAR-10: training on `shapes`, images drawn by this program, instead.\n"
        f"Looked in ${VARIABLE} (not set), {looked}; {error}.\n"
        "The accuracy of this run says nothing about CIFAR-10. To use CIFAR-10: --data PATH.\n"
        f"{line}"
    )
