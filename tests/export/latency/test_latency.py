import json
import os
import shutil
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from alphanet_export.freeze import freeze
from alphanet_export.latency.engines import ENGINES
from alphanet_export.latency.graphs import graph_bytes
from alphanet_export.latency.measure import time_all
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_zoo.cli.main import main
from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.search.device import LatencyModel, Part, distinct_parts, fit_model, parts_of
from alphanet_zoo.space.choices import Stage
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY
from alphanet_zoo.space.shapes import net_shape
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.files import save_net

SMALL = SearchSpace(
    name="small", resolution=(8,), stem_width=(8,), stem_stride=1, head_width=(16, 24),
    stages=(Stage("mb1", (8,), (1, 2), (3,), (1,), 1, False), Stage("mb2", (16,), (1, 2, 3), (3, 5), (3, 4), 2, True)),
)  # fmt: skip


def test_distinct_parts_are_counted_by_hand():
    # A stem, a block of mb1 (the same twice), 2 kernels x 2 ratios of first and of further blocks of mb2, two heads.
    assert len(distinct_parts(SMALL, 10)) == 1 + 1 + 4 + 4 + 2
    assert len(distinct_parts(ALPHANET, 1000)) == 896
    rng = np.random.default_rng(0)
    known = set(distinct_parts(TINY, 10))
    for _ in range(20):
        assert set(parts_of(net_shape(TINY, TINY.sample(rng)), 10)) <= known
    assert all(Part.of_key(part.key) == part for part in known)


def test_a_graph_has_the_operators_of_an_exported_network():
    net = fill_live(AlphaNet(TINY.smallest, TINY, 10)).eval()
    exported = onnx.load_from_string(onnx_bytes(freeze(net)))
    made = onnx.load_from_string(graph_bytes(parts_of(net_shape(TINY, TINY.smallest), 10)))

    def operators(model):
        shapes = {i.name: tuple(i.dims) for i in model.graph.initializer}
        found = []
        for node in model.graph.node:
            if node.op_type == "ConstantOfShape":
                target = next(i for i in model.graph.initializer if i.name == node.input[0])
                shapes[node.output[0]] = tuple(onnx.numpy_helper.to_array(target).tolist())
                continue
            group = next((a.i for a in node.attribute if a.name == "group"), 1)
            found.append((node.op_type, group, [shapes[name] for name in node.input if name in shapes]))
        return sorted(found, key=str)

    assert operators(made) == operators(exported)


def model_of(space=TINY, classes=10, factors=None):
    """A model whose parts have random times, and whose corrections are known."""
    factors = factors or {}
    rng = np.random.default_rng(0)
    times = {part.key: float(rng.uniform(0.5, 2.0)) for part in distinct_parts(space, classes)}
    nets = [tuple(parts_of(net_shape(space, space.sample(rng)), classes)) for _ in range(50)]
    measured = {net: factors.get(net[0].sizes[2], 1.0) * (0.7 * sum(times[p.key] for p in net) + 0.1 * len(net)) + 2.0
                for net in nets}  # fmt: skip
    groups = ({net: measured[net] for net in part} for part in (nets[:20], nets[20:]))
    return fit_model({"cpu": "x"}, space, classes, times, *groups)


def test_the_corrections_are_fitted_and_the_errors_are_those_of_other_networks():
    model = model_of()
    assert (model.scale, model.per_part_ms, model.base_ms) == pytest.approx((0.7, 0.1, 2.0), rel=1e-6)
    assert model.errors.median_percent < 1e-6 and model.errors.kendall_tau > 0.999 and model.errors.nets <= 30


def test_each_resolution_has_its_own_factor():
    low, high = TINY.resolution[0], TINY.resolution[-1]
    model = model_of(factors={low: 0.8, high: 1.2})
    assert model.by_resolution[str(high)] / model.by_resolution[str(low)] == pytest.approx(1.5, rel=0.1)
    assert model.errors.median_percent < 4
    plain = replace(model, by_resolution={}, base_ms=0.0)
    shape = net_shape(TINY, TINY.largest)
    assert model.latency(shape) == pytest.approx(model.base_ms + model.by_resolution[str(high)] * plain.latency(shape))


def test_many_archs_have_the_latency_of_each(tmp_path):
    made = model_of(factors={TINY.resolution[0]: 0.8})
    made.write(tmp_path / "device.json")
    model = LatencyModel.read(tmp_path / "device.json")
    assert model == made
    rng = np.random.default_rng(4)
    archs = [TINY.sample(rng) for _ in range(30)]
    together = model.costs(TINY, 10)(np.array([arch.scalars for arch in archs]))
    assert together == pytest.approx([model.latency(net_shape(TINY, arch)) for arch in archs])
    with pytest.raises(UsageError, match="run alphanet profile for this supernet"):
        model.costs(ALPHANET, 1000)
    content = json.loads((tmp_path / "device.json").read_text())
    (tmp_path / "device.json").write_text(json.dumps({**content, "version": 9}))
    with pytest.raises(Exception, match="version 9"):
        LatencyModel.read(tmp_path / "device.json")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "pytorch"])
def test_larger_networks_take_longer(runtime):
    parts = [(Part("block", (width, 4 * width, width, 0, 3, 1, 1, 28)),) for width in (8, 128)]
    times = time_all(ENGINES[runtime], parts, 1, 2, 5)
    assert 0 < 2 * times[parts[0]] < times[parts[1]]


@pytest.mark.slow
def test_executorch_runs_parts():
    parts = tuple(parts_of(net_shape(SMALL, SMALL.largest), 10))
    assert time_all(ENGINES["executorch"], [parts], 1, 1, 2)[parts] > 0


def test_a_device_is_measured_and_searched_by_milliseconds(tmp_path, capsys):
    save_net(fill_live(build_supernet(SMALL, 10)), tmp_path / "supernet.safetensors")
    supernet, device = ["--supernet", str(tmp_path / "supernet.safetensors")], str(tmp_path / "device.json")
    assert main(["profile", *supernet, "--threads", "1", "--rounds", "1", "--runs", "2", "-o", device]) == 0
    assert "12 distinct parts" in capsys.readouterr().out
    assert main(["profile", *supernet, "--num-classes", "7", "-o", device]) == 2
    assert "has 10 classes; leave --num-classes out" in capsys.readouterr().err
    content = json.loads((tmp_path / "device.json").read_text())
    assert content["device"]["runtime"] == "onnxruntime" and content["device"]["threads"] == 1
    assert content["errors"]["nets"] > 0 and content["device"]["runtime_version"]
    assert main(["search", *supernet, "--latency-ms", "100%", "--device", device, "--profile"]) == 0
    assert "\nms " in capsys.readouterr().out


TOOL = """#!/bin/sh
for last; do :; done
echo "[ INFO ] Latency:"
echo "[ INFO ]    Median:        1.75 ms"
case $last in f32) echo "[ INFO ]    Min:           1250.00 us";; esac
echo "[ INFO ]    Max:           9.25 ms"
"""
"""Prints what OpenVINO 2026.4 does: microseconds below a millisecond, else milliseconds."""


def test_a_device_without_python_is_measured_by_the_tool_of_the_runtime(tmp_path, capsys):
    save_net(fill_live(build_supernet(SMALL, 10)), tmp_path / "supernet.safetensors")
    blocks = tmp_path / "blocks"
    argv = ["profile", "--supernet", str(tmp_path / "supernet.safetensors"), "--runtime", "openvino", "--threads", "2"]
    assert main([*argv, "--rounds", "2", "--export-blocks", str(blocks)]) == 0
    assert len(list(blocks.glob("*.onnx"))) == 12 + 50
    imported = ["profile", "--import", str(blocks), "-o", str(tmp_path / "device.json")]
    assert main(imported) == 2 and "--name TEXT" in capsys.readouterr().err
    imported += ["--name", "board"]
    assert main(imported) == 2 and "measure.sh" in capsys.readouterr().err
    tool = tmp_path / "benchmark_app"
    tool.write_text(TOOL)
    tool.chmod(0o755)
    script = [shutil.which("sh"), str(blocks / "measure.sh")]
    assert subprocess.run(script, env={**os.environ, "TOOL": str(tool)}).returncode == 0
    assert len((blocks / "times.txt").read_text().splitlines()) == 2 * 62
    assert main(imported) == 0
    model = LatencyModel.read(tmp_path / "device.json")
    assert model.device["cpu"] == "board" and set(model.times_ms.values()) == {1.25}
    assert main([*argv, "--export-blocks", str(blocks)]) == 2 and "is not empty" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_tool_of_openvino_measures_the_blocks(tmp_path):
    tool = Path(sysconfig.get_path("scripts")) / "benchmark_app"
    if not tool.exists():
        pytest.skip("openvino is not installed")
    save_net(fill_live(build_supernet(SMALL, 10)), tmp_path / "supernet.safetensors")
    blocks, device = tmp_path / "blocks", str(tmp_path / "device.json")
    argv = ["profile", "--supernet", str(tmp_path / "supernet.safetensors"), "--runtime", "openvino", "--threads", "1"]
    assert main([*argv, "--rounds", "1", "--export-blocks", str(blocks)]) == 0
    script = [shutil.which("sh"), str(blocks / "measure.sh")]
    assert subprocess.run(script, env={**os.environ, "TOOL": str(tool)}).returncode == 0
    assert main(["profile", "--import", str(blocks), "--name", "board", "-o", device]) == 0
    times = LatencyModel.read(device).times_ms.values()
    assert len(times) == 12 and all(0.001 < time < 10 for time in times)


def test_a_latency_model_that_predicts_badly_causes_a_warning(tmp_path, capsys):
    """Times of the blocks that have nothing to do with those of the whole subnets, as on a busy machine."""
    save_net(fill_live(build_supernet(SMALL, 10)), tmp_path / "supernet.safetensors")
    blocks, device = tmp_path / "blocks", str(tmp_path / "device.json")
    argv = ["profile", "--supernet", str(tmp_path / "supernet.safetensors"), "--export-blocks", str(blocks)]
    assert main([*argv, "--threads", "1", "--rounds", "1"]) == 0
    rng = np.random.default_rng(0)
    times = [f"1 {path.name} {10 ** rng.uniform(-2, 2):.4f}" for path in sorted(blocks.glob("*.onnx"))]
    (blocks / "times.txt").write_text("\n".join(times) + "\n")
    capsys.readouterr()
    assert main(["profile", "--import", str(blocks), "--name", "board", "-o", device]) == 0
    assert "these predictions are not reliable" in capsys.readouterr().err
