"""F10: a process of a training run that hangs ends the run within its timeout; nothing waits for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from alphanet_zoo.checkpoint import latest_checkpoint
from tests.train.pair import ENVIRONMENT, TORCHRUN, torchrun

TIMEOUT = 10
GRACE = 30
"""Seconds that torchrun gives the processes that are left before it kills them."""
SETTINGS = ["log.progress=false", "log.every_steps=1", "checkpoint_every_steps=5", "device=cpu", "data.workers=0",
            "data.batch_size=8", f"distributed.timeout_seconds={TIMEOUT}"]  # fmt: skip


def ranks_of(process: subprocess.Popen[str]) -> dict[str, int]:
    """The numbers of torchrun's processes by rank."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    found = {}
    for number in children:
        entries = Path(f"/proc/{number}/environ").read_bytes().split(b"\0")
        found |= {entry[5:].decode(): int(number) for entry in entries if entry.startswith(b"RANK=")}
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("hanging", ["0", "1"])
def test_a_process_that_hangs_ends_the_run_within_the_timeout(hanging: str, tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [*TORCHRUN, "-m", "alphanet_zoo.cli.train", "--config", "digits", f"output={output}", *SETTINGS]
    process = subprocess.Popen(
        [*command, "max_steps=100000"],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    log, deadline = output / "log.jsonl", time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= 8:
            break
        time.sleep(0.1)
    assert process.poll() is None, process.communicate()[1][-3000:]
    numbers = ranks_of(process)
    assert numbers.keys() == {"0", "1"}
    os.kill(numbers[hanging], signal.SIGSTOP)
    began = time.monotonic()
    try:
        _, told = process.communicate(timeout=TIMEOUT + GRACE + 60)
    finally:
        for number in (process.pid, *numbers.values()):
            if Path(f"/proc/{number}").exists():
                os.kill(number, signal.SIGKILL)
    seconds = time.monotonic() - began
    print(f"rank {hanging} stopped; all ended after {seconds:.1f} s")
    assert process.returncode != 0 and seconds < TIMEOUT + GRACE + 40
    assert not any(Path(f"/proc/{number}").exists() for number in numbers.values())
    errors = [line for line in told.splitlines() if "alphanet-train: error:" in line]
    assert len(errors) == 1 and "distributed.timeout_seconds" in errors[0], told[-3000:]
    saved = latest_checkpoint(output / "checkpoints")
    assert saved is not None and saved.step >= 5
    torchrun("-m", "alphanet_zoo.cli.train", "--config", "digits", f"output={output}", *SETTINGS,
             f"max_steps={saved.step + 2}", "--resume-anyway")  # fmt: skip
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines() if '"lr"' in line]
    assert steps == list(range(1, saved.step + 3))
