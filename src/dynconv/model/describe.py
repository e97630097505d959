"""Shows a network as a table: for each layer, its part of the specification and its cost."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table

from dynconv.errors import DynconvError
from dynconv.model.config import ModelConfig
from dynconv.model.cost import Row, multiply_adds
from dynconv.model.net import shapes_of

PARTS = {
    "input": "input",
    "router": "a = g(f W)",
    "experts": "O = Σ aₖ Convₖ(X)",
    "other": "other",
    "head": "head",
}
LEGEND = (
    "f = SpatialAveragePool(X), a = g(f W), O = a₁ Conv₁(X) + ... + aₖ Convₖ(X); other: added components; the "
    "head takes the spatial mean of the last O. Multiply-adds count the linear maps, per image, with the K kernels "
    "mixed into one first (mixing included); the last column counts K separate convolutions."
)


def rows(model: ModelConfig, classes: int = 10, image_size: int = 32, also: Sequence[int] = ()) -> list[Row]:
    """The layers of the network that `model` describes, for images of image_size x image_size pixels.

    Args:
        also: other image sizes that the network must accept.

    Raises:
        DynconvError: the network cannot be built: its parts do not fit together, or the images are too small for it.
    """
    try:
        net = shapes_of(model, classes)
        for size in also:
            multiply_adds(net, size)
        return multiply_adds(net, image_size)
    except ValueError as error:
        raise DynconvError(f"model: {error}") from error


def headline(model: ModelConfig, classes: int = 10, image_size: int = 32, also: Sequence[int] = ()) -> str:
    """The network in one line. Raises DynconvError as `rows` does."""
    parameters, products, _ = _totals(rows(model, classes, image_size, also))
    blocks = f"{len(model.widths)} block{'s' if len(model.widths) > 1 else ''}"
    experts = f"{model.experts_text} expert{'s' if max(model.experts) > 1 else ''}"
    return f"{blocks} of {experts}, {_short(parameters)} parameters, {_short(products)} multiply-adds"


def describe(
    name: str, model: ModelConfig, classes: int = 10, image_size: int = 32, also: Sequence[int] = ()
) -> RenderableType:
    """The network as a table with totals. Raises DynconvError as `rows` does."""
    layers = rows(model, classes, image_size, also)
    parameters, products, separate = _totals(layers)
    title = f"{name}: {len(model.widths)} blocks, K = {model.experts_text} experts, {image_size} pixels"
    table = Table(
        show_footer=True,
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
    )
    for heading, footer, justify in (
        ("", "all", "left"),
        ("part", "", "left"),
        ("layer", "", "left"),
        ("output", "", "right"),
        ("learned", f"{parameters:,}", "right"),
        ("mult-adds", _short(products), "right"),
        ("K convs", _short(separate), "right"),
    ):
        table.add_column(heading, footer, justify=justify, no_wrap=heading != "layer")  # type: ignore[arg-type]
    for index, row in enumerate(layers):
        first = index == 0 or layers[index - 1].block != row.block
        last = index + 1 == len(layers) or layers[index + 1].block != row.block
        table.add_row(
            str(row.block) if row.block and first else "",
            PARTS[row.part],
            row.layer,
            "x".join(map(str, row.shape)),
            f"{row.parameters:,}" if row.parameters else "",
            _short(row.multiply_adds),
            _short(row.separate_multiply_adds),
            end_section=last,
        )
    return Group(table, LEGEND)


def _totals(layers: list[Row]) -> tuple[int, int, int]:
    return (
        sum(row.parameters for row in layers),
        sum(row.multiply_adds for row in layers),
        sum(row.separate_multiply_adds for row in layers),
    )


def _short(n: int) -> str:
    for unit, name in ((10**9, " G"), (10**6, " M"), (10**3, " k")):
        if n >= unit:
            return f"{n / unit:.1f}{name}"
    return str(n) if n else ""
