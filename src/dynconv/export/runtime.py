"""onnxruntime-web, which runs ONNX files in a browser: two files of its npm package, and its licence.

They are not part of dynconv: WebAssembly of 14 MB, which only few users need.
"""

from __future__ import annotations

import base64
import json
import logging
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dynconv.data import places
from dynconv.data.dataset import DataError
from dynconv.data.download import download
from dynconv.errors import DynconvError, escaped

logger = logging.getLogger(__name__)

VERSION = "1.30.0"
"""The version that was tested; to move to another, take its checksum from `npm view onnxruntime-web dist.integrity`."""
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package in base64, as npm publishes it."""
PACKAGE = f"onnxruntime-web-{VERSION}.tgz"
URL = f"https://registry.npmjs.org/onnxruntime-web/-/{PACKAGE}"

_SCRIPT, _WASM = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"
_LICENSE = """MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.
"""


@dataclass(frozen=True)
class Runtime:
    """Its version, and its files by name: onnxruntime.js and .wasm, and the licences."""

    version: str
    files: dict[str, bytes]


def load(given: Path | None) -> Runtime:
    """Reads the runtime from an npm package; by default from that of `VERSION`, which is downloaded to the cache.

    Args:
        given: an npm package of onnxruntime-web, as a .tgz file or unpacked.

    Raises:
        DynconvError: it cannot be downloaded, or `given` is something else.
    """
    package = given or _download()
    if package.is_dir():
        return _runtime(package, lambda name: (package / name).read_bytes())
    try:
        with tarfile.open(package, "r:gz") as archive:

            def read(name: str) -> bytes:
                file = archive.extractfile(f"package/{name}")  # where npm puts everything
                if file is None:  # a folder of that name
                    raise KeyError(name)
                return file.read()

            return _runtime(package, read)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a .tgz file"
        raise DynconvError(f"{escaped(str(package))}: cannot be read ({reason}); {_advice()}") from error


def _download() -> Path:
    checksum = f"sha512:{base64.b64decode(INTEGRITY).hex()}"
    try:
        return download(places.cache_folder(), PACKAGE, [URL], checksum)
    except DataError as error:
        raise DynconvError(f"onnxruntime-web: {error}; {_advice()}") from error


def _advice() -> str:
    return f"get {PACKAGE} elsewhere (npm pack onnxruntime-web@{VERSION}) and use --runtime {PACKAGE}"


def _runtime(package: Path, read: Callable[[str], bytes]) -> Runtime:
    try:
        about = json.loads(read("package.json"))
        name, version = about["name"], str(about["version"])
        if name != "onnxruntime-web":
            raise KeyError(name)
        script, wasm = read(f"dist/{_SCRIPT}"), read(f"dist/{_WASM}")
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DynconvError(
            f"{escaped(str(package))}: not a whole npm package of onnxruntime-web; {_advice()}"
        ) from error
    if version != VERSION:
        logger.warning("onnxruntime-web %s: not tested; %s was", escaped(version), VERSION)
    # Some web servers send .mjs with a type that browsers refuse to run.
    files = {"onnxruntime.js": script, "onnxruntime.wasm": wasm, "LICENSE.txt": _LICENSE.encode()}
    return Runtime(version, files | _notices())


def _notices() -> dict[str, bytes]:
    """Licences of what onnxruntime is built from: npm's package lacks them, Python's, of the same source, has them."""
    import onnxruntime

    notices = Path(onnxruntime.__file__).with_name("ThirdPartyNotices.txt")
    return {notices.name: notices.read_bytes()} if notices.exists() else {}
