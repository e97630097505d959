"""The page about a sweep."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from dynconv.artifacts.files import write_text
from dynconv.errors import DynconvError
from dynconv.report.page import render
from dynconv.report.write import PAGE
from dynconv.sweep.plots import plots
from dynconv.sweep.result import Result, number_text

FEWEST = 8
"""Complete trials from which importance is computed: the best quarter of fewer is a single one."""


def write_page(result: Result, study: optuna.Study, folder: Path) -> Path:
    """Writes report.html and its plots into report/ in the sweep's folder. Raises DynconvError if it cannot."""
    drawn = plots(result, _importance(result, study))
    fields = [axis.field for axis in result.sweep.axes]
    order = [*result.ranked, *(row for row in result.rows if not row.complete)]
    page = render(
        "sweep.html",
        title=f"Sweep of {', '.join(fields)}" if len(fields) < 4 else f"Sweep of {len(fields)} fields",
        problems=[],
        result=result,
        fields=fields,
        rows=order,
        best=result.ranked[0] if result.ranked else None,
        base=next((row for row in result.ranked if row.number == 0 and _is_base(result)), None),
        plots={plot.name: plot for plot in drawn},
        text=number_text,
    )
    target = folder / "report"
    try:
        target.mkdir(exist_ok=True)
    except OSError as error:
        raise DynconvError(f"{target}: cannot be written ({error.strerror})") from error
    for plot in drawn:
        plot.save(target)
    write_text(target / PAGE, page)
    return target / PAGE


def _is_base(result: Result) -> bool:
    """Whether trial 0 is the base configuration itself."""
    base, first = result.sweep.base, result.rows[0]
    return result.sweep.trial_config(first.values, epochs=first.about.get("epochs")) == base


def _importance(result: Result, study: optuna.Study) -> dict[str, float]:
    """The share of each field that had several values, largest first; empty if there are too few trials."""
    varied = [
        axis.field
        for axis in result.sweep.axes
        if len({number_text(row.values[axis.field]) for row in result.ranked}) > 1
    ]
    if len(result.ranked) < FEWEST or len(varied) < 2:
        return {}
    return dict(
        get_param_importances(study, evaluator=PedAnovaImportanceEvaluator(target_quantile=0.25), params=varied)
    )
