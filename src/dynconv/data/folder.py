"""Class folders of images, in a folder or in a zip or tar archive.

    train/CLASS/, test/CLASS/                   with val/CLASS/ beside them, its images are for validation
    train/CLASS/, val/CLASS/                    without test/, those of val/ are the test images
    CLASS/                                      a fifth of each class is set aside for testing, see `data.copies`

The splits may have the other names that `listing.split_of` knows, in capitals or not.
Classes are the sorted names of the folders. An image belongs to the class whose folder contains it, at any depth. Files
with extensions other than `data.image.ENDINGS`, and names that begin with a dot, are skipped; a message counts them.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from dynconv.data import archive
from dynconv.data.cifar10 import CLASSES
from dynconv.data.dataset import DataError, Dataset, require_class_names
from dynconv.data.frame import DataConfig
from dynconv.data.image import ENDINGS
from dynconv.data.listing import SPLITS, TEST, TRAIN, VALIDATION, Listing, listed, split_of
from dynconv.data.listing import read as read_listing
from dynconv.data.registry import form
from dynconv.data.tree import Entry, FolderTree, Parts, Tree, is_archive, is_hidden, tree_at
from dynconv.errors import escaped

logger = logging.getLogger(__name__)

IMAGENETTE = {
    "n01440764": "tench", "n02102040": "English springer", "n02979186": "cassette player", "n03000684": "chain saw",
    "n03028079": "church", "n03394916": "French horn", "n03417042": "garbage truck", "n03425413": "gas pump",
    "n03445777": "golf ball", "n03888257": "parachute",
}  # fmt: skip
"""The folders of Imagenette and its classes."""
_LOOKED_AT = 1000  # files of a folder or archive by which it is recognised
_MOST_NAMED = 5  # kinds of files that a message names


def find(path: Path) -> Path | None:
    """`path` if it holds class folders, with or without folders of splits around them; else None."""
    if is_archive(path):
        return path if _holds_images(path) else None
    if not path.is_dir():
        return None
    folders = _folders(path)
    if splits := _named_splits(folders, lambda name: _has_image(path / name)):
        return path if TRAIN in splits.values() and len(splits) > 1 else None
    return path if len([name for name in folders if _has_image(path / name)]) > 1 else None


def find_named(path: Path) -> Path | None:
    """`path` if it has class folders whose images may all lie deeper, in folders of their own; else None.

    Only where a user names the path: a place where several data sets lie looks the same. So that not any folder is
    taken for one, each folder in it must hold images for the most part, or nothing, and none may hold splits.
    """
    if not path.is_dir() or _named_splits(folders := _folders(path), lambda name: _has_image(path / name)):
        return None
    held = [_images_and_others(path / name) for name in folders]
    others_are_few = all(images >= others for images, others in held)
    have_splits = any(TRAIN in map(split_of, _folders(path / name)) for name in folders)
    return path if sum(images > 0 for images, _ in held) > 1 and others_are_few and not have_splits else None


def missing(path: Path) -> str | None:
    """If `path` holds part of this format: what is missing, and what to do. Else None."""
    if not path.is_dir():
        return None
    folders = _folders(path)
    splits = _named_splits(folders, lambda name: _has_image(path / name))
    if TRAIN in splits.values():
        (train,) = splits
        return (
            f"has {train}/, but neither test/ nor val/; move some images of each class to test/CLASS/, or give "
            f"{train}/ itself, of which a fifth is set aside"
        )
    if splits:
        return f"has {'/ and '.join(splits)}/, but no train/; put the training images into train/CLASS/"
    classes = [name for name in folders if _has_image(path / name)]
    if len(classes) == 1:
        return f"has images of one class only ({escaped(classes[0])}); add a folder with those of another"
    if not classes and _has_image(path):
        return (
            "holds images but no folders of classes; put them into one folder for each class, such as pets/cat/1.png "
            "and pets/dog/1.png, and give pets"
        )
    inner = path
    while len(inside := _folders(inner)) == 1:
        inner /= inside[0]
        if find(inner) or find_named(inner):
            return f"holds one folder around others; if those are the classes, give {escaped(str(inner))}"
    return None


def list_images(path: Path) -> Listing:
    """The images below `path`. Raises DataError as `read` does, but for classes without images and damaged images."""
    tree = tree_at(path)
    entries = list(tree.entries())
    root = _root(entries) if is_archive(path) else ()
    entries = [Entry(each.parts[len(root) :], each.kind) for each in entries if each.parts[: len(root)] == root]
    top = {each.parts[0] for each in entries if len(each.parts) == 1 and each.kind == "folder"}
    top |= {each.parts[0] for each in entries if len(each.parts) > 1}
    with_images = {each.parts[0] for each in entries if len(each.parts) == 2 and _is_image(PurePath(each.parts[1]))}
    folders = _split_folders(path, top, with_images)
    left_out = Counter[tuple[str, str]]()
    found: list[tuple[Parts, str, str]] = []  # file, split, class
    classes: dict[str, set[str]] = {split: set() for split in folders.values()}
    for each in entries:
        inside = _place(each.parts, folders)
        if inside is None:
            continue
        split, below = inside
        if len(below) == 1 and each.kind == "folder" and not is_hidden(below[0]):
            classes[split].add(below[0])
        elif kind := _not_an_image(each, below):
            left_out[split, kind] += 1
        elif each.kind == "file":
            classes[split].add(below[0])
            found.append(((*root, *each.parts), split, below[0]))
    names, problems = _same_classes(tree, root, folders, classes, {(split, name) for _, split, name in found})
    _say_what_is_left_out(path, {split: folder for folder, split in folders.items()}, left_out)
    numbers = {name: number for number, name in enumerate(names)}
    order = {TRAIN: 0, VALIDATION: 1, TEST: 2, "": 0}
    found.sort(key=lambda each: (order[each[1]], numbers[each[2]], each[0]))
    splits = [split for _, split, _ in found] if "" not in folders else []
    name = path.resolve().name if path.is_dir() else _without_ending(path)
    if names == CLASSES:
        name = "cifar10"
    elif names == tuple(IMAGENETTE):
        name, names = "imagenette", tuple(IMAGENETTE.values())
    files, labels = [file for file, _, _ in found], [numbers[name] for _, _, name in found]
    return Listing(name, str(path), tree, names, files, labels, splits, problems)


@form("folders of images, one for each class, or an archive of them", find, missing, list_images, find_named)
def read(path: Path, wanted: DataConfig) -> Dataset:
    """Reads all splits.

    Raises:
        DataError: a class is missing from one split, has no images or an unprintable name, or images are damaged; the
            error names them.
    """
    return read_listing(list_images(path), wanted)


def _folders(path: Path) -> tuple[str, ...]:
    return tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not is_hidden(entry.name)))


def _has_image(folder: Path) -> bool:
    """Whether one of the first 1,000 entries is an image; a folder may hold millions."""
    return any(_is_image(entry) for entry in itertools.islice(folder.iterdir(), _LOOKED_AT))


def _images_and_others(folder: Path) -> tuple[int, int]:
    """How many of the first 1,000 entries below a folder are images, and how many are other files that users see."""
    seen = [
        _is_image(PurePath(each.parts[-1]))
        for each in itertools.islice(FolderTree(folder).entries(), _LOOKED_AT)
        if each.kind == "file" and not is_hidden(each.parts[-1])
    ]
    return sum(seen), len(seen) - sum(seen)


def _holds_images(path: Path) -> bool:
    """Whether one of the first 1,000 members of an archive is an image. If it is damaged, its name decides."""
    try:
        return any(_is_image(PurePath(*each.parts)) for each in itertools.islice(tree_at(path).entries(), _LOOKED_AT))
    except DataError:
        return path.suffix.lower() == ".zip"


def _is_image(path: PurePath) -> bool:
    return path.suffix.lower() in ENDINGS and not is_hidden(path.name)


def _root(entries: Iterable[Entry]) -> Parts:
    """The innermost folder around everything in an archive, unless it holds images itself or is one of a split."""
    seen = [each for each in entries if not any(map(is_hidden, each.parts))]
    above = [each.parts[:-1] for each in seen if each.kind == "file" and _is_image(PurePath(each.parts[-1]))]
    if not above:
        return ()
    around = _shared(above)
    root = around[: len(around) - (around in above)]
    root = root[: next((depth for depth, name in enumerate(root) if split_of(name)), len(root))]
    folders = [each.parts for each in seen if each.kind == "folder" and each.parts != root[: len(each.parts)]]
    return _shared([root, *folders])


def _shared(paths: Sequence[Parts]) -> Parts:
    """The folders that all paths begin with."""
    first, last = min(paths), max(paths)
    return first[: next((depth for depth, name in enumerate(first) if last[depth : depth + 1] != (name,)), len(first))]


def _named_splits(folders: Iterable[str], has_image: Callable[[str], bool]) -> dict[str, str]:
    """The split of each folder that is named after one.

    A train is also something to take pictures of: where no other folder is of a split, one that is called so and has
    images of its own is a class.
    """
    folders = sorted(name for name in folders if not is_hidden(name))
    splits = {name: split for name in folders if (split := split_of(name))}
    is_class = list(splits.values()) == [TRAIN] and len(folders) > 1 and has_image(next(iter(splits)))
    return {} if is_class else splits


def _split_folders(path: Path, top: set[str], with_images: Container[str]) -> dict[str, str]:
    """The split of each folder at the top; "" for the whole tree where there are none.

    Args:
        with_images: the folders that have images of their own.
    """
    where, found = escaped(str(path)), _named_splits(top, with_images.__contains__)
    if not found:
        return {"": ""}
    for split in SPLITS:
        if len(same := [name for name in found if found[name] == split]) > 1:
            raise DataError(f"{where}: holds {'/ and '.join(same)}/, which mean the same; put their classes into one")
    if TRAIN not in found.values():
        raise DataError(f"{where}: has test or validation images, but no train/; add train/CLASS/")
    if len(found) == 1:
        raise DataError(f"{where}: has {next(iter(found))}/, but neither test/ nor val/; add test/CLASS/")
    if TEST not in found.values():
        return {name: TEST if split == VALIDATION else split for name, split in found.items()}
    return found


def _place(parts: Parts, folders: dict[str, str]) -> tuple[str, Parts] | None:
    """The split of a path, and the path in its folder; None outside of all."""
    if "" in folders:
        return "", parts
    return (folders[parts[0]], parts[1:]) if len(parts) > 1 and parts[0] in folders else None


def _not_an_image(entry: Entry, below: Parts) -> str:
    """Why a file is left out; empty for images, and for folders that users see."""
    if is_hidden(below[-1]):
        return "hidden"
    if entry.kind == "folder":
        return ""
    if len(below) == 1:
        return "outside the class folders"
    if entry.kind == "broken":
        return "broken"
    ending = PurePath(below[-1]).suffix.lower()
    return "" if ending in ENDINGS else ending or "without an ending"


def _same_classes(
    tree: Tree, root: Parts, folders: dict[str, str], classes: dict[str, set[str]], filled: set[tuple[str, str]]
) -> tuple[tuple[str, ...], list[str]]:
    """The class names, sorted, and a line for each folder without images.

    Raises:
        DataError: a class is missing from a split.
    """
    by_split = {split: folder for folder, split in folders.items()}

    def where(split: str, *names: str) -> str:
        return tree.name_of((*root, *filter(None, (by_split[split], *names))))

    first = TRAIN if TRAIN in classes else ""
    if len(classes[first]) < 2:
        found = f"one class folder ({listed(sorted(classes[first]))})" if classes[first] else "no class folders"
        raise DataError(f"{where(first)}: has {found}; needs a folder with the images of each class, two or more")
    require_class_names(sorted(classes[first]), where(first))
    for split in classes.keys() - {first}:
        for here, there in ((split, first), (first, split)):
            lacking = sorted(classes[there] - classes[here])
            if lacking and not (here == VALIDATION and there == first):  # which need not have every class
                raise DataError(
                    f"{where(here)}: class {listed(lacking)} missing, but {by_split[there]}/ has it; make them agree"
                )
    problems = [
        f"{where(split, name)}: holds no image, such as a .png or .jpg file"
        for split, name in _each(classes)
        if (split, name) not in filled and split != VALIDATION
    ]
    return tuple(sorted(classes[first])), problems


def _each(classes: dict[str, set[str]]) -> Iterator[tuple[str, str]]:
    for split, names in classes.items():
        yield from ((split, name) for name in sorted(names))


def _say_what_is_left_out(path: Path, folders: dict[str, str], left_out: Counter[tuple[str, str]]) -> None:
    """Logs one line about the skipped files, or nothing if there are none."""
    parts = []
    for split, folder in folders.items():
        kinds = Counter({kind: count for (where, kind), count in left_out.items() if where == split})
        named = [f"{count} {escaped(kind)}" for kind, count in kinds.most_common(_MOST_NAMED)]
        rest = kinds.total() - sum(count for _, count in kinds.most_common(_MOST_NAMED))
        if named:
            prefix = f"{folder}/: " if folder else ""
            parts.append(prefix + ", ".join(named + ([f"{rest} others"] if rest else [])))
    if total := left_out.total():
        files = "1 file" if total == 1 else f"{total:,} files"
        logger.warning("%s: %s left out (%s)", escaped(str(path)), files, "; ".join(parts))


def _without_ending(path: Path) -> str:
    ending = next(ending for ending in (*archive.ENDINGS, ".zip") if path.name.lower().endswith(ending))
    return path.name[: -len(ending)]
