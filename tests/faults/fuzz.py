"""Mutated files for every reader: python -m tests.faults.fuzz [CASES] [SEED].

A case is a valid file with 1 to 4 random changes: of its bytes, or of a value inside it. The reader accepts it, or
raises one of the package's errors. Every other exception, a crash, more than `LIMIT` seconds, and a file or connection
outside the case's folder are failures. Case i of a reader and a seed is always the same file.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.dying import ENVIRONMENT
from tests.faults.fuzz_targets import TARGETS, Target

LIMIT = 5.0
"""Seconds of CPU time that one case may take."""
WAIT = 120.0
"""Seconds that it may wait, on a machine that other programs use."""
MEMORY = 4 * 2**30
"""Bytes of address space that a process that reads cases may take, beside what it has at its start."""
CASES = 100_000


@dataclass
class Report:
    """The result of one reader."""

    name: str
    cases: int = 0
    accepted: int = 0
    refused: int = 0
    ended: int = 0
    slowest: float = 0.0
    cpu_seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rate = self.cases / max(self.cpu_seconds, 1e-9)
        return (
            f"{self.name:12} {self.cases:7,} cases  {self.accepted:7,} accepted  {self.refused:7,} refused  "
            f"{self.ended:4} ended by their limits  {rate:7.0f} cases/s of CPU time  slowest {self.slowest:.2f} s  "
            f"{len(self.failures)} failures"
        )


class Hang(BaseException):
    """A case takes longer than `LIMIT`."""


def fuzz(name: str, cases: int, seed: int, folder: Path) -> Report:
    """Runs the cases of one reader in child processes; one that crashes is replaced."""
    report, start = Report(name), _cpu_seconds()
    while report.cases < cases:
        state = folder / "state.json"
        state.unlink(missing_ok=True)
        words = [sys.executable, "-m", "tests.faults.fuzz", "--worker", name, str(report.cases), str(cases), str(seed)]
        done = subprocess.run([*words, str(folder)], env=ENVIRONMENT, capture_output=True, text=True, cwd=folder)
        part = json.loads(state.read_text()) if state.exists() else {}
        for key in ("accepted", "refused", "ended"):
            setattr(report, key, getattr(report, key) + part.get(key, 0))
        report.slowest = max(report.slowest, part.get("slowest", 0.0))
        report.failures += part.get("failures", [])
        report.cases = part.get("next", report.cases)
        if done.returncode == 0:
            break
        if TARGETS[name].limited and done.returncode < 0:  # The package reads these files in such a process too.
            report.ended += 1
        else:
            report.failures.append(f"case {report.cases}: exit code {done.returncode}: {done.stderr[-800:]}")
        report.cases += 1
    report.cpu_seconds = _cpu_seconds() - start
    return report


def _cpu_seconds() -> float:
    """CPU time of the child processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def worker(name: str, first: int, last: int, seed: int, folder: Path) -> int:
    """Runs cases and keeps the state in a file."""
    faulthandler.enable()
    warnings.simplefilter("ignore")
    target = TARGETS[name]
    seeds = target.seeds(folder)
    report, place = Report(name), folder / "case" / f"x{target.ending}"
    place.parent.mkdir(exist_ok=True)
    read = target.reader(folder)
    for content in seeds:  # The reader accepts what is not changed; this also loads everything that it imports.
        place.write_bytes(content)
        read(place)
    others: list[str] = []
    watch(folder, others)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(number, _hang)
    state = os.open(folder / "state.json", os.O_RDWR | os.O_CREAT)
    for index in range(first, last):
        os.ftruncate(state, 0)
        os.pwrite(state, json.dumps({**asdict(report), "next": index}).encode(), 0)
        content = target.mutate(random.Random(f"{name}/{seed}/{index}"), seeds)
        place.write_bytes(content)
        began = time.process_time()
        problem = _one(target, read, place, report)
        report.slowest = max(report.slowest, time.process_time() - began)
        if others:
            problem, others[:] = f"outside its folder: {others[0]}", []
        if problem:
            report.failures.append(f"case {index}: {problem}")
            (folder / f"failure-{name}-{index}{target.ending}").write_bytes(content)
    os.ftruncate(state, 0)
    os.pwrite(state, json.dumps({**asdict(report), "next": last}).encode(), 0)
    return 0


def _one(target: Target, read: Callable[[Path], object], place: Path, report: Report) -> str | None:
    """Reads one file; returns what is wrong with how that went."""
    _limit(LIMIT, WAIT)
    try:
        read(place)
        report.accepted += 1
    except Hang:
        if target.limited:
            report.ended += 1
            return None
        return f"more than {LIMIT:g} s of CPU time, or a wait of {WAIT:g} s"
    except target.errors as error:
        if type(error) is not ValueError and not hasattr(error, "exit_code"):
            return repr(error)[:300]
        report.refused += 1
    except MemoryError as error:
        if not target.limited:
            return repr(error)
        report.ended += 1
    except BaseException as error:
        return f"{error!r:.300} at {_place(error)}"
    finally:
        _limit(0, 0)
    return None


def _limit(cpu: float, wait: float) -> None:
    """Raises `Hang` after so many seconds of CPU time or of waiting; 0 ends that."""
    signal.setitimer(signal.ITIMER_PROF, cpu)
    signal.setitimer(signal.ITIMER_REAL, wait)


def _place(error: BaseException) -> str:
    """Where an exception was raised: the innermost functions."""
    frames = traceback.extract_tb(error.__traceback__)[:0:-1]
    return " < ".join(f"{frame.name}:{frame.lineno}" for frame in frames[:4])


def _hang(*_: object) -> None:
    raise Hang


def watch(folder: Path, found: list[str]) -> None:
    """Lists what this process writes, starts or connects to outside ``folder`` from now on."""
    denied = (
        "socket.connect",
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "shutil.rmtree",
    )
    changing = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.chmod", "os.truncate")

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith(denied):
            found.append(f"{event} {arguments!r:.200}")
        elif event in changing or (
            event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        ):
            path = arguments[0]
            if isinstance(path, str | bytes | os.PathLike) and not os.path.abspath(os.fsdecode(path)).startswith(
                str(folder)
            ):
                found.append(f"{event} {path!r:.200}")

    sys.addaudithook(hook)


def shares(cases: int) -> dict[str, int]:
    """The number of cases of each reader."""
    total = sum(target.share for target in TARGETS.values())
    return {name: cases * target.share // total for name, target in TARGETS.items()}


def main(arguments: list[str]) -> int:
    """Prints a line per reader; returns 1 if a case fails."""
    if arguments[:1] == ["--worker"]:
        name, first, last, seed, folder = arguments[1:]
        return worker(name, int(first), int(last), int(seed), Path(folder))
    cases = int(arguments[0]) if arguments else CASES
    seed = int(arguments[1]) if len(arguments) > 1 else 0
    chosen = arguments[2:] or list(TARGETS)
    bad = total = 0
    for name in chosen:
        with tempfile.TemporaryDirectory(prefix="alphanet-fuzz-") as folder:
            report = fuzz(name, shares(cases)[name], seed, Path(os.path.realpath(folder)))
            print(report, flush=True)
            for failure in report.failures[:20]:
                print(f"    {failure}", flush=True)
        bad, total = bad + len(report.failures), total + report.cases
    print(f"{total:,} cases, {bad} failures")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
