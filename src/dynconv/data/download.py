"""Downloads official files: from the first mirror that has them, checked and written atomically."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pooch
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dynconv.data import places
from dynconv.data.dataset import DataError

logger = logging.getLogger(__name__)

_TIMEOUT = (10, 60)  # seconds to connect, and between two chunks of the response


@dataclass(frozen=True)
class Official:
    """The official files of a data set.

    Attributes:
        name: of the data set.
        files: the md5 of each, as its authors state it.
        megabytes: size of all together.
        mirrors: where they are, in the order in which to try: an address that ends in / is a folder of the files, any
            other is the only file itself.
    """

    name: str
    files: Mapping[str, str]
    megabytes: int
    mirrors: tuple[str, ...]

    def download(self) -> Path:
        """Downloads what is not there yet into the data set's folder in the cache; returns the folder.

        Raises:
            DataError: no mirror delivered a file; one line with the reason for each mirror.
        """
        folder = places.cache_folder() / self.name
        if not all((folder / file).exists() for file in self.files):
            logger.info("%s is not here: %s MB to download", self.name, f"{self.megabytes:,}")
        for file, md5 in self.files.items():
            urls = [f"{mirror}{file}" if mirror.endswith("/") else mirror for mirror in self.mirrors]
            download(folder, file, urls, f"md5:{md5}")
        return folder


def download(folder: Path, file: str, urls: Sequence[str], checksum: str) -> Path:
    """Downloads a file into `folder`, unless it is there; returns its path. A failed download leaves nothing behind.

    Args:
        checksum: its algorithm and its digits in hexadecimal: "md5:...".

    Raises:
        DataError: no address delivered the file; one line with the reason for each.
    """
    pooch.get_logger().setLevel("ERROR")  # pooch would announce each download a second time
    reasons = []
    for url in urls:
        if not (folder / file).exists():
            logger.info("downloading %s to %s", url, folder)
        try:
            # pooch downloads into a temporary file beside the target, checks it, and only then renames it.
            with _no_empty_folders(folder), _progress_bar(file) as bar:
                downloader = pooch.HTTPDownloader(progressbar=bar or False, timeout=_TIMEOUT)
                return Path(pooch.retrieve(url, checksum, file, folder, downloader=downloader))
        except requests.RequestException as error:
            reasons.append(f"{url}: {_reason(error)}")
        except ValueError:
            reasons.append(f"{url}: the file is not the official one (its {checksum.partition(':')[0]} differs)")
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror}); set XDG_CACHE_HOME") from error
    raise DataError("the download failed: " + "; ".join(reasons))


@contextmanager
def _no_empty_folders(folder: Path) -> Iterator[None]:
    """Removes `folder` and those above it, if they were made and nothing has come into them."""
    new = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        yield
    finally:
        with suppress(OSError):  # something is in it
            for each in new:
                each.rmdir()


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

    def __init__(self, progress: Progress, file: str) -> None:
        self.total = 0
        self._progress = progress
        self._task = progress.add_task(file, total=None)

    def update(self, size: int) -> None:
        self._progress.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        self._progress.reset(self._task)

    def close(self) -> None:
        pass  # pooch closes it only on success; `_progress_bar` closes it on failure, too


@contextmanager
def _progress_bar(file: str) -> Iterator[_Bar | None]:
    """A progress bar on standard error; None if that is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr)) as progress:
        yield _Bar(progress, file)
