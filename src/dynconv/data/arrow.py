"""Images in the files of Hugging Face's `datasets`: Arrow as `save_to_disk` writes it, Parquet as the Hub has it.

    train/*.arrow, test/*.arrow              a DatasetDict, saved to disk
    *.arrow                                  a Dataset, saved to disk
    data/train-00000-of-00001.parquet, ...   a repository of the Hub, with or without the folder
    FILE.parquet                             one file

The name of a folder or file says its split. Validation images are the test images where there are no others; without
either, a fifth of each class is set aside, see `data.copies`. One column holds the images, as files of any kind that
Pillow reads, and one the classes: a ClassLabel, which has their names, or numbers, or text.

Needs the extra `arrow`: pip install 'dynconv[arrow]'.
"""

from __future__ import annotations

import io
import itertools
import json
import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynconv.data.cifar10 import CLASSES
from dynconv.data.dataset import DataError, Dataset
from dynconv.data.expansion import check_expansion
from dynconv.data.frame import DataConfig
from dynconv.data.listing import SPLITS, TEST, TRAIN, VALIDATION, Listing, in_order
from dynconv.data.listing import read as read_listing
from dynconv.data.registry import form
from dynconv.data.tree import Content, Parts, Store, is_hidden
from dynconv.errors import escaped

if TYPE_CHECKING:
    import pyarrow

logger = logging.getLogger(__name__)

ENDINGS = (".arrow", ".parquet")
_LABELS = ("label", "labels", "fine_label", "class", "category", "target")
_SPLIT = re.compile(r"(train|test|val)(ing|id|idation)?(?![a-z])", re.IGNORECASE)
_LOOKED_AT = 100  # entries of a folder by which it is recognised
_AT_ONCE = 16  # rows of a Parquet file that are in memory at a time


def find(path: Path) -> Path | None:
    """`path` if it is a Parquet file, or a folder with files of either kind in it or in its folders; else None."""
    if path.is_file():
        return path if path.suffix.lower() == ".parquet" else None
    if not path.is_dir():
        return None
    folders = (each for each in path.iterdir() if each.is_dir() and not is_hidden(each.name))
    return path if any(map(_holds_some, (path, *folders))) else None


def list_images(path: Path) -> Listing:
    """The images of all splits. Raises DataError as `read` does, but for damaged images."""
    by_split = _by_split(path)
    rows = Rows(path if path.is_dir() else path.parent, next(iter(by_split.values()))[0])
    found: dict[str, list[tuple[Parts, str]]] = {}
    for split, files in by_split.items():
        labels = [(file, label) for file in files for label in rows.labels(file)]
        if split in (TEST, VALIDATION) and labels and not any(label for _, (_, label) in labels):
            logger.info("%s: its %s images have no labels, so they are left out", escaped(str(path)), split)
            continue
        if lacking := next((rows.name_of(row) for _, (row, label) in labels if not label), None):
            raise DataError(f"{lacking}: has no label; remove it")
        found[split] = [each for _, each in labels]
    if TEST not in found and VALIDATION in found:
        found[TEST] = found.pop(VALIDATION)
    if list(found) == [TRAIN]:
        found = {"": found[TRAIN]}
    used = {label for each in found.values() for _, label in each}
    names = tuple(name for name in rows.names or sorted(used, key=in_order) if name in used)
    numbers = {name: number for number, name in enumerate(names)}
    images = [(row, label, split) for split in ("", *SPLITS) for row, label in found.get(split, [])]
    return Listing(
        "cifar10" if names == CLASSES else path.resolve().stem, str(path), rows, names, [row for row, _, _ in images],
        [numbers[label] for _, label, _ in images], [split for _, _, split in images if split],
    )  # fmt: skip


@form("Arrow or Parquet files of Hugging Face's datasets", find, list_images=list_images)
def read(path: Path, wanted: DataConfig) -> Dataset:
    """Reads the images of all splits.

    Raises:
        DataError: pyarrow is not installed, a file or an image is damaged, a column is missing, a row has no label, or
            there are no training images; the error names it.
    """
    return read_listing(list_images(path), wanted)


class Rows(Store):
    """The images in the rows of files, named by the file and the number of the row, from 0.

    Attributes:
        image, label: names of their columns.
        names: those of the classes, in the order of their numbers; empty if they are numbers or text.
    """

    in_any_order = False

    def __init__(self, path: Path, first: Parts) -> None:
        """Looks the columns up in the file `first`. Raises DataError."""
        super().__init__(path)
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise DataError(
                f"{self.name_of(first)}: needs pyarrow, which is not installed: pip install 'dynconv[arrow]'"
            ) from error
        self._arrow, self._parquet = pyarrow, pyarrow.parquet
        self._damages = (pyarrow.ArrowException, OSError, UnicodeDecodeError)
        schema = self._schema(first)
        features = _features(schema.metadata)
        kinds = {name: feature.get("_type") for name, feature in features.items()}
        images = [name for name, kind in kinds.items() if kind == "Image"] or [
            field.name for field in schema if self._holds_files(field.type)
        ]
        classes = [name for name, kind in kinds.items() if kind == "ClassLabel"]
        labels = [name for name in _LABELS if name in schema.names] or classes
        for what, columns in (("images", images[:2]), ("labels", labels[:1])):
            if len(columns) != 1 or columns[0] not in schema.names:
                raise DataError(
                    f"{self.name_of(first)}: needs one column of {what}, an Image or a ClassLabel; has "
                    f"{escaped(', '.join(schema.names))[:200]}"
                )
        self.image, self.label = images[0], labels[0]
        self.names = _names(features.get(self.label, {}))

    def labels(self, file: Parts) -> Iterator[tuple[Parts, str]]:
        """Each row of a file and the name of its class; empty if it has none. Raises DataError."""
        for row, label in self._values(file, self.label):
            yield row, self._class(row, label)

    def contents(self, files: Sequence[Parts]) -> Iterator[tuple[int, Content]]:
        positions = {parts: position for position, parts in enumerate(files)}
        for file in dict.fromkeys(parts[:-1] for parts in files):
            for row, image in self._values(file, self.image):
                if row in positions:
                    yield positions[row], self._content(image)

    def _class(self, row: Parts, label: object) -> str:
        if label is None or label == -1:
            return ""
        if not isinstance(label, int | str) or (self.names and label not in range(len(self.names))):
            needed = f"0 to {len(self.names) - 1}" if self.names else "a number or text"
            raise DataError(f"{self.name_of(row)}: label {escaped(str(label))[:50]}; must be {needed}")
        return self.names[int(label)] if self.names else str(label)

    def _content(self, image: Any) -> Content:
        """Nothing, which is no image, where the row has none."""
        file, path = (image.get("bytes"), image.get("path")) if isinstance(image, dict) else (image, None)
        if file is None and path:
            return self.path / path
        return io.BytesIO(file if isinstance(file, bytes) else b"")

    def _holds_files(self, kind: pyarrow.DataType) -> bool:
        types = self._arrow.types
        if types.is_struct(kind):
            return "bytes" in {field.name for field in kind}
        return bool(types.is_binary(kind) or types.is_large_binary(kind))

    def _schema(self, file: Parts) -> pyarrow.Schema:
        path = self.path.joinpath(*file)
        try:
            if path.suffix.lower() == ".parquet":
                return self._parquet.read_schema(path)
            with self._arrow.memory_map(str(path)) as opened, self._arrow.ipc.open_stream(opened) as stream:
                return stream.schema
        except self._damages as error:
            raise self._damage(file, error) from error

    def _values(self, file: Parts, column: str) -> Iterator[tuple[Parts, Any]]:
        """What a column of a file holds, by row."""
        number = itertools.count()
        try:
            for batch in self._batches(self.path.joinpath(*file), column):
                if column not in batch.schema.names:
                    raise DataError(f"{self.name_of(file)}: has no column {escaped(column)}, which other files have")
                for value in batch.column(column):  # one copy at a time: a batch of photographs can be gigabytes
                    yield (*file, f"row {next(number)}"), value.as_py()
        except self._damages as error:
            raise self._damage(file, error) from error

    def _batches(self, path: Path, column: str) -> Iterator[pyarrow.RecordBatch]:
        """The rows of a file, some at a time."""
        if path.suffix.lower() == ".parquet":
            with self._parquet.ParquetFile(path) as opened:
                groups = (opened.metadata.row_group(number) for number in range(opened.num_row_groups))
                unpacked = sum(group.total_byte_size for group in groups)
                check_expansion(
                    escaped(str(path)),
                    unpacked,
                    path.stat().st_size,
                    "if this is intended, save it as PNG or JPEG images",
                )
                yield from opened.iter_batches(_AT_ONCE, columns=[column])
            return
        with self._arrow.memory_map(str(path)) as opened, self._arrow.ipc.open_stream(opened) as stream:
            for batch in stream:
                batch.validate(full=True)  # else damaged offsets would lead anywhere in memory
                yield batch

    def _damage(self, file: Parts, error: Exception) -> DataError:
        return DataError(f"{self.name_of(file)}: cannot be read ({escaped(str(error))[:200]}); copy it again")


def _holds_some(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        names = (entry.name for entry in itertools.islice(entries, _LOOKED_AT))
        return any(name.lower().endswith(ENDINGS) and not is_hidden(name) for name in names)


def _files(path: Path) -> list[Parts]:
    found = [file for pattern in ("*", "*/*") for file in path.glob(pattern) if file.suffix.lower() in ENDINGS]
    return sorted(parts for file in found if not any(map(is_hidden, parts := file.relative_to(path).parts)))


def _by_split(path: Path) -> dict[str, list[Parts]]:
    """The files of each split, named train, test and validation; "" where no name says one."""
    if not path.is_dir():
        return {"": [(path.name,)]}
    found: dict[str, list[Parts]] = {}
    sets = set[str]()
    for parts in _files(path):
        name = next((match[1].lower() for part in parts if (match := _SPLIT.match(part))), "")
        found.setdefault({"val": VALIDATION}.get(name, name), []).append(parts)
        if len(parts) > 1 and not _SPLIT.match(parts[0]):
            sets.add(parts[0])
    where = escaped(str(path))
    if len(sets) > 1:
        several = ", ".join(map(escaped, sorted(sets)))
        raise DataError(f"{where}: holds several sets ({several}); give the folder of one")
    if "" in found and len(found) > 1:
        unnamed = escaped("/".join(found[""][0]))
        raise DataError(f"{where}: {unnamed} names no split; give it a name that begins with train, test or validation")
    if "" not in found and TRAIN not in found:
        raise DataError(f"{where}: has no training images; needs files or a folder whose names begin with train")
    return found


def _names(feature: dict[str, Any]) -> tuple[str, ...]:
    """Those of a ClassLabel; none of anything else."""
    names = feature.get("names")
    return tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else ()


def _features(metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
    """What `datasets` notes of each column; nothing where it notes nothing."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        return {}
