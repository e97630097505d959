import sys
from typing import Any

import pytest
from matplotlib.figure import Figure

from dynconv.report.section import all_sections


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """The painted figures by name; they are not rendered, which takes long."""
    painted: dict[str, Figure] = {}

    def keep(name: str, caption: str, paint: Any, *size: float) -> str:
        paint(painted.setdefault(name, Figure()))
        return name

    all_sections()
    for name, module in list(sys.modules.items()):
        if name.startswith("dynconv.report.") and hasattr(module, "draw"):
            monkeypatch.setattr(module, "draw", keep)
    return painted
