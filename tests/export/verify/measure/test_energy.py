from __future__ import annotations

from pathlib import Path

import pytest

from alphanet_export.verify.measure.energy import measure_energy

RANGE = 1_000_000_000


class Machine:
    """A powercap tree of two packages, with a clock: 10 W idle, and 5 J in 0.1 s a run."""

    def __init__(self, root: Path) -> None:
        self.root, self.now = root, 100.0
        self.counters = {0: 400, 1: RANGE - 12_000_000}  # The second starts again while the runs are timed.
        zones = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:0:0": "core"}
        zones |= {"intel-rapl:2": "psys", "intel-rapl-mmio:0": "package-0"}
        for zone, name in zones.items():
            (root / zone).mkdir(parents=True)
            (root / zone / "name").write_text(f"{name}\n")
            (root / zone / "max_energy_range_uj").write_text(f"{RANGE}\n")
            (root / zone / "energy_uj").write_text("7\n")
        self.pass_time(0.0, 0.0)

    def pass_time(self, seconds: float, joules: float) -> None:
        self.now += seconds
        for package in self.counters:
            self.counters[package] = (self.counters[package] + round(joules / 2 * 1e6)) % RANGE
            (self.root / f"intel-rapl:{package}" / "energy_uj").write_text(f"{self.counters[package]}\n")

    def sleep(self, seconds: float) -> None:
        self.pass_time(seconds, 10.0 * seconds)

    def run(self) -> None:
        self.pass_time(0.1, 5.0)

    def clock(self) -> float:
        return self.now


def test_energy_of_packages_is_summed_over_a_counter_that_starts_again(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    energy = measure_energy(
        machine.run, images_a_run=2, seconds=0.95, powercap=tmp_path, sleep=machine.sleep, clock=machine.clock
    )
    assert energy.unavailable is None and (energy.packages, energy.images) == (2, 20)
    assert energy.millijoules_per_image == pytest.approx(2500.0)
    assert energy.above_idle_millijoules_per_image == pytest.approx(2500.0 - 500.0)
    assert (energy.watts, energy.idle_watts) == (pytest.approx(50.0), pytest.approx(10.0))
    assert machine.counters[1] < RANGE // 2  # It did start again.


def test_a_machine_without_counters_says_so(tmp_path: Path) -> None:
    energy = measure_energy(lambda: pytest.fail("nothing to run"), powercap=tmp_path)
    assert energy.millijoules_per_image is None
    assert energy.unavailable is not None and "exposes no RAPL counters" in energy.unavailable


def test_counters_that_stand_still_are_no_measurement(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    energy = measure_energy(lambda: None, seconds=0.0, powercap=tmp_path, sleep=lambda seconds: None)
    assert energy.unavailable and "do not change" in energy.unavailable and machine.now == 100.0


def test_counters_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    Machine(tmp_path)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("no number")
    energy = measure_energy(lambda: None, powercap=tmp_path)
    assert energy.unavailable and "cannot be read" in energy.unavailable
