"""Measures the ImageNet family and models of timm in the same runtimes, in one run."""

from __future__ import annotations

import dataclasses
import fnmatch
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.export import Dim

from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.packages import require_package
from alphanet_export.runtimes.runtime import Runtime, open_runtime
from alphanet_export.runtimes.torch_runtimes import torch_threads
from alphanet_export.verify.environment import current_environment, physical_cores
from alphanet_export.verify.measure.ab import clock_for, interleave
from alphanet_export.verify.report import DEFAULT_RUNTIMES, NETS
from alphanet_export.verify.report.table import ComparisonTable, Figures, Row
from alphanet_export.writers.to_executorch import write_executorch
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_export.writers.to_openvino import write_openvino
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import MissingDependencyError, UsageError
from alphanet_zoo.evaluate.statistics import DoubleArray, median_interval, median_ratio_interval
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import IMAGENET_FAMILY, FamilyMember
from alphanet_zoo.zoo.open import HUB_ORG_VARIABLE
from alphanet_zoo.zoo.pins import PINS
from alphanet_zoo.zoo.registry import create_model

ANCHOR = "efficientnet_b0"
"""The model that latencies are relative to, if it is measured."""
PAPER = "Wang et al., 2021, arXiv:2102.07954"
_TIMM_RESULTS = "timm, results/results-imagenet.csv, tag"
_TIMM_CARD = "timm, model card, tag"

COMPARED: tuple[tuple[str, int, float, str], ...] = (
    ("mobilenetv3_large_100", 224, 75.766, f"{_TIMM_RESULTS} ra_in1k"),
    ("efficientnet_b0", 224, 77.694, f"{_TIMM_RESULTS} ra_in1k"),
    ("fbnetv3_b", 256, 79.142, f"{_TIMM_RESULTS} ra2_in1k"),
    ("mobilenetv4_conv_medium", 256, 79.928, f"{_TIMM_CARD} e500_r256_in1k"),
)
"""Models of timm: name, input side in pixels, published top-1 of the default weights at that size, and its source."""


@dataclass(frozen=True, eq=False)
class Contender:
    """A classifier to measure.

    Args:
        name: Its name.
        ours: Whether it belongs to the AlphaNet family.
        size: Side of its square input, in pixels.
        top1: Published ImageNet top-1 in percent, or None if there is none.
        source: Source of ``top1``.
        weights: Weights it is measured with: ``random`` or ``published``.
        build: Returns the network in eval mode.
    """

    name: str
    ours: bool
    size: int
    top1: float | None
    source: str
    weights: str
    build: Callable[[], nn.Module]


def contenders(patterns: Sequence[str] = ("*",)) -> tuple[Contender, ...]:
    """The models whose names match one of the patterns, the AlphaNet family first.

    Args:
        patterns: Names, with shell wildcards.

    Raises:
        UsageError: A pattern matches no model.
        MissingDependencyError: A model of timm is selected and timm is not installed.
    """
    everything = (*map(_ours, IMAGENET_FAMILY), *(_timm(*row) for row in COMPARED))
    for pattern in patterns:
        if not fnmatch.filter([one.name for one in everything], pattern):
            names = ", ".join(one.name for one in everything)
            raise UsageError(f"no model of the table is called {pattern!r}; choose from {names}")
    chosen = tuple(one for one in everything if any(fnmatch.fnmatchcase(one.name, pattern) for pattern in patterns))
    if any(not one.ours for one in chosen):
        try:
            import timm  # noqa: F401
        except ImportError as error:
            raise MissingDependencyError("timm", "bench") from error
    return chosen


def network_costs(net: nn.Module, size: int) -> tuple[int, int]:
    """Multiply-accumulates (MACs) per image and number of parameters of a network.

    Counts convolutions and linear layers, without bias, activation, batch norm, pooling and resizing. AlphaNets use
    `alphanet_zoo.space.cost.count_macs`; other networks are counted in the same way while one image runs.

    Args:
        net: Network in eval mode, for images ``(N, 3, size, size)``, that calls its layers as modules.
        size: Side of the image, in pixels.

    Raises:
        ValueError: The network called no convolution or linear layer.
    """
    parameters = sum(parameter.numel() for parameter in net.parameters())
    if isinstance(net, AlphaNet):
        return count_macs(net.arch, net.space, net.num_classes), parameters
    macs = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal macs
        assert isinstance(module, nn.Conv2d | nn.Linear)
        macs += output.numel() * module.weight[0].numel()

    handles = [
        module.register_forward_hook(count) for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    try:
        with torch.inference_mode():
            net(torch.zeros(1, 3, size, size))
    finally:
        for handle in handles:
            handle.remove()
    if not macs:
        raise ValueError(f"a {type(net).__name__} calls no convolution or linear layer; its cost cannot be counted")
    return macs, parameters


def _ours(member: FamilyMember) -> Contender:
    """A member of the AlphaNet family, with published weights if a source of them is configured."""
    published = member.name in PINS or bool(os.environ.get(HUB_ORG_VARIABLE, "").strip())
    return Contender(
        name=member.name,
        ours=True,
        size=member.arch.resolution,
        top1=member.top1,
        source=PAPER,
        weights="published" if published else "random",
        build=partial(create_model, member.name, weights=None if published else "random", pretrained=published),
    )


def _timm(name: str, size: int, top1: float, source: str) -> Contender:
    """A model of timm with random weights; nothing is downloaded."""

    def build() -> nn.Module:
        import timm

        net: nn.Module = timm.create_model(name, pretrained=False)
        return fill_live(net).eval()

    return Contender(name, False, size, top1, source, "random", build)


def measure_table(
    models: Sequence[Contender],
    runtimes: Sequence[str] = DEFAULT_RUNTIMES,
    *,
    threads: int | None = None,
    batch: int = 8,
    rounds: int = 50,
    seconds: float = 3.0,
    tell: Callable[[str], object] = lambda words: None,
) -> ComparisonTable:
    """Exports all models with the same code and times them in turns, one runtime after the other.

    Args:
        models: The models, see `contenders`.
        runtimes: Some of `alphanet_export.verify.report.RUNTIMES`.
        threads: Threads within an operator; None means the number of physical cores.
        batch: Batch size of the throughput measurement.
        rounds: Minimum number of latency rounds, at least 2. The throughput measurement takes a fifth as many.
        seconds: Minimum time per model and runtime, in seconds.
        tell: Called with progress messages.

    Raises:
        MissingDependencyError: A runtime is not installed.
        AlphaNetError: A model cannot be exported or run.
    """
    for package in {"openvino", "executorch"}.intersection(runtimes):
        require_package(package, package)
    threads = physical_cores() if threads is None else threads
    anchor = ANCHOR if any(model.name == ANCHOR for model in models) else None
    figures: dict[str, dict[str, Figures]] = {model.name: {} for model in models}
    done = 0
    with tempfile.TemporaryDirectory() as folder:
        prepared = []
        for number, model in enumerate(models, 1):
            tell(f"exporting {model.name} ({number} of {len(models)})")
            prepared.append(_prepare(model, Path(folder) / f"{number}.onnx"))
        for runtime in runtimes:
            tell(f"measuring {len(models)} models in {runtime}")
            times = _time(runtime, prepared, threads, 1, rounds, seconds * len(models))
            batches = _time(runtime, prepared, threads, batch, max(3, rounds // 5), 0.0)
            done = max(done, len(times[models[0].name]))
            for name, values in times.items():
                rate = 1e3 * batch / float(np.median(batches[name]))
                figures[name][runtime] = _figures(values, times[anchor] if anchor else None, rate)
    rows = tuple(dataclasses.replace(one.row, figures=figures[one.model.name]) for one in prepared)
    return ComparisonTable(
        rows, tuple(runtimes), threads, batch, done, clock_for(threads).name, anchor, current_environment()
    )


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A model, its two ONNX files (one for a single image, one for any batch size) and its row without measurements."""

    model: Contender
    net: nn.Module
    single: Path
    many: Path
    row: Row


def _prepare(model: Contender, single: Path) -> _Prepared:
    """Builds and exports a model."""
    net = model.build().eval()
    content = onnx_bytes(_frozen(net, model.size))
    many = single.with_name(f"many-{single.name}")
    single.write_bytes(content)
    many.write_bytes(_any_batch(content))
    macs, params = network_costs(net, model.size)
    facts = (model.name, model.ours, model.weights, model.size, macs, params, len(content), model.top1, model.source)
    return _Prepared(model, net, single, many, Row(*facts, figures={}))


def _frozen(net: nn.Module, size: int, *, dynamic_batch: bool = False) -> FrozenNet:
    """A network ready for the exporters: an AlphaNet by `freeze`, any other traced unchanged."""
    if isinstance(net, AlphaNet):
        return freeze(net, img_size=size, dynamic_batch=dynamic_batch)
    example = torch.zeros(2 if dynamic_batch else 1, 3, size, size)
    with torch.no_grad():
        shapes = ({0: Dim("batch")},) if dynamic_batch else None
        program = torch.export.export(net, (example,), dynamic_shapes=shapes)
    unused = Preprocessing(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return FrozenNet(net, program, unused, dynamic_batch)  # type: ignore[arg-type]  # Only its program is read.


def _any_batch(content: bytes) -> bytes:
    """The same graph with a dynamic batch size; only the declared shapes depend on it."""
    proto = onnx.load_model_from_string(content)
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    unbound: bytes = proto.SerializeToString()
    return unbound


def _open(runtime: str, one: _Prepared, threads: int, batch: int) -> Runtime:
    """A model in a runtime, for runs of ``batch`` images."""
    if runtime in NETS:
        return open_runtime(one.net, runtime, threads=threads)
    path = one.single if batch == 1 else one.many
    if runtime == "openvino":
        path = path.with_suffix(".xml")
        write_openvino(_frozen(one.net, one.model.size, dynamic_batch=batch > 1), path)
    if runtime == "executorch":
        path = one.single.with_suffix(".pte")
        if not path.exists():  # One file for both batch sizes.
            write_executorch(_frozen(one.net, one.model.size), path)
    return open_runtime(path, runtime, threads=threads)


def _time(
    runtime: str, prepared: Sequence[_Prepared], threads: int, batch: int, rounds: int, seconds: float
) -> dict[str, DoubleArray]:
    """Times of all models in one runtime, by name: ``(rounds,)``, in milliseconds."""
    runs: dict[str, Callable[[], object]] = {}
    with ExitStack() as stack:
        stack.enter_context(torch_threads(threads))
        for one in prepared:
            size = one.model.size
            images = np.random.default_rng(0).standard_normal((batch, 3, size, size), dtype=np.float32)
            opened = stack.enter_context(_open(runtime, one, threads, batch))
            runs[one.model.name] = partial(opened.infer, images)
        return interleave(runs, rounds=rounds, seconds=seconds, clock=clock_for(threads))


def _figures(times: DoubleArray, anchor: DoubleArray | None, rate: float) -> Figures:
    """The figures of one model in one runtime."""
    median = float(np.median(times))
    if anchor is None:
        return Figures(median, median_interval(times), None, None, rate)
    ratio = median / float(np.median(anchor))
    return Figures(median, median_interval(times), ratio, median_ratio_interval(times, anchor), rate)
