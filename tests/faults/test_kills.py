"""F02 and F30: a process killed while it writes a checkpoint or an export leaves the old one or the new one."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from alphanet_export.metadata import open_exported
from alphanet_zoo.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint
from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.zoo.files import save_net
from tests.faults.dying import BYTE, ENVIRONMENT, OPERATION

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the kernel ends the process at a byte on Linux")

Cases = list[tuple[str, str, int]]
"""Folder, and the arguments of `tests.faults.dying.die`."""


def ends(script: str, cases: Cases, *arguments: str) -> list[tuple[int, int]]:
    """The exit code of each case, and the operations of those that ended by themselves."""
    words = [sys.executable, "-c", script, json.dumps(cases), *arguments]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr[-2000:]
    results: list[tuple[int, int]] = json.loads(done.stdout.splitlines()[-1])
    return results


def spread(most: int, count: int) -> list[int]:
    """``count`` numbers from 1 to ``most``, evenly spread."""
    return sorted({1 + index * (most - 1) // (count - 1) for index in range(count)})


SAVING = """
import json, sys
from pathlib import Path
import torch
from alphanet_zoo.checkpoint import Checkpoint, save_checkpoint
from tests.faults.dying import die, in_child

def save(folder, kind, number, step):
    counted = die(Path(folder), kind, number)
    tensors = {"model/a": torch.full((1000,), float(step)), "n": torch.tensor(step)}
    state = {"config": {"seed": 1}, "order": list(range(2000))}
    save_checkpoint(Path(folder), Checkpoint(step, tensors, state), keep=2)
    Path(folder, "operations").write_text(str(counted()))

results = []
for folder, kind, number in json.loads(sys.argv[1]):
    code = in_child(lambda: save(folder, kind, number, int(sys.argv[2])))
    place = Path(folder, "operations")
    results.append([code, int(place.read_text()) if place.exists() else 0])
print(json.dumps(results))
"""


def checkpoint_of(step: int) -> Checkpoint:
    tensors = {"model/a": torch.full((1000,), float(step)), "n": torch.tensor(step)}
    return Checkpoint(step, tensors, {"config": {"seed": 1}, "order": list(range(2000))})


def whole(checkpoint: Checkpoint | None) -> bool:
    return checkpoint is not None and bool((checkpoint.tensors["model/a"] == float(checkpoint.step)).all())


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("before", "step"), [((4, 5), 6), ((5,), 5)], ids=["next step", "same step again"])
def test_fifty_kills_while_saving_lose_no_verified_checkpoint(
    before: tuple[int, ...], step: int, tmp_path: Path
) -> None:
    for each in before:
        save_checkpoint(tmp_path / "before", checkpoint_of(each), keep=2)
    size = max(file.stat().st_size for file in (tmp_path / "before" / f"step-{before[-1]}").iterdir())
    shutil.copytree(tmp_path / "before", tmp_path / "count")
    ((code, operations),) = ends(SAVING, [(str(tmp_path / "count"), OPERATION, 0)], str(step))
    assert code == 0 and operations > 10
    moments = [(OPERATION, number) for number in range(1, operations + 1)]
    moments += [(BYTE, (size - 1) * index // (49 - operations)) for index in range(50 - operations)]
    assert len(moments) == 50
    cases: Cases = []
    for number, (kind, offset) in enumerate(moments):
        shutil.copytree(tmp_path / "before", tmp_path / str(number))
        cases.append((str(tmp_path / str(number)), kind, offset))
    loaded = []
    for (folder, kind, offset), (code, _) in zip(cases, ends(SAVING, cases, str(step)), strict=True):
        assert code < 0, f"{kind} {offset}: not killed"
        found = latest_checkpoint(Path(folder))
        assert found is not None and whole(found), f"{kind} {offset}"
        assert found.step in (before[-1], step), f"{kind} {offset}"
        loaded.append(found.step)
        save_checkpoint(Path(folder), checkpoint_of(step), keep=2)
        assert not list(Path(folder).glob(".*")), "what the killed process left is removed"
    assert {before[-1], step} == set(loaded)


EXPORTING = """
import json, sys
from pathlib import Path
import torch, onnxscript, torch.onnx, alphanet_export.export, alphanet_export.write
from alphanet_zoo.cli.main import main
from tests.faults.dying import die, in_child

def export(folder, kind, number):
    counted = die(Path(folder), kind, number)
    code = main(["export", *sys.argv[2:], "-o", folder + "/net" + ENDING])
    print("operations", counted(), file=sys.stderr)
    Path(folder + ".operations").write_text(str(counted()))
    return code

ENDING = ".onnx" if "onnx" in sys.argv else ".xml"
results = []
for folder, kind, number in json.loads(sys.argv[1]):
    code = in_child(lambda: export(folder, kind, number))
    place = Path(folder + ".operations")
    results.append([code, int(place.read_text()) if place.exists() else 0])
print(json.dumps(results))
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["onnx", "openvino"])
def test_twenty_kills_while_an_export_is_written_leave_the_old_or_the_new_file(kind: str, tmp_path: Path) -> None:
    nets = {}
    for seed in (1, 2):
        net = fill_live(AlphaNet(ALPHANET_TINY.smallest, ALPHANET_TINY, 10), seed=seed)
        net.calibration = "training"
        save_net(net, tmp_path / f"{seed}.safetensors")
        (tmp_path / f"export-{seed}").mkdir()
        options = [str(tmp_path / f"{seed}.safetensors"), "--format", kind, "--name", "net", "--skip-verify"]
        ((code, operations),) = ends(EXPORTING, [(str(tmp_path / f"export-{seed}"), OPERATION, 0)], *options)
        assert code == 0 and operations > 3
        nets[seed] = {path.name: path.read_bytes() for path in (tmp_path / f"export-{seed}").iterdir()}
    old, new = nets[1], nets[2]
    assert old != new and old.keys() == new.keys()
    largest = max(map(len, new.values()))
    moments = [(OPERATION, number) for number in spread(operations, 10)]
    moments += [(BYTE, (largest - 1) * index // (19 - len(moments))) for index in range(20 - len(moments))]
    assert len(moments) == 20
    cases: Cases = []
    for number, (way, offset) in enumerate(moments):
        shutil.copytree(tmp_path / "export-1", tmp_path / f"killed-{number}")
        cases.append((str(tmp_path / f"killed-{number}"), way, offset))
    seen = set()
    for (folder, way, offset), (code, _) in zip(cases, ends(EXPORTING, cases, *options), strict=True):
        assert code < 0, f"{way} {offset}: not killed"
        for name in new:
            content = (Path(folder) / name).read_bytes()
            assert content in (old[name], new[name]), f"{way} {offset}: {name} is half a file"
            seen.add((name, content == new[name]))
        main_file = Path(folder) / ("net.onnx" if kind == "onnx" else "net.xml")
        try:
            open_exported(main_file)
        except AlphaNetError as error:  # Files of one export that a kill separated are not accepted together.
            assert kind == "openvino" and "changed" in str(error), error
    assert all((name, False) in seen for name in new)
