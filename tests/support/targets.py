"""The parsers of bytes from outside, each with good inputs for it and words of their format."""

import gzip
import io
import json
import pickle
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml
from arrow_files import png, save, table
from official import (
    MATLAB,
    PYTHON_FILES,
    batch,
    matrix,
    write_binary,
    write_cifar100,
    write_idx,
    write_python,
    write_stl10,
    write_svhn,
)
from PIL import Image
from tiny import CONFIG, MODEL

from dynconv.artifacts.rundir import RunDir
from dynconv.artifacts.state import load_state
from dynconv.artifacts.weights import load_weights
from dynconv.cli.settings import load_config
from dynconv.data import archive, arrow, batch_pickle, cifar10, find, folder, idx, numpy_file, stl10, svhn
from dynconv.data.frame import DataConfig, Frame
from dynconv.data.image import read_image
from dynconv.errors import DynconvError
from dynconv.inference.predictor import Predictor
from dynconv.model.net import Net
from dynconv.report.runs import as_json, read_runs
from dynconv.training.launch import config_of
from dynconv.training.learner import Learner

WORDS = (
    b"[", b"]", b"{", b"}", b"[" * 3000, b'"', b",", b": ", b"-1", b"0", b"1e999", b"9" * 400, b"9" * 5000, b"NaN",
    b"null", b"true", b'"\\ud800"', b"\\u001b[31m", b"\n", b"model", b"format", b"experts", b"widths", b"classes",
    b"99999999999",
)  # fmt: skip
YAML = (
    *WORDS, b"&a ", b"*a", b"<<: *a\n", b"!!float ", b"!!bool ", b"!!timestamp ", b"!!python/name:os.system ", b"- ",
    b"? ", b"|\n",
)  # fmt: skip
PICKLE = (
    b".", b"(", b")", b"]", b"}", b"N", b"R", b"b", b"s", b"u", b"\x85" * 500, b"t", b"Q", b"\x81", b"\x93", b"\x92",
    b"2", b"cos\nsystem\n", b"cnumpy\ndtype\n", b"cbuiltins\neval\n", b"X\x01\0\0\0a", b"J\xff\xff\xff\xff", b"K\1",
    b"h\0",
)  # fmt: skip
BINARY = (
    b"\xff" * 8, b"\x7f" + b"\xff" * 7, bytes(512), b"ustar\0", b"PK\1\2", b"PK\3\4", b"IHDR", b"\xff\xda",
    b"\x1f\x8b",
)  # fmt: skip


@dataclass(frozen=True)
class Target:
    """A parser, good inputs for it, and words of their format."""

    seeds: Sequence[bytes]
    tokens: Sequence[bytes]
    read: Callable[[bytes], object]


def saved(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def at(path: Path, read: Callable[[Path], object], pack: Callable[[bytes], bytes] = bytes) -> Callable[[bytes], object]:
    """Reads the bytes as a file at `path`."""

    def run(data: bytes) -> object:
        path.write_bytes(pack(data))
        return read(path)

    return run


def write_tar(form: int, file: io.BytesIO) -> None:
    """A small batch in a folder, whose name takes a header of its own where the format has one."""
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name in PYTHON_FILES[:2]:
            member = tarfile.TarInfo(f"{'deep/' * (3 if form == tarfile.USTAR_FORMAT else 30)}{name}")
            member.size = 600
            archive.addfile(member, io.BytesIO(bytes(600)))


def repacked(whole: bytes, member: str) -> tuple[bytes, Callable[[bytes], bytes]]:
    """A member of a zip archive, and what puts another in its place, with the right checksum."""
    with zipfile.ZipFile(io.BytesIO(whole)) as file:
        contents = {name: file.read(name) for name in file.namelist()}

    def pack(data: bytes) -> bytes:
        def write(target: io.BytesIO) -> None:
            with zipfile.ZipFile(target, "w") as file:
                for name, content in contents.items():
                    file.writestr(name, data if name == member else content)

        return saved(write)

    return contents[member], pack


def data_targets(place: Path) -> dict[str, Target]:
    python, binary = write_python(place / "python"), write_binary(place / "binary")
    pickles = [pickle.dumps(batch(seed), protocol=protocol) for seed, protocol in enumerate((0, 2, 4))]
    forms = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
    tars = [saved(partial(write_tar, form)) for form in forms]
    array = np.arange(60, dtype=np.uint8).reshape(5, 4, 3)
    npy = [saved(partial(np.save, arr=each)) for each in (array, array.T, array.astype(">i4"), array[0, 0, 0])]
    npz = saved(lambda file: np.savez_compressed(file, images=array, labels=array[0]))
    (npy_inside, pack_npz) = repacked(npz, "images.npy")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    kinds = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "TGA")
    pictures = [saved(partial(picture.save, format=kind)) for kind in kinds]
    pictures.append(saved(lambda file: picture.convert("P").save(file, "PNG", transparency=3)))
    for part in ("train/a", "train/b", "test/a", "test/b"):
        (place / "folders" / part).mkdir(parents=True)
        picture.save(place / "folders" / part / "x.png")

    rows = table([png(picture.rotate(90 * number)) for number in range(4)] * 4, [0, 1] * 8, ["a", "b"])
    stream, parquet = save(place / "rows/x.arrow", rows), save(place / "x.parquet", rows)

    def read_tar(path: Path) -> object:
        return archive.read(path, PYTHON_FILES)

    def read_npz(path: Path) -> object:
        return numpy_file.load_archive(path, ["images", "labels"])

    return {
        "pickle": Target(pickles, PICKLE, lambda data: batch_pickle.load("batch", data)),
        "python batches": Target(
            pickles, PICKLE, at(python / PYTHON_FILES[2], lambda _: cifar10.read(python, DataConfig()))
        ),
        "binary batches": Target(
            [(binary / "test_batch.bin").read_bytes()],
            BINARY,
            at(binary / "test_batch.bin", lambda _: cifar10.read(binary, DataConfig())),
        ),
        "arrow": Target([stream.read_bytes()], BINARY, at(stream, lambda _: arrow.read(stream.parent, DataConfig()))),
        "parquet": Target([parquet.read_bytes()], BINARY, at(parquet, lambda path: arrow.read(path, DataConfig()))),
        "tar": Target(tars, BINARY, at(place / "x.tar", read_tar)),
        "tar.gz": Target(tars, BINARY, at(place / "x.tar.gz", read_tar, lambda d: gzip.compress(d, 1))),
        "gzip": Target([gzip.compress(each) for each in tars], BINARY, at(place / "y.gz", read_tar)),
        "npy": Target(npy, (*WORDS, *BINARY), at(place / "x.npy", numpy_file.load)),
        "npz": Target([npz], BINARY, at(place / "x.npz", read_npz)),
        "array in npz": Target([npy_inside], WORDS, at(place / "y.npz", read_npz, pack_npz)),
        "image": Target(
            pictures, BINARY, lambda data: read_image(io.BytesIO(data), frame=Frame(), max_pixels=25_000_000)
        ),
        "image in a folder": Target(
            pictures, BINARY, at(place / "folders/test/b/x.png", lambda _: folder.read(place / "folders", DataConfig()))
        ),
    }


def class_folders(folders: Sequence[str]) -> dict[str, bytes]:
    """Images of two classes in each of these folders, by path."""
    rng = np.random.default_rng(0)
    pictures = (Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)) for _ in range(100))
    names = [f"{folder}{label}/{number}.png" for folder in folders for label in "ab" for number in range(2)]
    return {name: saved(partial(next(pictures).save, format="PNG")) for name in names}


def write_zip(files: dict[str, bytes], kind: int, file: io.BytesIO) -> None:
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, kind)  # without the time, which would change the cases


def write_class_tar(files: dict[str, bytes], form: int, file: io.BytesIO) -> None:
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def tables(files: Sequence[str]) -> dict[str, list[bytes]]:
    """Tables of these files of classes a and b, with splits and without, by their ending."""
    rows = [(file, "ab"[number % 2], ("train", "Test")[number // 2 % 2]) for number, file in enumerate(files)]
    found: dict[str, list[bytes]] = {"csv": [], "tsv": [], "jsonl": []}
    for names in (("path", "label", "split"), ("file_name", "class")):
        for ending, separator in (("csv", ","), ("csv", ";"), ("tsv", "\t")):
            lines = [names, *(row[: len(names)] for row in rows)]
            found[ending].append("\n".join(separator.join(each) for each in lines).encode())
        lines = [json.dumps(dict(zip(names, row, strict=False))) for row in rows]
        found["jsonl"].append("\n".join(lines).encode())
    return found


def collection_targets(place: Path) -> dict[str, Target]:
    """Class folders in archives, and tables."""
    trees = [class_folders(each) for each in ([""], ["x/y/"], ["Train/", "Test/"], ["train/", "val/", "test/"])]
    zips = [
        saved(partial(write_zip, tree, kind)) for tree in trees for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    ]
    forms = (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT)
    tars = [saved(partial(write_class_tar, tree, form)) for tree in trees for form in forms]
    for name, content in class_folders([""]).items():
        (place / "table" / name).parent.mkdir(parents=True, exist_ok=True)
        (place / "table" / name).write_bytes(content)
    listed = tables(list(class_folders([""])))
    names = (b"Train/", b"../", b"/", b"__MACOSX/", b".png", b"\xff")
    words = (
        *WORDS, *names, b"path", b"label", b"split", b"test", b"validation", b";", b"\t", b"|", b"./", b"\r", b"\0",
        b"\xef\xbb\xbf", b"x" * 200_000,
    )  # fmt: skip
    return {
        "zip of class folders": Target(zips, (*BINARY, *names), at(place / "x.zip", find.read)),
        "tar of class folders": Target(tars, (*BINARY, *names), at(place / "classes.tar", find.read)),
        **{ending: Target(listed[ending], words, at(place / "table" / f"x.{ending}", find.read)) for ending in listed},
    }


def official_targets(place: Path) -> dict[str, Target]:
    """The files of CIFAR-100, MNIST, SVHN and STL-10."""

    def file(path: Path, *others: bytes, tokens: Sequence[bytes] = BINARY) -> Target:
        own = Path(shutil.copytree(path.parent, place / f"with damaged {path.name}" / path.parent.name)) / path.name
        return Target([path.read_bytes(), *others], tokens, at(own, lambda _: find.read(own.parent)))

    write_idx(place / "mnist", (5, 0, 4, 1, 9, 2, 1, 3, 1, 4), packed=False)
    write_idx(place / "mnist-gz", (0,) * 10, packed=False)
    for plain in list((place / "mnist-gz").iterdir()):
        plain.with_name(f"{plain.name}.gz").write_bytes(gzip.compress(plain.read_bytes(), mtime=0))
        plain.unlink()
    pixels = write_svhn(place / "svhn", compressed=True)
    compressed = (place / "svhn" / svhn.FILES[0]).read_bytes()
    write_svhn(place / "svhn", compressed=False)
    write_svhn(place / "svhn-packed", compressed=True)

    def pack(data: bytes) -> bytes:
        labels = matrix("y", np.arange(1.0, 11)[np.arange(12) % 10][:, None])
        parts = [zlib.compress(each) for each in (data, labels)]
        return MATLAB + b"".join(struct.pack("<II", 15, len(each)) + each for each in parts)

    write_stl10(place / stl10.FOLDER)
    for kind in ("python", "binary"):
        write_cifar100(place / f"cifar-100-{kind}", kind)
    return {
        "cifar-100 python": file(place / "cifar-100-python/train", tokens=PICKLE),
        "cifar-100 binary": file(place / "cifar-100-binary/test.bin"),
        "idx images": file(place / "mnist" / idx.FILES[0]),
        "idx labels": file(place / "mnist" / idx.FILES[3]),
        "idx gzipped": file(place / "mnist-gz" / f"{idx.FILES[1]}.gz"),
        "svhn": file(place / "svhn" / svhn.FILES[0], compressed),
        "array in svhn": Target(
            [matrix("X", pixels)],
            BINARY,
            at(place / "svhn-packed" / svhn.FILES[0], lambda path: find.read(path.parent), pack),
        ),
        "stl10 images": file(place / stl10.FOLDER / stl10.FILES[0]),
        "stl10 labels": file(place / stl10.FOLDER / stl10.FILES[3]),
    }


def artifact_targets(place: Path, run: RunDir) -> dict[str, Target]:
    header = json.loads(safetensors.safe_open(run.weights, "pt").metadata()["dynconv"])
    header.pop("checksum")  # which would refuse every change
    tensors = dict(load_weights(run.weights).state)
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    pickled, pack_state = repacked(run.state.read_bytes(), "archive/data.pkl")
    learner = Learner(Net(MODEL, 10), CONFIG.optim, torch.device("cpu"), "fp32")

    def use(path: Path) -> object:
        return Predictor.load(path).logits(image)

    def weights_of(metadata: bytes) -> bytes:
        return safetensors.torch.save(tensors, {"dynconv": metadata.decode("utf-8", "replace")})

    def restore(path: Path) -> None:
        try:
            learner.load_state_dict(load_state(path))
        except (RuntimeError, ValueError) as error:  # which the trainer turns into our error
            raise DynconvError(str(error)) from error

    def in_run(name: str, read: Callable[[RunDir], object], tokens: Sequence[bytes] = WORDS) -> Target:
        copy = Path(shutil.copytree(run.path, place / name / "run"))

        def read_and_list(_: Path) -> object:
            as_json(read_runs(copy.parent, {}))
            return read(RunDir.open(copy))

        return Target([(run.path / name).read_bytes()], tokens, at(copy / name, read_and_list))

    settings = [
        yaml.safe_dump(CONFIG.model_dump(mode="json")).encode(),
        b"model: {experts: &a [2], widths: [8, 8], pools: *a}\n",
    ]
    return {
        "configuration": Target(settings, YAML, at(place / "x.yaml", lambda path: load_config(None, path))),
        "weights": Target([run.weights.read_bytes()], (*WORDS, *BINARY), at(place / "x.safetensors", use)),
        "metadata of weights": Target(
            [json.dumps(header).encode()], WORDS, at(place / "y.safetensors", use, weights_of)
        ),
        "state": Target([run.state.read_bytes()], (*PICKLE, *BINARY), at(place / "x.pt", restore)),
        "pickle in state": Target([pickled], PICKLE, at(place / "y.pt", restore, pack_state)),
        "config.yaml": in_run("config.yaml", config_of, YAML),
        "environment.json": in_run("environment.json", lambda run: run.environment),
        "metrics.jsonl": in_run("metrics.jsonl", lambda run: (run.metrics(), run.rewind(0, 0))),
        "summary.json": in_run("summary.json", lambda run: run.summary()),
        "predictions.npz": in_run("predictions.npz", lambda run: run.predictions(), BINARY),
    }
