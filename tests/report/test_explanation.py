from pathlib import Path

import pytest
from PIL import Image

from dynconv.cli.main import main
from dynconv.data import shapes


def test_explain_draws_an_image_and_goes_on_past_what_is_none(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    image = shapes.generate(0).test.images[0].permute(1, 2, 0).numpy()
    Image.fromarray(image).save(tmp_path / "one.png")
    (tmp_path / "none.png").write_text("no image")
    words = [str(trained), str(tmp_path / "none.png"), str(tmp_path / "one.png"), "--output", str(tmp_path)]

    assert main(["explain", *words]) == 1

    said = capsys.readouterr()
    assert "none.png: damaged, or not an image" in said.err
    assert "mean of" in said.out and "%" in said.out
    with Image.open(tmp_path / "one-explained.png") as picture:
        assert picture.size[0] > 1000
