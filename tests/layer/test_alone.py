"""`dynconv.layer` could be a package of its own: it imports torch, and nothing else that has to be installed."""

import subprocess
import sys

ALONE = """
import builtins, importlib.abc, sys

def own(name):
    top = name.partition(".")[0]
    return top in {*sys.stdlib_module_names, "torch"} or name == "dynconv" or (name + ".").startswith("dynconv.layer.")

class Refuse(importlib.abc.MetaPathFinder):
    "The rest of dynconv cannot be imported at all."
    def find_spec(self, name, path=None, target=None):
        if name.startswith("dynconv.") and not own(name):
            raise ModuleNotFoundError(f"{name} is not part of dynconv.layer", name=name)

def guarded(name, globals=None, locals=None, fromlist=(), level=0, original=builtins.__import__):
    "Nor can dynconv's modules import what torch may import, and may have imported already."
    importer = (globals or {}).get("__name__", "")
    if (importer + ".").startswith("dynconv.") and not level and not own(name):
        raise ModuleNotFoundError(f"{importer} imports {name}", name=name)
    return original(name, globals, locals, fromlist, level)

sys.meta_path.insert(0, Refuse())
builtins.__import__ = guarded

import torch
from dynconv.layer import DynamicConv2d, convert

torch.manual_seed(0)
x, conv = torch.randn(2, 3, 8, 8), torch.nn.Conv2d(3, 4, 3)
assert torch.allclose(convert(conv, experts=2)(x), conv(x), atol=1e-5)
for refused in ("numpy", "pydantic", "rich", "dynconv.config", "dynconv.model"):
    try:
        exec(f"import {refused}", {"__name__": "dynconv.layer.intruder"})
    except ModuleNotFoundError as reason:
        assert "dynconv.layer" in str(reason)
    else:
        raise AssertionError(f"{refused} was not refused")
print("computed", tuple(DynamicConv2d(3, 4, 3)(x).shape))
"""


def test_the_layer_needs_torch_alone() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "computed (2, 4, 6, 6)"
