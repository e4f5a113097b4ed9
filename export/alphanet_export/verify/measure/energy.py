"""Energy of an inference, where the machine counts it (RAPL, in Linux' powercap tree)."""

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
    """What the processor packages took while images were run; None where the machine does not tell.

    The counters are those of whole packages: idle power and other programs are in them.

    Args:
        unavailable: Why nothing was measured; None where it was.
        millijoules_per_image: Energy over images.
        above_idle_millijoules_per_image: Less what the idle packages took in the same time, measured just before.
        watts: Mean power while running.
        idle_watts: Mean power while this process slept.
        packages: How many packages were counted.
        images: How many images were run.
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
    """One package's counter, in microjoules; it starts again at 0 after ``range_uj``."""

    counter: Path
    range_uj: int

    def read(self) -> int:
        """The counter now."""
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
    """Runs for a while and reads the packages' counters before and after.

    Args:
        run: One run, warmed up.
        images_a_run: Images in it.
        seconds: How long to run at least (and three runs). A counter that starts again more than once in that time
            is not told from one that does so once; they last for minutes.
        powercap: Linux' powercap tree.
        sleep: As `time.sleep`.
        clock: As `time.perf_counter`.
    """
    try:
        packages = _packages(powercap)
        before = [package.read() for package in packages]
    except PermissionError:
        return Energy(f"the counters in {powercap} are readable by the administrator alone")
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
        return Energy(f"the counters in {powercap} stand still, as in some virtual machines")
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

    Their parts (cores, memory: ``intel-rapl:N:M``) are counted in them already.
    """
    zones = sorted(zone for zone in powercap.glob("intel-rapl:*") if zone.name.count(":") == 1)
    return [
        _Package(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()))
        for zone in zones
        if (zone / "name").read_text().startswith("package")
    ]


def _joules(packages: list[_Package], before: list[int]) -> float:
    """Energy since ``before``, counters that started again made whole."""
    spent = 0
    for package, then in zip(packages, before, strict=True):
        now = package.read()
        spent += now - then if now >= then else now + package.range_uj - then
    return spent / 1e6
