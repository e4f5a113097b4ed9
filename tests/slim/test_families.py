"""Networks of torchvision and timm: exact at full width, after reordering, when extracted, and in their cost."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "slimmable_families.py"
FAST = {
    "timm/regnety_002": 0.99,
    "timm/convnextv2_atto": 1.0,
    "timm/tf_efficientnet_b0": 0.99,
}
SLOW = {"timm/mobilenetv4_conv_small": 1.0, "timm/ecaresnet26t": 0.99}
"""Representative networks, tested by default or with -m slow, and the least share of their channels to be found."""


def load_script() -> ModuleType:
    pytest.importorskip("timm")
    if "slimmable_families" not in sys.modules:
        spec = importlib.util.spec_from_file_location("slimmable_families", SCRIPT)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["slimmable_families"] = module
        spec.loader.exec_module(module)
    return sys.modules["slimmable_families"]


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
@pytest.mark.filterwarnings("ignore")
def test_representative_families(name: str) -> None:
    row = load_script().measure(name)
    assert row.exact and row.share >= (FAST | SLOW)[name], row


@pytest.mark.slow
@pytest.mark.timeout(4 * 3600)
@pytest.mark.filterwarnings("ignore")
def test_all_families() -> None:
    script, wrong = load_script(), []
    assert sum(name.startswith("timm/") for name in script.ALL) >= 40
    for name in script.ALL:
        try:
            row = script.measure(name)
        except Exception as error:
            wrong.append(f"{name}: {error}")
            continue
        print(row)
        if not row.exact or not row.share:
            wrong.append(str(row))
    assert not wrong, "\n".join(wrong)
