"""Draws docs/modules.svg: which packages of dynconv import which others, as the code has it.

    python docs/modules.py

An arrow that follows from others is left out (the transitive reduction): cli imports training, and also reaches it by
way of sweep. Imports for type checking alone do not count. A test compares the committed drawing with the code.
"""

from __future__ import annotations

from pathlib import Path

import grimp
import networkx

PICTURE = Path(__file__).with_suffix(".svg")
PLACES = {
    "__main__": (2.0, 0), "api": (0.55, 1), "cli": (2.0, 1), "sweep": (0.0, 2), "bench": (1.8, 2), "doctor": (3.9, 2),
    "report": (0.9, 3), "export": (1.9, 3), "serve": (3.0, 3), "page": (3.0, 4), "training": (0.5, 5),
    "inference": (2.0, 5), "artifacts": (1.2, 6), "data": (1.2, 7), "model": (1.2, 8), "machine": (3.3, 8),
    "validation": (0.7, 9), "layer": (2.2, 9), "errors": (3.3, 10),
}  # fmt: skip
"""Column and row of each package; the lower rows know nothing of the upper ones."""
COLUMN, ROW, WIDTH, HEIGHT, MARGIN = 118, 66, 98, 32, 12
"""Distances and sizes in pixels."""
STYLE = """
  .paper { fill: #ffffff; stroke: #d9dde3 }
  .box { fill: #eef3f8; stroke: #0072b2 }
  .arrow { fill: none; stroke: #5d6470; stroke-width: 1.2; marker-end: url(#head) }
  text { font: 14px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1b1d21; text-anchor: middle }
"""


def imports() -> networkx.DiGraph:
    """One node for each package or module directly under dynconv, one edge from it to each that it imports."""
    code = grimp.build_graph("dynconv", exclude_type_checking_imports=True, cache_dir=None)
    found = networkx.DiGraph()
    for module in sorted(code.modules - {"dynconv"}):
        importer = module.split(".")[1]
        found.add_node(importer)
        for other in sorted(code.find_modules_directly_imported_by(module) - {"dynconv"}):
            if (imported := other.split(".")[1]) != importer:
                found.add_edge(importer, imported)
    return found


def drawing() -> str:
    """The picture. Raises KeyError if a package has no place in PLACES."""
    graph = imports()
    boxes = [_box(name) for name in sorted(graph.nodes)]
    arrows = [_arrow(*edge) for edge in sorted(networkx.transitive_reduction(graph).edges)]
    width = round(COLUMN * max(column for column, _ in PLACES.values()) + WIDTH + 2 * MARGIN)
    height = ROW * max(row for _, row in PLACES.values()) + HEIGHT + 2 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<title>The packages of dynconv, and what each imports</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0 L8 4 L0 8 z" fill="#5d6470"/></marker></defs>',
        f'<rect class="paper" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        *arrows,
        *boxes,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _middle(name: str) -> tuple[float, float]:
    column, row = PLACES[name]
    return MARGIN + WIDTH / 2 + COLUMN * column, MARGIN + HEIGHT / 2 + ROW * row


def _box(name: str) -> str:
    x, y = _middle(name)
    left, top = x - WIDTH / 2, y - HEIGHT / 2
    box = f'<rect class="box" x="{left:g}" y="{top:g}" width="{WIDTH}" height="{HEIGHT}" rx="5"/>'
    return f'{box}<text x="{x:g}" y="{y + 5:g}">{name}</text>'


def _arrow(importer: str, imported: str) -> str:
    """From the lower edge of one box to the upper edge of the other, leaving and arriving steeply."""
    (x0, y0), (x1, y1) = _middle(importer), _middle(imported)
    y0, y1 = y0 + HEIGHT / 2, y1 - HEIGHT / 2
    bend = (y1 - y0) / 2
    return f'<path class="arrow" d="M{x0:g} {y0:g} C{x0:g} {y0 + bend:g} {x1:g} {y1 - bend:g} {x1:g} {y1:g}"/>'


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
