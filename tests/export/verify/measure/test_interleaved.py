from __future__ import annotations

import time

from alphanet_export.verify.measure.interleaved import CPU_TIME, WALL_TIME, Clock, clock_for, interleave


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
