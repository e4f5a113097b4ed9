"""``torch.hub.load`` from a checkout, in a process that has only what hubconf asks for."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from alphanet_zoo.space.presets import ALIASES, IMAGENET_FAMILY
from alphanet_zoo.zoo.families import families

ROOT = Path(__file__).parents[1]
INCLUDED = families()["cifar10"]
NAMES = sorted([member.name for member in (*IMAGENET_FAMILY, *INCLUDED)] + list(ALIASES))

_SCRIPT = """
import importlib.util, json, os, sys

class Absent:
    names = {"torchvision", "onnx", "onnxruntime", "onnxscript", "pydantic", "pydantic_core", "yaml", "PIL", "timm",
             "sklearn", "matplotlib", "tensorboard"}
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
os.environ.pop("ALPHANET_HUB_ORG", None)
import torch
checkout = sys.argv[1]
spec = importlib.util.spec_from_file_location("hubconf", os.path.join(checkout, "hubconf.py"))
hubconf = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hubconf)
public = [name for name in dir(hubconf) if callable(getattr(hubconf, name)) and not name.startswith("_")]
told = {"list": public, "archs": {}, "help": {name: getattr(hubconf, name).__doc__ for name in public}}
for name in told["list"]:
    net = torch.hub.load(checkout, name, source="local", pretrained=False)
    told["archs"][name] = net.arch.to_dict()
with torch.no_grad():
    net = torch.hub.load(checkout, "alphanet_a0", source="local", weights="random", num_classes=5)
    told["shape"] = list(net(torch.zeros(1, 3, 64, 64)).shape)
told["included"] = [torch.hub.load(checkout, "alphanet_c10_xs", source="local").calibration["images"]]
try:
    torch.hub.load(checkout, "alphanet_a5", source="local")
except Exception as error:
    told["error"] = [type(error).__name__, str(error)]
import alphanet_zoo
told["home"] = alphanet_zoo.__file__
told["loaded"] = sorted(Absent.names & set(sys.modules))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what torch.hub uses of the tree."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copy(ROOT / "hubconf.py", folder)
    shutil.copytree(ROOT / "alphanet_zoo", folder / "alphanet_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def told(checkout: Path) -> Any:
    """What the process saw."""
    command = [sys.executable, "-W", "error", "-c", _SCRIPT, str(checkout)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=checkout.parent)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_name_is_an_entry_point_and_builds_its_arch(told: Any, checkout: Path) -> None:
    assert sorted(told["list"]) == NAMES
    archs = {member.name: member.arch.to_dict() for member in (*IMAGENET_FAMILY, *INCLUDED)}
    assert told["archs"] == {name: archs[ALIASES.get(name, name)] for name in NAMES}
    assert Path(told["home"]).is_relative_to(checkout)
    assert told["loaded"] == []


def test_the_docstrings_state_the_published_figures(told: Any) -> None:
    for member in IMAGENET_FAMILY:
        assert f"published ImageNet top-1 {member.top1:.2f} %" in told["help"][member.name]
    for member in INCLUDED:
        assert f"test top-1 {member.top1:.2f} %" in told["help"][member.name]


def test_arguments_reach_create_model(told: Any) -> None:
    assert told["shape"] == [1, 5]


def test_weights_are_pretrained_by_default_and_nobody_has_published_them(told: Any) -> None:
    assert told["included"] == [8192]
    name, message = told["error"]
    assert name == "AlphaNetError" and "weights of alphanet_a5 are not published yet" in message
