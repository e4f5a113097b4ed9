"""How files of others are opened: by safe readers only, and by nothing that the lists below do not name."""

from __future__ import annotations

import ast
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.search.device import LatencyModel
from alphanet_zoo.space.custom import find_space
from alphanet_zoo.tensor_file import read_tensor_file
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.folder import stored_config
from alphanet_zoo.zoo.archs import read_front
from alphanet_zoo.zoo.local import published_folder
from tests.faults.dying import ENVIRONMENT
from tests.faults.fuzz_targets import TARGETS

ROOT = Path(__file__).parents[2]
SOURCES = [
    path for folder in ("alphanet_zoo", "export", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))
]

FORBIDDEN = {"yaml.load", "yaml.full_load", "yaml.unsafe_load", "pickle.load", "pickle.loads", "marshal.loads",
             "torch.jit.load", "joblib.load", "np.load", "numpy.load", "onnx.load", "onnx.load_model"}  # fmt: skip
"""Calls that can run code from a file, or open other files that it names."""


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    """The calls in a module by dotted name."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_every_torch_load_is_safe_and_no_unsafe_reader_is_called() -> None:
    found = 0
    for path in SOURCES:
        for name, call in calls(path):
            place = f"{path.relative_to(ROOT)}:{call.lineno}: {name}"
            assert name not in FORBIDDEN, place
            if name == "torch.load":
                found += 1
                safe = [ast.unparse(each.value) for each in call.keywords if each.arg == "weights_only"]
                assert safe == ["True"], f"{place} without weights_only=True"
            if name in ("safe_open", "load_file", "safetensors.torch.load_file"):
                raise AssertionError(f"{place}; use alphanet_zoo.tensor_file, which checks more")
            if name.endswith("Image.open") and path.is_relative_to(ROOT / "alphanet_zoo"):
                formats = any(each.arg == "formats" for each in call.keywords)
                assert formats, f"{place} without a closed list of formats"
            if name.endswith((".extractall", ".unpack_archive")):
                assert any(each.arg == "filter" for each in call.keywords), f"{place} without a filter"
    assert found, "the search found no torch.load at all"


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_a_mutated_file_is_read_or_refused(name: str, tmp_path: Path) -> None:
    """A few cases of each reader; `test_a_hundred_thousand_mutated_files` runs the others."""
    target, cases = TARGETS[name], 20
    seeds, read = target.seeds(tmp_path), target.reader(tmp_path)
    place = tmp_path / "case" / f"x{target.ending}"
    place.parent.mkdir()
    refused = 0
    for index in range(cases):
        place.write_bytes(target.mutate(random.Random(f"fast {index}"), seeds))
        try:
            read(place)
        except target.errors as error:
            assert type(error) is ValueError or isinstance(error, AlphaNetError), f"case {index}: {error!r}"
            refused += 1
    assert refused > cases // 4


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_mutated_files() -> None:
    done = subprocess.run([sys.executable, "-m", "tests.faults.fuzz"], env=ENVIRONMENT, capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0 and "100,000 cases, 0 failures" in done.stdout, done.stdout + done.stderr


DEVICE = {"device": {"cpu": "x"}, "space": "x", "num_classes": 10, "times_ms": {"a": 1.0}, "scale": 1.0,
          "per_part_ms": 0.0, "base_ms": 0.0, "errors": None, "version": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("times_ms", {"a": "fast"}, "the time of a is 'fast', which is not a number"),
        ("times_ms", {"a": float("nan")}, "the time of a is nan"),
        ("times_ms", [1.0], "is not a latency model"),
        ("scale", None, "scale is None"),
        ("space", 3, "space is not a name"),
    ],
)
def test_a_latency_model_of_other_values_is_refused(key: str, value: object, told: str, tmp_path: Path) -> None:
    (tmp_path / "device.json").write_text(json.dumps(DEVICE))
    assert LatencyModel.read(tmp_path / "device.json").times_ms == {"a": 1.0}
    (tmp_path / "device.json").write_text(json.dumps(DEVICE | {key: value}))
    with pytest.raises(AlphaNetError, match=told) as caught:
        LatencyModel.read(tmp_path / "device.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["1M", None, [1], True, float("inf")])
def test_a_front_whose_costs_are_not_numbers_is_refused(value: object, tmp_path: Path) -> None:
    (tmp_path / "front.json").write_text(json.dumps({"front": [{"arch": {}, "macs": 5}, {"arch": {}, "macs": value}]}))
    with pytest.raises(AlphaNetError, match="macs of entry 2 is"):
        read_front(tmp_path / "front.json")


NESTED = "[" * 200 + "1" + "]" * 200
UNREADABLE = {
    "a date": "seed: 2001-99-99", "nesting": "seed: " + "[" * 1000, "digits": "seed: " + "9" * 5000,
    "size": "seed: [" + ", ".join([NESTED] * 1000) + "]",
}  # fmt: skip
"""Texts that PyYAML cannot read, and one of 400 kB that it reads for seconds."""


@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_a_file_that_yaml_cannot_read_is_a_usage_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    began = time.process_time()
    for read in (load_config, find_space):
        with pytest.raises(UsageError, match=r"recipe\.yaml") as caught:
            read(str(tmp_path / "recipe.yaml"))
        assert len(str(caught.value)) < 1000
    (tmp_path / "recipe.yaml").rename(tmp_path / "config.yaml")
    with pytest.raises(AlphaNetError, match=r"config\.yaml"):
        stored_config(tmp_path)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("name", ["../weights", "a/b", "x" * 300, ""])
def test_a_manifest_names_files_of_its_folder_only(name: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"files": {name: "0" * 64}, "facts": {}}))
    with pytest.raises(AlphaNetError, match="is damaged"):
        published_folder(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_in_place_of_weights_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.safetensors")
    with pytest.raises(AlphaNetError, match="not a regular file"):
        read_tensor_file(tmp_path / "net.safetensors")
