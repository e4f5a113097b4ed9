"""The published checkpoint's layout, read safely and strictly."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.zoo.convert import load_upstream, name_map, supernet_of

DATA = Path(__file__).parents[1] / "fixtures"
LAYOUT: dict[str, list[int]] = json.loads((DATA / "upstream" / "checkpoint_keys.json").read_text())
ARCHS = json.loads((DATA / "golden" / "archs.json").read_text())
HEAD = "classifier.linear.linear"

State = dict[str, Any]


@pytest.fixture(scope="module")
def supernet(upstream_checkpoint: Path) -> AlphaNet:
    return load_upstream(upstream_checkpoint)


def hollow_state(prefix: str = "module.") -> State:
    """Zeros in the published layout, each tensor one number in the file."""
    return {
        prefix + key: torch.zeros((), dtype=torch.int64 if key.endswith("tracked") else torch.float32).expand(shape)
        for key, shape in LAYOUT.items()
    }


def saved(path: Path, state: object, **others: object) -> Path:
    torch.save({"state_dict": state, **others}, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("name", ["a0", "a4", "r0"])
def test_extracted_subnets_give_the_golden_logits(supernet: AlphaNet, name: str) -> None:
    net = supernet.extract(ArchSpec.from_dict(ARCHS[name]["spec"])).eval()
    with np.load(DATA / "golden" / "logits.npz") as golden:
        for key, seed, side in (("x224", 0, 224), ("native", net.arch.resolution, net.arch.resolution)):
            images = np.random.default_rng(seed).standard_normal((2, 3, side, side)).astype("f4")
            with torch.no_grad():
                logits = net(torch.from_numpy(images)).numpy()
            expected = golden[f"{name}/{key}"]
            error = float(np.abs(logits - expected).max() / np.abs(expected).max())
            assert error <= 1e-5, f"{name}/{key}: relative error {error:.2e}"


def test_the_supernet_is_whole_and_says_where_it_comes_from(supernet: AlphaNet) -> None:
    assert supernet.supernet and not supernet.training
    assert supernet.arch == ALPHANET.largest and supernet.space == ALPHANET and supernet.num_classes == 1000
    assert supernet.calibration == "checkpoint"
    assert supernet.pretrained_cfg["license"] == "cc-by-nc-4.0"
    assert supernet.pretrained_cfg["input_size"] == (3, 288, 288), "the resolution of the largest arch"
    assert all(parameter.requires_grad and not parameter.is_meta for parameter in supernet.parameters())
    assert supernet.extract(ALPHANET.smallest).calibration == "sliced"


def test_the_map_covers_the_layout_and_the_net() -> None:
    names = name_map()
    assert set(names) == set(LAYOUT)
    kept = [ours for ours in names.values() if ours is not None]
    assert sorted(kept) == sorted(build_supernet().state_dict())
    shortcuts = [key for key in names if key.endswith("shortcut.conv.conv.weight")]
    assert (len(shortcuts), sum(names[key] is not None for key in shortcuts)) == (37, 7)
    assert all(names[key] is None for key in names if "bn_tracking" in key)


def test_reading_needs_and_leaves_no_foreign_module(tmp_path: Path) -> None:
    allowed = set(torch.serialization.get_safe_globals())
    load_upstream(saved(tmp_path / "hollow.pth.tar", hollow_state()))
    assert "utils.config" not in sys.modules
    assert set(torch.serialization.get_safe_globals()) == allowed


def test_keys_without_prefix_and_other_class_counts_load(tmp_path: Path) -> None:
    state = hollow_state(prefix="")
    state[f"{HEAD}.weight"], state[f"{HEAD}.bias"] = torch.ones(10, 1984), torch.ones(10)
    net = load_upstream(saved(tmp_path / "ten.pth.tar", state))
    assert net.num_classes == net.pretrained_cfg["num_classes"] == 10
    assert net.classifier.weight.shape == (10, 1984) and bool((net.classifier.weight == 1).all())


def test_the_zip_format_loads_too(tmp_path: Path) -> None:
    torch.save({"state_dict": hollow_state()}, tmp_path / "zip.pth.tar")
    assert load_upstream(tmp_path / "zip.pth.tar").num_classes == 1000


def drop(state: State) -> None:
    del state["module.first_conv.conv.conv.weight"]


def add(state: State) -> None:
    state["module.blocks.37.extra.weight"] = torch.zeros(1)


def reshape(state: State) -> None:
    state["module.first_conv.bn.bn.bias"] = torch.zeros(23)


def retype(state: State) -> None:
    state["module.first_conv.bn.bn.bias"] = torch.zeros(24, dtype=torch.float16)


def flatten_head(state: State) -> None:
    state[f"module.{HEAD}.weight"] = torch.zeros(1000)


def drop_many(state: State) -> None:
    for key in [key for key in state if ".bn.bn.running_mean" in key]:
        del state[key]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (drop, "missing: first_conv.conv.conv.weight"),
        (add, "unexpected: blocks.37.extra.weight"),
        (reshape, "wrong shape: first_conv.bn.bn.bias (23,), expected (24,)"),
        (retype, "wrong type: first_conv.bn.bn.bias torch.float16, expected torch.float32"),
        (flatten_head, f"wrong shape: {HEAD}.weight (1000,), expected (1000, 1984)"),
        (drop_many, "and 103 more"),
    ],
)
def test_tensors_that_do_not_fit_are_named(spoil: Callable[[State], None], told: str) -> None:
    state = hollow_state()
    spoil(state)
    with pytest.raises(AlphaNetError) as caught:
        supernet_of({key.removeprefix("module."): tensor for key, tensor in state.items()}, "spoiled.pth.tar")
    assert told in str(caught.value) and caught.value.exit_code == 1


class Shell:
    """Unpickled, runs a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


class Opener:
    """Unpickled, makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.path, "w")


slow = pytest.mark.slow  # A child process reads each file, and imports torch first.


@pytest.mark.parametrize(
    ("where", "kind", "name"),
    [
        ("state_dict", Shell, f"{os.name}.system"),
        ("bare", Opener, "open"),
        pytest.param("args", Shell, f"{os.name}.system", marks=slow),
        pytest.param("bare", Shell, f"{os.name}.system", marks=slow),
        pytest.param("state_dict", Opener, "open", marks=slow),
        pytest.param("args", Opener, "open", marks=slow),
    ],
)
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, where: str, kind: type[Any], name: str) -> None:
    mark = tmp_path / "ran"
    hostile = kind(f"touch {mark}" if kind is Shell else str(mark))
    path = tmp_path / "hostile.pth.tar"
    if where == "bare":
        path.write_bytes(pickle.dumps(hostile, protocol=2))
    else:
        saved(path, {}, **{where: hostile}) if where == "args" else saved(path, hostile)
    with pytest.raises(AlphaNetError) as caught:
        load_upstream(path)
    assert (
        caught.value.exit_code == 1
        and name in str(caught.value)
        and "which an AlphaNet checkpoint does not; it was not run" in str(caught.value)
    )
    assert "weights_only" not in str(caught.value), "no advice to load it unsafely"
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        pytest.param(b"", "is not a readable checkpoint", marks=slow),
        (b"not a checkpoint " * 50, "is not a readable checkpoint"),
        pytest.param(pickle.dumps({"state_dict": {}}, protocol=4), "is not a readable checkpoint", marks=slow),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: bytes, told: str) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(AlphaNetError, match=told) as caught:
        load_upstream(tmp_path / "file")
    assert caught.value.exit_code == 1


@pytest.mark.parametrize("share", [0.5, pytest.param(0.0, marks=slow), pytest.param(1.0, marks=slow)])
def test_a_truncated_checkpoint_is_refused(upstream_checkpoint: Path, tmp_path: Path, share: float) -> None:
    whole = upstream_checkpoint.read_bytes()
    (tmp_path / "cut").write_bytes(whole[: min(max(40, int(len(whole) * share)), len(whole) - 1)])
    with pytest.raises(AlphaNetError, match="is not a readable checkpoint"):
        load_upstream(tmp_path / "cut")


@pytest.mark.parametrize(
    ("state", "told"),
    [pytest.param(None, "has no 'state_dict'", marks=slow), ({"module.a": 1}, "a is not a dense tensor"),
     pytest.param({"module.a": torch.zeros(1), "a": torch.zeros(1)}, "two entries have the same name", marks=slow)],
)  # fmt: skip
def test_a_pickle_without_tensors_is_refused(tmp_path: Path, state: object, told: str) -> None:
    with pytest.raises(AlphaNetError, match=told):
        load_upstream(saved(tmp_path / "other", state))


def test_a_missing_file_is_a_wrong_argument(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        load_upstream(tmp_path / "nowhere.pth.tar")
