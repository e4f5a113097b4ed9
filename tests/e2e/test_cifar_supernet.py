"""The stages of benchmarks/cifar_supernet.py, one after the other, on a few synthetic images."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphanet_zoo.zoo.families import shipped_family
from alphanet_zoo.zoo.shipped import SIZE_LIMIT, load_member

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "cifar_supernet.py"
SETTINGS = [
    "data.hold_out=20", "data.batch_size=10", "optim.kernels=torch", "device=cpu",
    "validation.every_epochs=0", "log.every_steps=1", "optim.warmup_epochs=0",
]  # fmt: skip


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Ten classes, packed as CIFAR-10 is shared."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for index in range(10 * count):
            path = tmp_path / "cifar10" / split / f"class-{index % 10}" / f"{index:02d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    with tarfile.open(tmp_path / "cifar10.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "cifar10", "cifar10")
    return tmp_path / "cifar10.tar.gz"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_pieces_lead_from_images_to_a_family_that_loads(packed: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"

    def piece(name: str, *more: str, code: int = 0) -> str:
        data = [] if name in ("curve", "package") else ["--data", str(packed), "--device", "cpu"]
        command = [sys.executable, str(SCRIPT), name, "--work", str(work), *data, *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    assert "run train first" in piece("search", code=2)
    assert "RESUME ME: training stopped after step 1" in piece(
        "train", "--time-limit", "0.01", "optim.epochs=1", *SETTINGS
    )
    assert "RESUME ME" not in piece("train", "--time-limit", "600", "optim.epochs=1", *SETTINGS)
    assert "RESUME ME: 0 of 20 subnets" in piece("search", "--evaluations", "20", "--time-limit", "0.01")
    piece("search", "--evaluations", "20", "--calib-images", "20")
    piece("evaluate", "--calib-images", "20")
    rows = json.loads((work / "results" / "evaluate.json").read_text())["subnets"]
    assert len(rows) == 10 and all(row["interval"][0] <= row["top1"] <= row["interval"][1] for row in rows)
    piece("package", "-o", str(tmp_path / "weights"))
    family = shipped_family(tmp_path / "weights")
    assert family is not None and "30 training images of CIFAR-10" in family.description
    assert [member.name.rsplit("_", 1)[1] for member in family.members] == ["xs", "s", "m", "l", "xl"]
    assert [member.top1 for member in family.members] == [row["top1"] for row in rows[:5]]
    assert load_member(family, family.members[0]).num_classes == 10
    assert sum(path.stat().st_size for path in family.folder.iterdir()) < SIZE_LIMIT
    piece("curve")
    with Image.open(work / "results" / "curve.png") as image:
        assert image.format == "PNG"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_one_call_measures_trains_searches_and_evaluates(packed: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    more = ["--evaluations", "20", "--calib-images", "20", "--probe-steps", "3", "max_steps=8", *SETTINGS]
    command = [sys.executable, str(SCRIPT), "run", "--work", str(work), "--data", str(packed), "--device", "cpu", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "RESUME ME" not in done.stdout, done.stdout + done.stderr
    plan = json.loads((work / "results" / "run.json").read_text())
    assert plan["images_per_second"] > 0.0 and plan["settings"][0].startswith("optim.epochs=")
    assert len(json.loads((work / "results" / "evaluate.json").read_text())["subnets"]) == 10
    assert shipped_family(work / "results" / "family") is not None


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_study_resumes_and_tabulates_every_variant(packed: Path, tmp_path: Path) -> None:
    work, script = tmp_path / "work", SCRIPT.with_name("loss_study.py")
    more = ["--epochs", "2", "--seeds", "0", "--calib-images", "20", "data.batch_size=10", "optim.warmup_epochs=0"]
    command = [sys.executable, str(script), "--work", str(work), "--data", str(packed)]
    stopped = subprocess.run([*command, "--time-limit", "0.01", *more], capture_output=True, text=True, timeout=300)
    assert stopped.returncode == 0 and "RESUME ME: 0 runs are complete" in stopped.stdout, stopped.stderr
    both = [subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(2)]  # fmt: skip
    outputs = [process.communicate(timeout=500) for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    done = subprocess.run([*command, *more], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0 and "left to other processes" not in done.stdout, done.stderr
    records = json.loads((work / "results" / "study.json").read_text())
    assert len(records) == 5 and all(len(record["subnets"]) == 5 for record in records)
    assert all(record["subnets"][-1]["entropy_gap"] == 0.0 for record in records)
    rows = [line for line in done.stdout.splitlines() if line.startswith("| KL | 1 |")]
    assert sum(row.count("|") == 8 for row in rows) == 4  # A table for each figure, with a column for each subnet.
    with Image.open(work / "results" / "study.png") as image:
        assert image.format == "PNG"
