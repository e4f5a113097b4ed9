"""Energy per image, on machines with RAPL counters (Linux' powercap tree)."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
IDLE_SECONDS = 0.5
LEAST_RUNS = 3


@dataclass(frozen=True)
class Energy:
    """Energy of the processor packages while images were run; None if the machine does not report it.

    The counters cover whole packages, so idle power and other programs are included.

    Args:
        unavailable: Why nothing was measured; None if it was.
        millijoules_per_image: Energy per image.
        above_idle_millijoules_per_image: The same minus the energy of the idle packages, measured just before.
        watts: Mean power while running.
        idle_watts: Mean power while this process slept.
        packages: Number of packages.
        images: Number of images run.
    """

    unavailable: str | None
    millijoules_per_image: float | None = None
    above_idle_millijoules_per_image: float | None = None
    watts: float | None = None
    idle_watts: float | None = None
    packages: int | None = None
    images: int | None = None


@dataclass(frozen=True)
class _Package:
    """The counter of one package, in microjoules; it wraps to 0 after ``range_uj``."""

    counter: Path
    range_uj: int

    def read(self) -> int:
        """The current value."""
        return int(self.counter.read_text())


def measure_energy(
    run: Callable[[], object],
    *,
    images_a_run: int = 1,
    seconds: float = 1.0,
    powercap: Path = POWERCAP,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.perf_counter,
) -> Energy:
    """Runs for a while and reads the counters of the packages before and after.

    Args:
        run: One run, warmed up.
        images_a_run: Images per run.
        seconds: Minimum time to run (and three runs). The counters wrap after minutes; a counter that wraps more than
            once in this time is not detected.
        powercap: Linux' powercap tree.
        sleep: Replaces `time.sleep`.
        clock: Replaces `time.perf_counter`.
    """
    try:
        packages = _packages(powercap)
        before = [package.read() for package in packages]
    except PermissionError:
        return Energy(f"the counters in {powercap} are readable by the administrator only")
    except (OSError, ValueError) as error:
        return Energy(f"the counters in {powercap} cannot be read: {error}")
    if not packages:
        return Energy(f"this machine exposes no RAPL counters: {powercap} has no intel-rapl package")
    start = clock()
    sleep(IDLE_SECONDS)
    idle_watts = _joules(packages, before) / (clock() - start)
    before, start, runs = [package.read() for package in packages], clock(), 0
    while runs < LEAST_RUNS or clock() - start < seconds:
        run()
        runs += 1
    spent, joules, images = clock() - start, _joules(packages, before), runs * images_a_run
    if not joules:
        return Energy(f"the counters in {powercap} do not change, as in some virtual machines")
    return Energy(
        unavailable=None,
        millijoules_per_image=1e3 * joules / images,
        above_idle_millijoules_per_image=1e3 * (joules - idle_watts * spent) / images,
        watts=joules / spent,
        idle_watts=idle_watts,
        packages=len(packages),
        images=images,
    )


def _packages(powercap: Path) -> list[_Package]:
    """The processor packages: zones ``intel-rapl:N`` (AMD's have that name too) whose name is ``package-N``.

    Their parts (cores, memory: ``intel-rapl:N:M``) are already included.
    """
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
    return [
        _Package(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()))
        for zone in zones
        if (zone / "name").read_text().startswith("package")
    ]


def _joules(packages: list[_Package], before: list[int]) -> float:
    """Energy since ``before``, corrected for counters that wrapped."""
    spent = 0
    for package, then in zip(packages, before, strict=True):
        now = package.read()
        spent += now - then if now >= then else now + package.range_uj - then
    return spent / 1e6
