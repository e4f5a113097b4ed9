"""The family against other classifiers, measured in the same runtimes in one run."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.export import Dim

from alphanet_export.freeze import FrozenNet, freeze
from alphanet_export.packages import require_package
from alphanet_export.runtimes.runtime import Runtime, open_runtime
from alphanet_export.runtimes.torch_runtimes import torch_threads
from alphanet_export.verify.environment import Environment, current_environment, physical_cores
from alphanet_export.verify.measure.ab import clock_for, interleave, ratio_interval
from alphanet_export.verify.measure.latency import DoubleArray, bootstrap_interval
from alphanet_export.verify.report.contenders import Contender, network_costs
from alphanet_export.verify.report.tables import DEFAULT_RUNTIMES, NETS
from alphanet_export.writers.to_executorch import write_executorch
from alphanet_export.writers.to_onnx import onnx_bytes
from alphanet_export.writers.to_openvino import write_openvino
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.files import replacing
from alphanet_zoo.nn.model import AlphaNet

SCHEMA = 1
ANCHOR = "efficientnet_b0"
"""The model that others' latency is shown against, where it is in the table."""


@dataclass(frozen=True)
class Figures:
    """What was measured of one model in one runtime.

    Args:
        median_ms: Median latency of one image.
        median_interval_ms: Its 95 % bootstrap interval.
        ratio: Its ratio to the anchor's in the same rounds; None without an anchor.
        ratio_interval: The 95 % bootstrap interval of that, over rounds.
        images_per_second: At the table's batch size.
    """

    median_ms: float
    median_interval_ms: tuple[float, float]
    ratio: float | None
    ratio_interval: tuple[float, float] | None
    images_per_second: float


@dataclass(frozen=True)
class Row:
    """One model of the table.

    Args:
        name: Its name.
        ours: Whether it is of the family.
        weights: What weights it was measured with.
        size: Side of its input, in pixels.
        macs: Multiply-accumulates of one image.
        params: Parameters.
        file_bytes: Size of its ONNX file.
        top1: Published ImageNet top-1 in percent, never measured here; or None.
        source: Who published that.
        figures: By runtime.
    """

    name: str
    ours: bool
    weights: str
    size: int
    macs: int
    params: int
    file_bytes: int
    top1: float | None
    source: str
    figures: Mapping[str, Figures]


@dataclass(frozen=True)
class ComparisonTable:
    """The family against others: renders to JSON, text, Markdown and HTML.

    Args:
        rows: The models.
        runtimes: What they were measured in.
        threads: Threads within an operator.
        batch: Images a run for the throughput; ExecuTorch's files take them one by one.
        rounds: Rounds of the latency; each runs every model once, in random order.
        clock: What was timed with: "CPU time" with one thread, else "wall time".
        anchor: The model that ratios are to, or None.
        environment: Where and when.
    """

    rows: tuple[Row, ...]
    runtimes: tuple[str, ...]
    threads: int
    batch: int
    rounds: int
    clock: str
    anchor: str | None
    environment: Environment

    def to_dict(self) -> dict[str, Any]:
        """The table as plain values."""
        from alphanet_export.verify.report.table_render import notes

        return {"schema": SCHEMA, **dataclasses.asdict(self), "notes": list(notes(self))}

    def to_text(self) -> str:
        """The table for the terminal."""
        from alphanet_export.verify.report.table_render import render_text

        return render_text(self)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes it, as HTML, Markdown or JSON by the ending of ``path``, wholly or not at all.

        Raises:
            ValueError: Another ending.
        """
        from alphanet_export.verify.report.table_render import render_html, render_json, render_markdown

        renders = {".html": render_html, ".htm": render_html, ".md": render_markdown, ".json": render_json}
        ending = Path(path).suffix.lower()
        if ending not in renders:
            raise ValueError(f"{os.fspath(path)!r} ends in {ending or 'nothing'!r}; end it in {', '.join(renders)}")
        with replacing(path) as temporary:
            temporary.write_text(renders[ending](self), encoding="utf-8")


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
    """Exports every model alike and times them in turns, runtime by runtime.

    Args:
        models: What to measure, see `alphanet_export.verify.report.contenders.contenders`.
        runtimes: Which of `alphanet_export.verify.report.tables.RUNTIMES`.
        threads: Threads within an operator; None is the physical cores.
        batch: Images a run for the throughput.
        rounds: Rounds of the latency at least; the throughput gets a fifth as many.
        seconds: Time to spend in each runtime, for each model, at least.
        tell: Called with a line of progress now and then.

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
    rows = tuple(_row(one, figures[one.model.name]) for one in prepared)
    return ComparisonTable(
        rows, tuple(runtimes), threads, batch, done, clock_for(threads).name, anchor, current_environment()
    )


@dataclass(frozen=True, eq=False)
class _Prepared:
    """A model with its files: one for a single image, one for any number."""

    model: Contender
    net: nn.Module
    single: Path
    many: Path
    macs: int
    params: int
    file_bytes: int


def _prepare(model: Contender, single: Path) -> _Prepared:
    """Builds and exports a model; all go through the same exporter and the same rewrites of the graph."""
    net = model.build().eval()
    content = onnx_bytes(_frozen(net, model.size))
    many = single.with_name(f"many-{single.name}")
    single.write_bytes(content)
    many.write_bytes(_any_batch(content))
    macs, params = network_costs(net, model.size)
    return _Prepared(model, net, single, many, macs, params, len(content))


def _frozen(net: nn.Module, size: int, *, dynamic_batch: bool = False) -> FrozenNet:
    """A net ready for the exporters: ours as `freeze` makes it, another one traced as it is."""
    if isinstance(net, AlphaNet):
        return freeze(net, img_size=size, dynamic_batch=dynamic_batch)
    example = torch.zeros(2 if dynamic_batch else 1, 3, size, size)
    with torch.no_grad():
        shapes = ({0: Dim("batch")},) if dynamic_batch else None
        program = torch.export.export(net, (example,), dynamic_shapes=shapes)
    unused = Preprocessing(size, size, "bicubic", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return FrozenNet(net, program, unused, dynamic_batch)  # type: ignore[arg-type]  # Only its program is read.


def _any_batch(content: bytes) -> bytes:
    """The same graph for any number of images: nothing in it but the declared shapes says how many there are."""
    proto = onnx.load_model_from_string(content)
    del proto.graph.value_info[:]
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    unbound: bytes = proto.SerializeToString()
    return unbound


def _open(runtime: str, one: _Prepared, threads: int, batch: int) -> Runtime:
    """A model in a runtime, for so many images a run."""
    if runtime in NETS:
        return open_runtime(one.net, runtime, threads=threads)
    path = one.single if batch == 1 else one.many
    if runtime == "openvino":
        path = path.with_suffix(".xml")
        write_openvino(_frozen(one.net, one.model.size, dynamic_batch=batch > 1), path)
    if runtime == "executorch":
        path = one.single.with_suffix(".pte")
        if not path.exists():  # One file serves both batches.
            write_executorch(_frozen(one.net, one.model.size), path)
    return open_runtime(path, runtime, threads=threads)


def _time(
    runtime: str, prepared: Sequence[_Prepared], threads: int, batch: int, rounds: int, seconds: float
) -> dict[str, DoubleArray]:
    """Times of all models in one runtime, by name, in milliseconds ``(rounds,)``: once a round each."""
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
        return Figures(median, bootstrap_interval(times), None, None, rate)
    ratio = median / float(np.median(anchor))
    return Figures(median, bootstrap_interval(times), ratio, ratio_interval(times, anchor), rate)


def _row(one: _Prepared, figures: Mapping[str, Figures]) -> Row:
    """A row of the table."""
    model = one.model
    return Row(
        name=model.name,
        ours=model.ours,
        weights=model.weights,
        size=model.size,
        macs=one.macs,
        params=one.params,
        file_bytes=one.file_bytes,
        top1=model.top1,
        source=model.source,
        figures=figures,
    )
