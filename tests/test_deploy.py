"""The files in deploy/ and those of the repository's host: they name what exists."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

from dynconv.cli.serve import ServeArguments
from dynconv.serve.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "server.json"
FROM_PROMETHEUS = {"up"}
"""Metrics that Prometheus adds itself."""


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def served_metrics() -> set[str]:
    metrics = Metrics(lambda: 0.0)
    metrics.count_answer("/v1/predict", 200, 0.1)
    metrics.count_batch(2, 0.1)
    lines = [line for line in metrics.text().decode().splitlines() if not line.startswith("#")]
    return {re.split("[{ ]", line)[0] for line in lines}


def asked_metrics(expression: str) -> set[str]:
    """The names of metrics in an expression of PromQL."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(by|without)\s*\([^)]*\)', "", expression)
    return set(re.findall(r"\b[a-z][a-z0-9_]*\b(?!\s*\()", bare)) - {"by", "and", "or", "unless"}


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_the_server_has() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    alerts = [rule["expr"] for group in read(DEPLOY / "prometheus" / "alerts.yml")["groups"] for rule in group["rules"]]
    asked = set(chain.from_iterable(map(asked_metrics, queries + alerts)))

    assert len(queries) > 15 and len(alerts) >= 4 and asked_metrics('sum by (le) (rate(a_b{c="d"}[5m])) > 2') == {"a_b"}
    assert asked <= served_metrics() | FROM_PROMETHEUS
    ours = {
        re.sub("_(bucket|sum|count|created|total)$", "", name)
        for name in served_metrics()
        if name.startswith("dynconv")
    }
    shown = {re.sub("_(bucket|sum|count|total)$", "", name) for name in asked}
    assert ours <= shown, "each metric of the server is shown"


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    cells: list[tuple[int, int]] = []
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        place = panel["gridPos"]
        cells += [
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        ]

    assert len(set(cells)) == len(cells) and max(x for x, _ in cells) == 23


def test_the_parts_of_the_compose_file_fit_together() -> None:
    services = read(DEPLOY / "compose.yaml")["services"]
    data_source = read(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"][0]
    provider = read(DEPLOY / "grafana" / "provisioning" / "dashboards" / "dashboards.yml")["providers"][0]
    scraped = read(DEPLOY / "prometheus" / "prometheus.yml")
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]

    assert data_source["url"] == "http://prometheus:9090" and "prometheus" in services
    assert {panel["datasource"]["uid"] for panel in panels} == {data_source["uid"]}
    assert scraped["scrape_configs"][0]["static_configs"][0]["targets"] == ["serve:8000"]
    assert all((DEPLOY / "prometheus" / name).is_file() for name in scraped["rule_files"])
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in services["grafana"]["volumes"]
    options = {f"--{name.replace('_', '-')}" for name in ServeArguments.model_fields}
    assert {word for word in services["serve"]["command"] if word.startswith("--")} <= options
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"], name
    assert services["serve"]["read_only"] and services["serve"]["tmpfs"]
    assert (
        int(services["serve"]["stop_grace_period"].rstrip("s")) > 2 * ServeArguments.model_fields["timeout"].default + 5
    )


@pytest.mark.parametrize("name", ["serve", "train"])
def test_a_dockerfile_copies_what_exists_and_runs_as_nobody_in_particular(name: str) -> None:
    text = (DEPLOY / f"{name}.Dockerfile").read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE) for word in line.split()]
    let_in = [
        line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    ]

    assert copied and all((ROOT / each).exists() for each in copied) and set(copied) == set(let_in)
    assert text.rindex("\nUSER 10001:10001\n") > text.rindex("\nRUN ")


@pytest.mark.parametrize("name", ["serve", "train"])
def test_a_dockerfile_follows_the_rules_of_hadolint(name: str) -> None:
    places = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    hadolint = shutil.which("hadolint", path=places)
    if hadolint is None:
        pytest.skip("no hadolint for this platform; not tested: the Dockerfiles against its rules")

    subprocess.run([hadolint, str(DEPLOY / f"{name}.Dockerfile")], check=True)


def test_the_server_in_its_image_is_told_from_a_dead_one() -> None:
    text = (DEPLOY / "serve.Dockerfile").read_text(encoding="utf-8")

    assert re.search(r"HEALTHCHECK .*\n *CMD .*http://127\.0\.0\.1:8000/healthz", text)
    assert "EXPOSE 8000" in text and ServeArguments.model_fields["port"].default == 8000


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem)
def test_a_workflow_runs_make_targets_that_exist_with_few_rights(path: Path) -> None:
    workflow = read(path)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    commands = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    targets = [word for command in commands for word in re.findall(r"make ([a-z -]+)", command)]

    assert workflow["permissions"] == {}
    assert all(f"\n{target}: " in makefile for words in targets for target in words.split()), targets
    for job in workflow["jobs"].values():
        assert set(job.get("needs", [])) <= workflow["jobs"].keys() or job["needs"] in workflow["jobs"]
        assert job.get("permissions"), "each job says what it may"


def test_the_forms_for_issues_can_be_read() -> None:
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = read(path)
        if path.stem != "config":
            assert form["name"] and form["description"]
            assert all(part["type"] in ("markdown", "textarea") and part["attributes"] for part in form["body"])


def test_the_citation_names_this_version() -> None:
    citation = read(ROOT / "CITATION.cff")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert [one["name"] for one in citation["authors"]] == [one["name"] for one in project["authors"]]
