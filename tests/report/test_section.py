import re
from pathlib import Path

import pytest
from jinja2 import ChoiceLoader, DictLoader

from dynconv.report import page as pages
from dynconv.report import section
from dynconv.report.record import read_record
from dynconv.report.run_page import run_page
from dynconv.report.subject import Subject


def test_a_section_is_one_function_and_its_template(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section, "SECTIONS", dict(section.SECTIONS))
    environment = pages._environment()
    own = DictLoader({"sections/epochs.html": "<p>{{ count }} epochs, planned {{ planned }}</p>"})
    assert environment.loader is not None
    monkeypatch.setattr(environment, "loader", ChoiceLoader([own, environment.loader]))

    @section.section("epochs", "Epochs", order=15)
    def make(subject: Subject) -> section.Content:
        return section.Content(values={"count": len(subject.record.epochs), "planned": subject.record.config.epochs})

    page, _ = run_page(Subject(read_record(trained)))

    assert "<p>2 epochs, planned 2</p>" in page
    names = re.findall(r'<section id="([^"]+)-section"', page)
    assert names[:3] == ["curves", "epochs", "results"]
    assert re.findall(r'<a href="#([^"]+)-section"', page) == names


def test_a_section_without_content_is_left_out(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section, "SECTIONS", dict(section.SECTIONS))
    section.section("empty", "Empty", order=15)(lambda _: None)

    page, _ = run_page(Subject(read_record(trained)))

    assert "Empty" not in page and "Mistakes" not in page and "Curves" in page
