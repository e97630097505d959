"""What `make dist` has built, in empty environments. `make test-dist` says where it is; else nothing is tried."""

import functools
import json
import os
import platform
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from arrow_files import png, save, table
from PIL import Image
from tiny import WORDS

from dynconv.layer.ops import targets

ROOT = Path(__file__).parents[2]
DIST = Path(os.environ.get("DYNCONV_DIST", "none"))
UV = os.environ.get("UV", "uv")
# torch's CPU build, from a folder that pip is told of or from its own index; PyPI's is gigabytes on Linux.
FOLDERS = [f"--find-links={where}" for where in os.environ.get("PIP_FIND_LINKS", "").split()]
VERSIONS = [*(FOLDERS or ["--torch-backend=cpu"]), "--constraints", str(ROOT / "constraints.txt")]

pytestmark = pytest.mark.skipif(not DIST.is_dir(), reason="make test-dist builds it first; not tested: wheel and sdist")

EXTRAS = {
    "": ("predict", "photo.png"),
    "onnx": ("export", "trained"),
    "hub": ("-c", "from dynconv.export.hub import HubPredictor; HubPredictor.load('standard').save_pretrained('hub')"),
    "arrow": ("data", "drawn.parquet"),
    "handin": ("report", "trained", "--format", "pdf"),
    "serve": ("serve", "no-such-run"),
    "sweep": ("sweep", "no-such-file.yaml"),
    "postgresql": ("-c", "import psycopg, optuna"),
}
"""An extra, and a command that needs it. `trained` is a run, `drawn.parquet` a data set."""
REFUSED = {
    "onnx": "ONNX needs onnx, which is not installed: pip install 'dynconv[onnx]'",
    "arrow": "drawn.parquet: needs pyarrow, which is not installed: pip install 'dynconv[arrow]'",
    "handin": "pip install 'dynconv[handin]'",
    "serve": "is missing; pip install 'dynconv[serve]'",
    "sweep": "pip install 'dynconv[sweep]'",
}


def wheel() -> Path:
    (found,) = DIST.glob("*-any.whl")
    return found


def compiled_wheel() -> Path:
    if platform.system() != "Linux":
        pytest.skip("the operators are compiled for Linux only; not tested: the wheel with compiled operators")
    (found,) = DIST.glob(f"*manylinux*_{platform.machine()}.whl")
    return found


def run(*words: str | Path, folder: Path, code: int = 0) -> str:
    """What a command prints, in a folder without the checkout's source."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(words, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert result.returncode == code, result.stderr
    return result.stdout + result.stderr


@functools.cache
def installed(folder: Path, extra: str) -> Path:
    """The programs of an empty environment with the wheel and one extra, by the Python that runs this."""
    place = folder / (extra or "none")
    run(UV, "venv", "--quiet", "--python", sys.executable, place, folder=folder)
    what = f"dynconv[{extra}] @ {wheel().as_uri()}" if extra else str(wheel())
    run(UV, "pip", "install", "--quiet", "--python", place / "bin" / "python", *VERSIONS, what, folder=folder)
    Image.new("RGB", (50, 40), "red").save(folder / "photo.png")
    return place / "bin"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("installed")
    words = ("train", "quick", *WORDS, "--run", "trained", "--no-report")
    run(sys.executable, "-m", "dynconv", *words, folder=place)
    pictures = [png(Image.new("RGB", (32, 32), (8 * number, 0, 0))) for number in range(20)]
    save(place / "drawn.parquet", table(pictures, [0, 1] * 10, ["even", "odd"]))
    return place


def test_the_wheel_has_all_that_the_package_needs_and_nothing_else() -> None:
    with zipfile.ZipFile(wheel()) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
    source = {
        str(path.relative_to(ROOT / "src"))
        for path in (ROOT / "src" / "dynconv").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in (".so", ".o")
    }

    assert {name for name in names if not name.split("/")[0].endswith(".dist-info")} == source
    assert {"dynconv/py.typed", "dynconv/weights/accurate.safetensors", "dynconv/serve/page/index.html"} <= source
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_the_wheel_for_this_machine_also_has_each_operator_for_each_target() -> None:
    operators = sorted((ROOT / "src/dynconv/layer/ops").glob("*.cpp"))
    expected = {
        f"dynconv/layer/ops/prebuilt/{targets.file_name(source, target)}"
        for source in operators
        for target in targets.TARGETS[platform.machine()]
    }
    with zipfile.ZipFile(compiled_wheel()) as one, zipfile.ZipFile(wheel()) as other:
        more = {*one.namelist()} - {*other.namelist()}

    assert {name for name in more if not name.endswith("/")} == expected


def test_operators_need_no_compiler(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "environment"
    run(UV, "venv", "--quiet", "--python", sys.executable, place, folder=folder)
    words = ("pip", "install", "--quiet", "--python", place / "bin" / "python", *VERSIONS, compiled_wheel())
    run(UV, *words, folder=folder)

    said = run("env", "PATH=", f"XDG_CACHE_HOME={tmp_path}/cache", place / "bin/dynconv", "doctor", folder=folder)

    flat = " ".join(said.split())
    assert [f"{name} operator available" in flat for name in ("fused", "winograd", "depthwise", "norm_gelu")] == [
        True
    ] * 4
    assert not (tmp_path / "cache/dynconv/operators").exists()


def test_the_source_distribution_builds_the_same_wheel(tmp_path: Path) -> None:
    (archive,) = DIST.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/dynconv/py.typed"} <= names
    assert not [name for name in names if name.startswith((".venv", "runs/", "data/", "dist/"))]

    run(UV, "build", "--quiet", "--wheel", "--out-dir", tmp_path, archive, folder=tmp_path)

    def content_of(path: Path) -> dict[str, int]:
        with zipfile.ZipFile(path) as opened:
            return {one.filename: one.CRC for one in opened.infolist()}

    (again,) = tmp_path.glob("*.whl")
    assert content_of(again) == content_of(wheel())


def test_the_wheel_alone_classifies_a_photograph(folder: Path) -> None:
    programs = installed(folder, "")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert run(programs / "dynconv", "--version", folder=folder) == f"dynconv {version}\n"
    assert run(programs / "python", "-m", "dynconv", "--version", folder=folder) == f"dynconv {version}\n"
    assert "photo.png" in run(programs / "dynconv", "predict", "photo.png", folder=folder)
    assert "_dynconv" in run(programs / "dynconv", "completion", "bash", folder=folder)
    assert "2 x conv" in run(programs / "dynconv", "describe", "quick", folder=folder)


@pytest.mark.parametrize("extra", REFUSED)
def test_a_missing_extra_is_named(extra: str, folder: Path) -> None:
    said = run(installed(folder, "") / "dynconv", *EXTRAS[extra], folder=folder, code=2)

    assert REFUSED[extra] in said.splitlines()[-1]


@pytest.mark.parametrize("extra", [name for name in EXTRAS if name])
def test_each_extra_alone_is_enough(extra: str, folder: Path) -> None:
    programs, words = installed(folder, extra), EXTRAS[extra]
    if words[0] == "-c":
        run(programs / "python", *words, folder=folder)
    elif words[1].startswith("no-such"):  # it is missed only after the packages were found
        assert words[1] in run(programs / "dynconv", *words, folder=folder, code=2).splitlines()[-1]
    else:
        run(programs / "dynconv", *words, folder=folder)


def test_a_run_without_installation_classifies_a_photograph(folder: Path) -> None:
    """`uvx dynconv predict photo.jpg`, as far as it can be tried before a release: from the wheel."""
    installed(folder, "")

    words = (UV, "tool", "run", "--quiet", *VERSIONS, "--from", wheel(), "dynconv", "predict", "--json", "photo.png")
    found = json.loads(run(*words, folder=folder).splitlines()[0])

    assert found["image"] == "photo.png" and found["class"]
