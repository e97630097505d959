from pathlib import Path

import pytest

from dynconv.cli.evaluate import EvaluateArguments
from dynconv.cli.parse import parse
from dynconv.cli.predict import PredictArguments
from dynconv.cli.serve import ServeArguments
from dynconv.cli.settings import TrainArguments, parse_training
from dynconv.errors import DynconvError
from dynconv.training.config import TrainConfig
from dynconv.training.launch import Launch
from dynconv.training.presets import PRESETS


def settings(*words: str) -> TrainConfig:
    return parse_training(TrainArguments, words, "train").settings


def launch(*words: str) -> Launch:
    return parse_training(TrainArguments, words, "train").launch


def refusal(*words: str) -> str:
    with pytest.raises(DynconvError) as caught:
        settings(*words)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_alone_is_that_preset(name: str) -> None:
    assert settings(name) == PRESETS[name]()


def test_without_a_preset_it_is_quick() -> None:
    assert settings() == PRESETS["quick"]() == TrainConfig()


def test_fields_of_every_kind_are_overridden() -> None:
    words = ["quick", "--seed", "3", "--optim.lr=1e-3", "--model.no-whiten", "--optim.name", "sgd"]
    words += ["--model.widths", "8", "16", "--model.pools", "2", "--model.residual", "false", "true"]
    config = settings(*words, "--batch_size", "250", "--micro-batch", "250")

    assert (config.seed, config.optim.lr, config.optim.name, config.batch_size) == (3, 1e-3, "sgd", 250)
    assert (config.model.widths, config.model.pools, config.model.residual) == ((8, 16), (2,), (False, True))
    assert config.model.whiten is False
    assert config.augment == PRESETS["quick"]().augment


def test_where_and_on_what_to_run_is_no_hyper_parameter() -> None:
    words = ("quick", "--data", "shapes", "--run", "out", "--device", "cpu", "--compile")

    assert launch(*words) == Launch(data="shapes", run=Path("out"), device="cpu", compile=True)
    assert settings(*words) == settings("quick")
    assert launch("quick") == Launch()


def test_preset_then_file_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("epochs: 3\nmodel: {experts: 5, temperature: 2}\noptim: {lr: 1e-3}\n")

    config = settings("basic", "--config", str(file), "--model.experts", "7")

    assert (config.preset, config.epochs, config.optim.lr) == ("basic", 3, 1e-3)
    assert (config.model.experts, config.model.temperature) == ((7,), 2.0)
    assert config.model.widths == PRESETS["basic"]().model.widths


def test_the_config_of_a_run_gives_that_run_again(tmp_path: Path) -> None:
    import yaml

    first = settings("basic", "--seed", "7", "--model.experts", "3")
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({"format": 2, **first.model_dump(mode="json")}))

    assert settings("--config", str(file)) == first


def test_a_file_may_name_the_data_and_the_device_and_the_first_releases_names(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: shapes\ndevice: cpu\ncompile: true\n")
    assert launch("--config", str(file)) == Launch(data="shapes", device="cpu", compile=True)
    assert launch("--config", str(file), "--data", "cifar10").data == "cifar10"

    file.write_text("data: {source: shapes, holdout: 50}\nmodel: {activation: sigmoid, classifier_hidden: 4}\n")
    config = settings("--config", str(file))
    assert (config.holdout, config.model.gate, config.model.head_hidden) == (50, ("sigmoid",), 4)
    assert launch("--config", str(file)).data == "shapes"


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--model.experts", "0"], "model.experts: must be whole numbers, at least 1, at most 4096, not 0"),
        (["--model.experts", "two"], "model.experts: must be whole numbers, at least 1, at most 4096, not two"),
        (["--optim.ema", "1"], "optim.ema: must be a number, at least 0, below 1, not 1"),
        (["--optim.lr", "nan"], "optim.lr: must be a number, above 0, not nan"),
        (["--image-sizes", "4", "32"], "image_sizes: must be whole numbers, at least 8, at most 512, not 4"),
        (["--seed", "4294967296"], "seed: must be a whole number, at least 0, at most 4294967295, not 4294967296"),
        (["--optim.name", "mun"], "optim.name: must be one of muon, sgd, adamw, not mun"),
        (["--model.gate", "soft"], "model.gate: must be one of softmax, sigmoid, "),
        (["--optim.lr", "1e39"], "optim.lr: must be 0, or between 1e-30 and 1e+30 in size, not 1e+39"),
        (["--model.temperature", "1e-45"], "model.temperature: must be 0, or between 1e-30 and 1e+30 in size, not"),
        (["--optim.betas", "0.9", "1e-40"], "optim.betas: must be 0, or between 1e-30 and 1e+30 in size, not 1e-40"),
        (["--lr", "3"], "no option --lr; did you mean --optim.lr?"),
        (["--widths", "3"], "no option --widths; did you mean --model.widths?"),
        (["--workers", "3"], "no option --workers"),
        (["--learning-rate", "3"], "no option --learning-rate; did you mean --optim.lr?"),
        (["--learning_rate=3"], "no option --learning_rate=3; did you mean --optim.lr?"),
        (["--K", "3"], "no option --K; did you mean --model.experts?"),
        (["--gpu"], "no option --gpu; did you mean --device cuda?"),
        (["--weights", "x"], "no option --weights; did you mean --init?"),
        (["--pretraned", "x"], "no option --pretraned; did you mean --init?"),
        (["--patience", "-1"], "patience: must be a whole number, at least 0, at most 1000000, not -1"),
        (["--target", "94"], "target: must be a number, at least 0, at most 1, not 94"),
        (["--sampling", "even"], "sampling: must be one of shuffled, balanced, not even"),
        (
            ["--sampling", "balanced", "--class-weights", "balanced"],
            "sampling: balanced classes need no class_weights, which would count rare ones twice",
        ),
        (["--device", "tpu"], "device: must be one of auto, cpu, cuda, mps, not tpu"),
        (["--batch-size", "30", "--micro-batch", "20"], "micro_batch: 20 does not divide batch_size 30"),
        (
            ["--model.widths", "8", "8", "--model.strides", "1", "1", "1"],
            "model.strides: has 3 entries, and model.widths has 2, one per block; give it 2, or 1 for all blocks",
        ),
        (
            ["quick", "--model.widths", "8"],
            "model.pools: has 6 entries, and model.widths has 1, one per block; give it 1",
        ),
        (["--model.expert", "2"], "no option --model.expert; did you mean --model.experts?"),
        (["--modle.experts=2"], "no option --modle.experts=2; did you mean --model.experts?"),
        (["quick", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_field_and_range(words: list[str], answer: str) -> None:
    pools = ["--model.pools", "1"] if "--model.strides" in words else []
    assert refusal(*words, *pools).startswith(answer)
    if answer.startswith("no option") and "did you mean" not in answer:
        assert refusal(*words) == answer, "nothing resembles it, so nothing is suggested"


def test_a_word_for_an_option_of_another_command_is_not_suggested() -> None:
    for words, answer in ((["--adress", "x"], "; did you mean --host?"), (["--learning-rate", "1"], "")):
        with pytest.raises(DynconvError) as caught:
            parse(ServeArguments, words, "serve")
        assert str(caught.value) == f"no option {words[0]}{answer}"


def test_an_option_without_its_value_is_named() -> None:
    assert "--seed" in refusal("quick", "--seed")


def test_an_unknown_preset_lists_those_there_are() -> None:
    assert refusal("quik") == f"no preset 'quik'; choose one of {', '.join(PRESETS)}"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("model: {expert: 3}", "model.expert: there is no such field; did you mean model.experts?"),
        ("epochs: 0", "epochs: must be a whole number, at least 1, at most 1000000, not 0"),
        ("- 3", "must hold fields, as in 'epochs: 5', not a list"),
        ("a: {b", "not YAML: line 1: expected ',' or '}', but got '<stream end>'"),
        ("preset: quik", "no preset 'quik'"),
        ("model: 3", "model: "),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(tmp_path: Path, text: str, answer: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)

    assert refusal("--config", str(file)).startswith(f"{file}: {answer}")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal("--config", str(tmp_path / "no.yaml")).startswith(str(tmp_path / "no.yaml"))


def test_help_shows_every_field_with_its_text_and_the_presets_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        settings("basic", "--help-all", "--seed", "77")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())

    assert stop.value.code == 0
    for flag in (
        "--model.router-hidden",
        "--optim.label-smoothing",
        "--holdout",
        "--data",
        "--resume",
        "--config",
    ):
        assert flag in text
    assert "K, the number of convolutions in a block." in text
    assert f"(default: {PRESETS['basic']().optim.lr})" in text


def test_the_short_help_shows_what_is_used_most(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        settings("basic", "--help")
    text = capsys.readouterr().out

    assert stop.value.code == 0
    assert "--help-all" in text and "--epochs" in text and "--model.experts" in text and "--run" in text
    assert "--optim.label-smoothing" not in text and text.count("\n") < 80


def test_what_evaluate_cannot_do_without() -> None:
    with pytest.raises(DynconvError, match=r"^RUN is missing: Run directory or weights file\.$"):
        parse(EvaluateArguments, [], "evaluate")
    with pytest.raises(DynconvError, match=r"^IMAGE\|FOLDER\|- is missing: "):
        parse(PredictArguments, [], "predict")
