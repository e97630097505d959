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


def load(source: str, *, seed: int = 0, announce: Callable[[str], None] = print) -> Dataset:
    """The data set that `source` names.

    Args:
        source: `cifar10`: from $DYNCONV_DATA, else ./data, else the cache, else downloaded. `auto`: the same, else
            `shapes`. `shapes`: the generated set. Anything else: a path to a folder or an archive.
        seed: of the generated set.
        announce: takes lines for the user.

    Raises:
        DataError: nothing found, or what is there is damaged. Damaged data is never passed over for the next place.
    """
    if source == "shapes":
        return shapes.generate(seed)
    if source not in ("cifar10", "auto"):
        return read(Path(source).expanduser())
    if os.environ.get(VARIABLE):
        return read(Path(os.environ[VARIABLE]).expanduser())
    places = (Path("data"), cache_folder())
    for place in places:
        if _form_of(place):
            return read(place)
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
