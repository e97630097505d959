"""The examples in the documentation run as they stand, and its figures are the measured ones."""

import importlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tiny import CONFIG

import dynconv
from dynconv import data
from dynconv.artifacts import format_1
from dynconv.cli.main import main
from dynconv.data import registry, shapes
from dynconv.data.augment import FACTORIES, AugmentConfig
from dynconv.data.batches import training_batches
from dynconv.layer.algorithms import ALGORITHMS
from dynconv.layer.routing import GATES
from dynconv.model.config import ModelConfig
from dynconv.model.net import Net
from dynconv.report.section import SECTIONS, Section
from dynconv.sweep import config as sweep
from dynconv.sweep.space import base_point
from dynconv.training.config import OptimConfig, TrainConfig
from dynconv.training.optim import OPTIMIZERS, build_optimizers
from dynconv.training.presets import PRESETS

DOCS = Path(__file__).parents[1] / "docs"
README = DOCS.parent / "README.md"


def examples(page: Path, heading: str = "") -> list[str]:
    """The Python of a page, or of what stands there under a heading."""
    text = page.read_text(encoding="utf-8")
    if heading:
        text = re.split(r"\n## ", text[text.index(f"## {heading}\n") + 3 :])[0]
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_example(text: str, **names: Any) -> dict[str, Any]:
    names["__name__"] = "example"
    exec(compile(text, "example", "exec"), names)
    return names


def test_the_examples_of_the_layer_run(capsys: pytest.CaptureFixture[str]) -> None:
    found = examples(DOCS / "layer.md")

    assert found
    for example in found:
        run_example(example)
    assert "->" in capsys.readouterr().out


def test_the_examples_of_the_readme_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny network in place of `quick`, which would take a minute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(PRESETS, "quick", lambda: CONFIG)
    Image.new("RGB", (300, 200), "red").save("photo.jpg")
    train, use = examples(README)

    run_example(train)
    found = run_example(use, x=torch.rand(2, 64, 8, 8), images=torch.zeros(3, 3, 32, 32, dtype=torch.uint8))

    assert "report.html" in capsys.readouterr().out and len(list((tmp_path / "runs").iterdir())) == 1
    assert found["y"].shape == (2, 128, 8, 8) and found["p"].shape == (3, 10)


@pytest.fixture
def extended() -> Iterator[None]:
    """What an example registers is gone after it."""
    dictionaries: list[dict[str, Any]] = [GATES, ALGORITHMS, OPTIMIZERS, registry.NAMED, SECTIONS]
    before, factories = [dict(each) for each in dictionaries], list(FACTORIES)
    yield
    for each, old in zip(dictionaries, before, strict=True):
        each.clear()
        each.update(old)  # type: ignore[arg-type]
    FACTORIES[:] = factories


def extension(heading: str) -> dict[str, Any]:
    (example,) = examples(DOCS / "extending.md", heading)
    return run_example(example)


@pytest.mark.usefixtures("extended")
def test_an_augmentation_is_one_function() -> None:
    names = extension("An augmentation")
    split = data.Split(torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8), torch.arange(40) % 10)

    def colourful(share: float) -> int:
        config = names["WithGrey"](grey=share, flip="none", translate=0)
        (images, _), *_ = training_batches(split, 10, config, 40, 16, 0, 0)
        return int(((images[:, 0] - images[:, 1]).abs().amax((1, 2)) > 1e-3).sum())

    assert colourful(0.0) == 40 and colourful(1.0) == 0 and 5 < colourful(0.5) < 35


@pytest.mark.usefixtures("extended")
def test_a_gate_is_one_function() -> None:
    layer = extension("A gate")["layer"]
    x = torch.randn(3, 8, 6, 6)

    logits = layer.router.linear(x.mean((2, 3)))
    torch.testing.assert_close(layer.routing_weights(x), logits.square())
    assert Net(ModelConfig(widths=(8,), pools=(2,), gate="square"), 3).backbone[0].conv.router.gate == "square"
    with pytest.raises(ValueError, match="sum"):
        dynconv.fold_batchnorm(torch.nn.Sequential(layer, torch.nn.BatchNorm2d(16)))


@pytest.mark.usefixtures("extended")
def test_an_algorithm_is_one_function() -> None:
    layer = extension("An algorithm")["layer"]
    x = torch.randn(3, 8, 6, 6)

    found = layer(x)

    layer.algorithm = "output"
    torch.testing.assert_close(found, layer(x))
    assert "loop" in str(layer.explain_algorithm((3, 8, 6, 6)))
    with pytest.raises(ValueError, match="needs groups 1"):
        dynconv.DynamicConv2d(8, 8, 3, groups=2, algorithm="loop")(x)


@pytest.mark.usefixtures("extended")
def test_an_optimizer_is_one_function() -> None:
    extension("An optimizer")

    (found,) = build_optimizers(Net(CONFIG.model, 10), OptimConfig(name="rmsprop"))

    assert [group["name"] for group in found.param_groups] == ["experts", "routers", "biases", "head"]


@pytest.mark.usefixtures("extended")
def test_a_data_set_is_one_function() -> None:
    extension("A data set")

    assert data.load("stripes").classes == ("across", "down")
    with pytest.raises(dynconv.DynconvError, match="stripes"):
        data.load("no-such-data")


@pytest.mark.usefixtures("extended")
def test_a_section_is_one_function_and_a_template() -> None:
    extension("A section of the report")

    assert isinstance(SECTIONS["epochs"], Section) and SECTIONS["epochs"].order == 15


def with_figures() -> list[str]:
    """The presets that were measured; of the others, the docstring says that they were not."""
    missing = {name for name in PRESETS if not (DOCS.parent / "benchmarks" / f"{name}.json").exists()}
    assert missing == {name for name, preset in PRESETS.items() if "Not yet measured." in str(preset.__doc__)}
    return [name for name in PRESETS if name not in missing]


def measured(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((DOCS.parent / "benchmarks" / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", with_figures())
def test_the_figures_of_a_preset_were_measured_with_its_present_hyper_parameters(name: str) -> None:
    """Fields that were added since have their default, which leaves the figures true."""
    tree, _ = format_1.config(measured(name)["config"])
    then, now = TrainConfig.model_validate(tree), PRESETS[name]()
    assert then.data.size in ("auto", 32)  # a run records what `auto` has found
    then = then.model_copy(update={"data": now.data})
    if now.optim.name != "muon":  # whose own learning rates no other optimizer uses
        unused = {field: getattr(now.optim, field) for field in ("router_lr", "bias_lr", "head_lr")}
        then = then.model_copy(update={"optim": then.optim.model_copy(update=unused)})

    assert then == now


@pytest.mark.parametrize("name", with_figures())
def test_the_pages_state_the_figures_that_were_measured(name: str) -> None:
    shown = " ".join(path.read_text(encoding="utf-8") for path in (DOCS / "training.md", README))
    for figure in ("test_accuracy", "test_accuracy_tta"):
        if found := measured(name)[figure]:
            mean, sd = found["mean"], found["sd"]
            text = f"{100 * mean:.2f} %" if sd is None else f"{100 * mean:.2f} ± {100 * sd:.2f} %"
            assert shown.count(text) >= 2, f"{name}: {text} is not on both pages"


def test_the_page_of_faults_states_the_memory_that_was_measured() -> None:
    text = (DOCS / "faults.md").read_text(encoding="utf-8")
    found = measured("soak")
    found.pop("machine")
    for work in found.values():
        first, last = (f"{work[f'{quarter}_quarter_bytes'] / 1e6:,.0f} MB" for quarter in ("first", "last"))
        assert f"| {first} | {last} |" in text and work["growth"] < 0.03


def test_the_page_of_training_states_what_starting_from_weights_gains() -> None:
    text = (DOCS / "training.md").read_text(encoding="utf-8")
    for found in measured("transfer")["accuracy"].values():
        assert f"| {100 * found['mean']:.1f} ± {100 * found['sd']:.1f} % |" in text and found["n"] == 5


def test_the_page_of_augmentations_has_every_field_and_the_measured_costs() -> None:
    text = (DOCS / "augmentations.md").read_text(encoding="utf-8")
    # Of each row: the option, what it accepts, its default.
    rows = re.findall(r"^\|[^|]*\| `([\w-]+)[^|]*\|([^|]*)\| ([^|]*) \|[^|]*\|[^|]*\|$", text, re.MULTILINE)
    defaults = {option.replace("-", "_"): default.partition(":")[0].strip("`") for option, _, default in rows}
    assert defaults == {
        name: " ".join(map("{:g}".format, value)) if isinstance(value, tuple) else str(value).removesuffix(".0")
        for name, value in AugmentConfig().model_dump().items()
    }
    costs = json.loads((DOCS.parent / "benchmarks/augmentations.json").read_text(encoding="utf-8"))
    for name, cost in costs["microseconds_per_image"].items():
        assert f"| {cost} |" in text or f"{cost} µs" in text, name


def test_the_assignment_quotes_the_code_as_it_is() -> None:
    text = (DOCS / "assignment.md").read_text(encoding="utf-8")
    quotes = re.findall(r"\(\.\./(src/[\w/]+\.py)\)[^`]*?(?:`[^`]+`[^`]*?)*```python\n(.*?)```", text, re.DOTALL)

    assert len(quotes) == text.count("```python") == 4
    for file, quote in quotes:
        code = [line.strip() for line in (DOCS.parent / file).read_text(encoding="utf-8").splitlines()]
        lines = [line.strip() for line in quote.splitlines()]
        assert any(code[start : start + len(lines)] == lines for start in range(len(code))), f"{file}: {lines[0]}"


def test_the_options_of_the_assignment_exist(capsys: pytest.CaptureFixture[str]) -> None:
    text = (DOCS / "assignment.md").read_text(encoding="utf-8")
    commands = re.findall(r"`dynconv train ((?:quick|basic)[^`]*)`", text)

    assert len(commands) >= 7
    for command in commands:
        words = command.removeprefix("train ").split()
        assert main(["describe", *words]) == 0, command
    capsys.readouterr()


def test_the_sweeps_of_their_page_are_understood() -> None:
    files = re.findall(r"```yaml\n(.*?)```", (DOCS / "sweep.md").read_text(encoding="utf-8"), re.DOTALL)

    first, on_cifar10 = (sweep.parse(yaml.safe_load(text)) for text in files)

    assert [axis.field for axis in first.axes] == ["optim.lr", "optim.router_lr", "model.experts"]
    assert base_point(first.axes, first.base) and base_point(on_cifar10.axes, on_cifar10.base)


def test_the_page_of_sweeps_names_every_field_and_its_default() -> None:
    text = (DOCS / "sweep.md").read_text(encoding="utf-8")
    for name, field in sweep.SweepConfig.model_fields.items():
        (row,) = re.findall(rf"^\| `{name}` \| (.*?) \|", text, re.MULTILINE)
        shown = "none" if name == "fields" else str(field.default).lower()
        assert row.strip("`") == shown, name


# ------------------------------------------------------------------- the tutorial, word by word but for the figures

CIFAR10 = "airplane|automobile|bird|cat|deer|dog|frog|horse|ship|truck"


def words_of(line: str) -> list[str]:
    """The words of a line of output: no figures, no units, no predicted classes, which differ from run to run."""
    return re.findall(r"[A-Za-z]{2,}", re.sub(rf"\b({CIFAR10})\b", "a-class", line))


@pytest.mark.slow
def test_the_tutorial_prints_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a tiny network in place of `quick`, on 400 images, in a terminal of 100 columns.

    Left out are its installation and the page about each run, which other tests look at.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    drawn = shapes.generate(0, 400, 200)
    monkeypatch.setattr(shapes, "generate", lambda seed: drawn)
    importlib.import_module("dynconv.cli.report")  # has taken the real one, unlike `train`, which does when it ends
    monkeypatch.setattr("dynconv.report.write.write_report", lambda runs, *_, **__: runs[0] / "report" / "report.html")
    small = CONFIG.model_copy(update={"epochs": 3, "batch_size": 40, "micro_batch": 40})
    monkeypatch.setitem(PRESETS, "quick", lambda: small)
    Image.new("RGB", (300, 200), "red").save("photo.jpg")
    text = (DOCS / "tutorial.md").read_text(encoding="utf-8")
    said: list[str] = []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)

    assert [kind for kind, _ in blocks].count("text") == 5
    for kind, block in blocks:
        if kind == "python":
            run_example(block)
        elif kind == "text":
            shown = [words_of(line) for line in block.splitlines() if words_of(line)]
            missing = [line for line in shown if line not in said]
            assert not missing, f"not printed: {missing[0]}"
        elif "dynconv" in block:
            for line in block.splitlines():
                assert main(line.removeprefix("dynconv ").split()) == 0, line
            out, err = capsys.readouterr()
            said = [words_of(line) for line in (out + err).splitlines()]
    assert (tmp_path / "runs/report/report.html").exists()


# ------------------------------------------------------------------------------------- the examples of other pages


def test_the_example_of_predict_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGB", (300, 200), "red")
    image.save("photo.jpg")
    (example,) = examples(DOCS / "predict.md")

    assert run_example(example, image=image)["prediction"].label


def test_the_example_of_export_runs_where_there_is_neither_torch_nor_dynconv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], trained: Path
) -> None:
    """As it stands, except that it runs beside them here; the names it imports are those that the page says."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (300, 200), "red").save("photo.jpg")
    assert main(["export", str(trained), "--output", "model.onnx"]) == 0
    (example,) = examples(DOCS / "export.md")
    capsys.readouterr()

    run_example(example)

    assert "torch" not in example and "dynconv" not in example
    assert len(capsys.readouterr().out.split()) == 2
