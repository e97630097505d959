"""Images that a table lists: a CSV or JSON-lines file with a path and a label for each, and a split if it likes.

Paths are relative to the table. Columns are separated by commas, semicolons, tabs or bars. Spaces around labels do not
count. Columns, or keys, in any order:

    path, file, file_name, filename or image    the image
    label, class, category or target            its class: text, or a number
    split (may be missing)                      train, test or validation, as `listing.split_of` has it
"""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import TextIO

from dynconv.data.cifar10 import CLASSES
from dynconv.data.dataset import DataError, Dataset
from dynconv.data.frame import DataConfig
from dynconv.data.listing import SPLITS, Listing, in_order, listed, split_of
from dynconv.data.listing import read as read_listing
from dynconv.data.registry import form
from dynconv.data.tree import FolderTree
from dynconv.errors import escaped

ENDINGS = (".csv", ".tsv", ".jsonl")
_COLUMNS = {
    "path": ("path", "file", "file_name", "filename", "image"),
    "label": ("label", "class", "category", "target"),
}
_LONGEST_LINE = 1 << 20  # characters


def find(path: Path) -> Path | None:
    """`path` if it is a file with the ending of a table; else None."""
    return path if path.suffix.lower() in ENDINGS and path.is_file() else None


def list_images(path: Path) -> Listing:
    """The images of the table. Raises DataError as `read` does, but for damaged images."""
    where, rows = escaped(str(path)), []
    try:
        with path.open(encoding="utf-8-sig", newline="") as table:
            rows = list(_rows(where, path.suffix.lower(), table))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 text; save it as UTF-8") from error
    if not rows:
        raise DataError(f"{where}: lists no images; needs a path and a label in each row")
    names = sorted({label for _, _, label, _ in rows}, key=in_order)
    numbers = {name: number for number, name in enumerate(names)}
    folder, absent = escaped(str(path.parent)), [row for row in rows if not (path.parent / row[1]).is_file()]
    if len(absent) == 1:
        raise DataError(f"{where}: line {absent[0][0]}: {escaped(absent[0][1])} is not a file in {folder}")
    if absent:
        named = listed([file for _, file, _, _ in absent])
        raise DataError(f"{where}: {len(absent):,} of its {len(rows):,} paths are not files in {folder}: {named}")
    with_split = [split for *_, split in rows if split]
    if with_split and len(with_split) < len(rows):
        line = next(line for line, _, _, split in rows if not split)
        raise DataError(f"{where}: line {line}: has no split, but other rows have; give every row one, or none")
    paths = [os.path.normpath(path.parent / file) for _, file, _, _ in rows]
    most, times = Counter(paths).most_common(1)[0]
    if times > 1:
        again = [(line, file) for (line, file, _, _), own in zip(rows, paths, strict=True) if own == most]
        raise DataError(
            f"{where}: lists {escaped(again[0][1])} {times} times, in lines {again[0][0]}, {again[1][0]}"
            f"{', ...' if times > 2 else ''}; remove all rows but one"
        )
    rows.sort(key=lambda row: (SPLITS.index(row[3]) if row[3] else 0, numbers[row[2]]))
    name = "cifar10" if tuple(names) == CLASSES else path.stem
    return Listing(
        name, str(path), FolderTree(path.parent), tuple(names), [PurePath(file).parts for _, file, _, _ in rows],
        [numbers[label] for _, _, label, _ in rows], [split for *_, split in rows] if with_split else [],
    )  # fmt: skip


@form("a table of paths and labels (.csv, .tsv, .jsonl)", find, list_images=list_images)
def read(path: Path, wanted: DataConfig) -> Dataset:
    """Reads the images that the table lists. Where it has no splits, `data.copies` sets a fifth aside.

    Raises:
        DataError: a row lacks something, names a file that does not exist, or an image is damaged; the error names it.
    """
    return read_listing(list_images(path), wanted)


def _rows(where: str, ending: str, file: TextIO) -> Iterator[tuple[int, str, str, str]]:
    """Line number, path, label and split of each row."""
    for line, row in _json_rows(where, file) if ending == ".jsonl" else _csv_rows(where, file, ending):
        found = {}
        for what, names in _COLUMNS.items():
            value = next((row[name] for name in names if row.get(name) not in (None, "")), None)
            if what == "label" and isinstance(value, str):
                value = value.strip() or None
            if not isinstance(value, str | int) or isinstance(value, bool):
                raise DataError(f"{where}: line {line}: has no {what}; needs one of {', '.join(names)}")
            found[what] = str(value)
        named = str(row.get("split") or "").strip()
        split = split_of(named)
        if named and not split:
            raise DataError(f"{where}: line {line}: split {escaped(named)[:50]!r}; must be train, test or validation")
        yield line, found["path"], found["label"], split or ""


def _csv_rows(where: str, file: TextIO, ending: str) -> Iterator[tuple[int, Mapping[str, object]]]:
    line, first = 1, file.readline(_LONGEST_LINE)
    try:
        headers = {each: _header(first, each) for each in ("\t,;|" if ending == ".tsv" else ",;\t|")}
        separator = max(
            headers, key=lambda each: sum(not set(known).isdisjoint(headers[each]) for known in _COLUMNS.values())
        )
        for what, known in _COLUMNS.items():
            if set(known).isdisjoint(headers[separator]):
                raise DataError(
                    f"{where}: its first line names no column for the {what}; call one {' or '.join(known)}, and "
                    "separate columns by commas, semicolons, tabs or bars"
                )
        reader = csv.DictReader(file, headers[separator], delimiter=separator)
        for row in reader:
            line = reader.line_num + 1
            yield line, row
    except csv.Error as error:
        raise DataError(f"{where}: line {line}: {escaped(str(error))}") from error


def _header(line: str, separator: str) -> list[str]:
    return [name.strip().lower() for name in next(csv.reader([line], delimiter=separator), [])]


def _json_rows(where: str, file: TextIO) -> Iterator[tuple[int, Mapping[str, object]]]:
    for line, text in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), 1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"{where}: line {line}: is not JSON; each line must be an object with path and label"
            ) from error
        if not isinstance(row, dict):
            raise DataError(f"{where}: line {line}: is not an object with path and label")
        yield line, row
