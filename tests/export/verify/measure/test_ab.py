from __future__ import annotations

import time
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from alphanet_export.verify.measure.ab import (
    CPU_TIME,
    WALL_TIME,
    Clock,
    TimingRatio,
    clock_for,
    interleave,
    measure_ratio,
)
from alphanet_zoo.errors import TargetError, UsageError
from tests.export.exported import tiny_onnx


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ab")
    (folder / "a.onnx").write_bytes(tiny_onnx())
    (folder / "any.onnx").write_bytes(tiny_onnx(dynamic_batch=True))
    (folder / "b.onnx").write_bytes(tiny_onnx())
    return folder


def write_chain(path: Path, length: int, kind: int = TensorProto.FLOAT, rank: int = 4) -> Path:
    """A file that is not ours: sines of sines."""
    shape = [1, 3, 64, 64][:rank]
    names = ["x", *(f"v{i}" for i in range(length - 1)), "y"]
    nodes = [helper.make_node("Sin", [a], [b]) for a, b in zip(names, names[1:], strict=False)]
    infos = [helper.make_tensor_value_info(name, kind, shape) for name in "xy"]
    graph = helper.make_graph(nodes, "g", infos[:1], infos[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_a_file_is_as_fast_as_itself(folder: Path) -> None:
    ratio = measure_ratio(folder / "a.onnx", folder / "b.onnx", threads=1, rounds=200, seconds=0.0)
    assert 0.7 < ratio.ratio < 1.4 and ratio.ratio_interval[0] <= ratio.ratio <= ratio.ratio_interval[1]
    assert (ratio.rounds, ratio.threads, ratio.batch, ratio.clock) == (200, 1, 1, "CPU time")
    assert ratio.other == "b.onnx" and len(ratio.other_sha256) == 64
    assert ratio.ratio == pytest.approx(ratio.median_ms / ratio.other_median_ms)


def test_a_longer_graph_takes_longer(tmp_path: Path) -> None:
    short, long = write_chain(tmp_path / "short.onnx", 4), write_chain(tmp_path / "long.onnx", 16)
    ratio = measure_ratio(long, short, threads=1, rounds=40, seconds=0.0)
    assert 2.5 < ratio.ratio < 6.0 and ratio.ratio_interval[0] > 1.0


def test_what_cannot_be_compared_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"a.onnx takes only batches of 1, not 4"):
        measure_ratio(folder / "a.onnx", folder / "any.onnx", threads=1, batch=4, rounds=2)
    with pytest.raises(UsageError, match="is not a file"):
        measure_ratio(folder / "a.onnx", folder / "none.onnx", threads=1)
    with pytest.raises(UsageError, match=r"pass a file with one input \(N, 3, H, W\)"):
        measure_ratio(folder / "a.onnx", write_chain(tmp_path / "flat.onnx", 1, rank=2), threads=1)
    with pytest.raises(UsageError, match="takes tensor.double.; pass a file that takes float32 images"):
        measure_ratio(folder / "a.onnx", write_chain(tmp_path / "double.onnx", 1, TensorProto.DOUBLE), threads=1)


def test_the_target() -> None:
    ratio = TimingRatio("old.onnx", "e" * 64, 1.1, (1.05, 1.15), 11.0, 10.0, 50, 1, 1, "CPU time")
    assert ratio.check(1.1) is ratio
    with pytest.raises(TargetError, match="1.100x as long as old.onnx .* above the target of 1.02"):
        ratio.check(1.02)


class Worker:
    """Two things to do that take 1 and 3 seconds of a clock of its own."""

    def __init__(self) -> None:
        self.now, self.order = 0.0, ""

    def clock(self) -> float:
        return self.now

    def do(self, name: str, seconds: float) -> None:
        self.order += name
        self.now += seconds


def test_each_round_runs_everything_once_in_changing_order() -> None:
    worker = Worker()
    runs = {"a": lambda: worker.do("a", 1.0), "b": lambda: worker.do("b", 3.0)}
    times = interleave(runs, rounds=40, clock=Clock(worker.clock, "its own"))
    assert times["a"].tolist() == [1000.0] * 40 and times["b"].tolist() == [3000.0] * 40
    rounds = [worker.order[6:][i : i + 2] for i in range(0, 80, 2)]  # After three runs each to warm up.
    assert set(rounds) == {"ab", "ba"}


def test_it_goes_on_for_a_while() -> None:
    times = interleave({"nap": lambda: time.sleep(0.01)}, rounds=1, seconds=0.1)
    assert 2 <= len(times["nap"]) <= 10


def test_one_thread_is_timed_by_its_cpu_time() -> None:
    clock = clock_for(1)
    before = clock.read()
    time.sleep(0.05)
    assert clock is CPU_TIME and clock.read() - before < 0.04


def test_threads_are_timed_by_wall_time_and_fall_asleep_between_runs() -> None:
    assert clock_for(2) is WALL_TIME
    ended = time.perf_counter()
    rests: list[float] = []

    def run() -> None:
        nonlocal ended
        rests.append(time.perf_counter() - ended)
        ended = time.perf_counter()

    interleave({"run": run}, rounds=5)
    assert min(rests[3:]) >= WALL_TIME.rest >= 0.005
