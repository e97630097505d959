"""Imagenette: ten classes of ImageNet that are easily told apart, photographs of many shapes (Howard 2019).

https://github.com/fastai/imagenette. Its folders are named by WordNet numbers; `data.folder` reads them.
"""

from __future__ import annotations

from dynconv.data import folder
from dynconv.data.dataset import Dataset
from dynconv.data.download import Official
from dynconv.data.folder import IMAGENETTE
from dynconv.data.frame import DataConfig
from dynconv.data.registry import data_set

ARCHIVE = "imagenette2-160.tgz"
OFFICIAL = Official(
    "imagenette",
    {ARCHIVE: "e793b78cc4c9e9a4ccc0c1155377a412"},
    99,
    (f"https://s3.amazonaws.com/fast-ai-imageclas/{ARCHIVE}",),
)


@data_set("imagenette", "Imagenette", tuple(IMAGENETTE.values()), archive=ARCHIVE, train_images=9_469)
def imagenette(_: int, wanted: DataConfig) -> Dataset:
    """The version with shorter sides of 160 pixels, downloaded to the cache; the seed is ignored. Raises DataError."""
    return folder.read(OFFICIAL.download() / ARCHIVE, wanted)
