"""Memory while a folder of 200,000 images trains an epoch -> benchmarks/many_images.json.

    python benchmarks/many_images.py

Draws the images (PNG, 32x32) into a temporary folder, 1.5 GB on most file systems, and trains a small network on them.
Memory is that of the process without the pages of files, which the system gives up when others need it.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from dynconv import api
from dynconv.artifacts.environment import environment
from dynconv.data import shapes

COUNT = 200_000
OUTPUT = Path(__file__).with_name("many_images.json")
SMALL = {
    "epochs": 1, "image_sizes": [32], "batch_size": 500, "micro_batch": 500, "tta": False,
    "model": {"widths": [16, 16], "pools": [2, 2]},
}  # fmt: skip


def anonymous() -> int:
    """Bytes of memory that this process has in use now and that no file holds."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return 1024 * int(found[1])


def draw(folder: Path) -> None:
    """Class folders: `COUNT` images for training, each of 10,000 drawn ones twenty times, and 1,000 for the test."""
    dataset = shapes.generate(0, 10_000, 1_000)
    for name, split, copies in (("train", dataset.train, COUNT // 10_000), ("test", dataset.test, 1)):
        images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in split.images]
        for label in set(split.labels.tolist()):
            (folder / name / f"class{label}").mkdir(parents=True)

        files = [
            (image, folder / name / f"class{label}" / f"{copy}-{number}.png")
            for copy in range(copies)
            for number, (image, label) in enumerate(zip(images, split.labels.tolist(), strict=True))
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda each: each[0].save(each[1]), files))


def main() -> None:
    """Draws, trains, and writes what it took."""
    readings: list[tuple[float, int]] = []
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            readings.append((time.monotonic(), anonymous()))

    with tempfile.TemporaryDirectory() as temporary:
        draw(Path(temporary, "images"))
        watcher = threading.Thread(target=watch)
        watcher.start()
        run = api.train("quick", data=Path(temporary, "images"), run=Path(temporary, "run"), **SMALL)
        ended.set()
        watcher.join()
        trained = run.summary.train_seconds
        images = run.history[0].step * SMALL["batch_size"]
    while_training = [memory for moment, memory in readings if moment > readings[-1][0] - trained]
    quarter = len(while_training) // 4
    about = environment("folder")
    report = {
        "images": COUNT,
        "images_trained": images,
        "bytes_of_images": COUNT * 3 * 32 * 32,
        "seconds": round(readings[-1][0] - readings[0][0]),
        "train_seconds": round(trained),
        "first_quarter_bytes": round(statistics.median(while_training[:quarter])),
        "last_quarter_bytes": round(statistics.median(while_training[-quarter:])),
        "largest_bytes": max(memory for _, memory in readings),
        "machine": {"processor": about.processor, "cores": about.cores, "git_commit": about.git_commit},
    }
    OUTPUT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
