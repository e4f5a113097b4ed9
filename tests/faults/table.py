"""Runs the tests of each row of tests/faults/README.md and prints how many pass: ``make faults``."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| (F\d\d) \| ([^|]+) \| (`[^|]+`|none) \|")


def rows() -> list[tuple[str, str, list[str]]]:
    """Number, fault and tests of each row of the table."""
    text = (ROOT / "tests" / "faults" / "README.md").read_text("utf-8")
    return [(m[1], m[2].strip(), re.findall(r"`([^`]+)`", m[3])) for m in ROW.finditer(text)]


def main() -> int:
    """Prints a line per row; returns 1 if a test fails, or a row has no test."""
    whole = 0
    found = rows()
    for number, fault, tests in found:
        words = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", *tests]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True) if tests else None
        last = "no test yet" if done is None else (done.stdout.strip().splitlines() or [done.stderr[-200:]])[-1]
        passes = done is not None and done.returncode == 0
        whole += passes
        print(f"{number}  {'pass' if passes else 'FAIL'}  {fault}: {last}", flush=True)
    print(f"{whole} of {len(found)} rows pass")
    return 0 if whole == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
