"""Measures the ImageNet family and models of timm in the same runtimes, in one run."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn
from torch.export import Dim

from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.packages import require_package
from alphanet_export.runtimes.runtime import Runtime, open_runtime
from alphanet_export.runtimes.torch_runtimes import torch_threads
from alphanet_export.verify.environment import current_environment, physical_cores
from alphanet_export.verify.measure.ab import clock_for, interleave
from alphanet_export.verify.measure.contenders import Contender, network_costs
from alphanet_export.verify.report import DEFAULT_RUNTIMES, NETS
from alphanet_export.verify.report.table import ComparisonTable, Figures, Row
from alphanet_export.writers.to_executorch import write_executorch
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_export.writers.to_openvino import write_openvino
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.evaluate.statistics import DoubleArray, median_interval, median_ratio_interval
from alphanet_zoo.nn.family import Network

ANCHOR = "efficientnet_b0"
"""The model that latencies are relative to, if it is measured."""


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
        models: The models, see `alphanet_export.verify.measure.contenders.contenders`.
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
    many.write_bytes(_any_batch(content) or onnx_bytes(_frozen(net, model.size, dynamic_batch=True)))
    macs, params = network_costs(net, model.size)
    published = model.published
    row = Row(
        name=model.name,
        ours=model.ours,
        weights=model.weights,
        size=model.size,
        macs=macs,
        params=params,
        file_bytes=len(content),
        top1=published.top1 if published else None,
        source=published.source if published else None,
        published_weights=published.row if published else None,
        figures={},
    )
    return _Prepared(model, net, single, many, row)


def _frozen(net: nn.Module, size: int, *, dynamic_batch: bool = False) -> FrozenNet:
    """A network ready for the exporters: an AlphaNet by `freeze`, any other traced unchanged."""
    if isinstance(net, Network):
        return freeze(net, img_size=size, dynamic_batch=dynamic_batch)
    example = torch.zeros(2 if dynamic_batch else 1, 3, size, size)
    with torch.no_grad():
        shapes = ({0: Dim("batch")},) if dynamic_batch else None
        program = torch.export.export(net, (example,), dynamic_shapes=shapes)
    unused = Preprocessing(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return FrozenNet(net, program, unused, dynamic_batch)  # type: ignore[arg-type]  # Only its program is read.


def _any_batch(content: bytes) -> bytes | None:
    """The same graph with a dynamic batch size; None if more than the declared shapes depend on it.

    Attention reshapes to constant shapes, which contain the batch size.
    """
    proto = onnx.load_model_from_string(content)
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        shape = constants.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and onnx.numpy_helper.to_array(shape)[0] > 0:
            return None
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
