"""Folders, settings and time limit of the stages of `cifar_supernet.py`."""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.locks import locked_file
from alphanet_zoo.train.config import TrainConfig, load_config

RECIPE = "alphanet_cifar10"
OURS = (
    "data.hold_out=5000", "data.autoaugment=true", "data.erasing=0.25", "sandwich.random_subnets=1",
    "sandwich.drop_rate=0.1", "sandwich.drop_path_rate=0", "optim.weight_decay=5e-4", "optim.lr_batch=null",
    "validation.every_epochs=0", "checkpoint_every_steps=2000", "log.every_steps=20", "log.progress=false",
)  # fmt: skip
"""Settings of the recipe; settings on the command line override them."""
ON_GPU = (
    "data.batch_size=1024", "data.workers=12", "optim.lr=0.3", "optim.warmup_epochs=10", "optim.precision=bf16",
    "optim.cuda_graphs=true",
)  # fmt: skip
ON_CPU = ("data.batch_size=256", "optim.lr=0.05", "optim.warmup_epochs=1", "optim.kernels=compiled", "data.workers=0")


@dataclass(frozen=True)
class Work:
    """Working folder and time limit of a stage.

    Attributes:
        folder: Working folder of all stages.
        data: The folder with ``train`` and ``val``.
        deadline: Time on the clock of `time.monotonic`; None for no limit.
        overrides: Settings from the command line.
    """

    folder: Path
    data: Path
    deadline: float | None
    overrides: tuple[str, ...]

    @property
    def run(self) -> Path:
        """The folder of the training run."""
        return self.folder / "run"

    @property
    def results(self) -> Path:
        """The folder of the results."""
        return self.folder / "results"

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the deadline; None for no limit."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def config(self, recipe: str, output: Path, *settings: str) -> TrainConfig:
        """A recipe with the settings `OURS` for its device, ``settings``, and those of the command line."""
        cpu = "device=cpu" in self.overrides or not torch.cuda.is_available()
        places = (f"data.root={self.data}", f"output={output}")
        return load_config(recipe, [*OURS, *(ON_CPU if cpu else ON_GPU), *places, *settings, *self.overrides])

    def write(self, name: str, content: Any) -> None:
        """Writes a result: text unchanged, anything else as JSON."""
        with replacing(self.results / name) as temporary:
            text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
            temporary.write_text(text, "utf-8")


def open_work(arguments: argparse.Namespace) -> Work:
    """The working folder of a stage; unpacks the data if it is a tar file."""
    limit, data = getattr(arguments, "time_limit", None), getattr(arguments, "data", None)
    deadline = None if limit is None else time.monotonic() + limit
    arguments.work.joinpath("results").mkdir(parents=True, exist_ok=True)
    root = Path("unused") if data is None else unpacked(data, arguments.work / "data")
    return Work(arguments.work, root, deadline, tuple(getattr(arguments, "overrides", ())))


def unpacked(data: Path, target: Path) -> Path:
    """The folder with ``train`` and ``val`` in a folder or a tar file, which is unpacked once, by one process."""
    with locked_file(target.with_name(f".{target.name}.lock"), wait=True):
        if data.is_file() and not target.exists():
            temporary = target.with_name(f".{target.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            with tarfile.open(data) as archive:
                archive.extractall(temporary, filter="data")
            temporary.rename(target)
    found = target if data.is_file() else data
    roots = [
        path for path in (found, *sorted(found.iterdir())) if (path / "train").is_dir() and (path / "val").is_dir()
    ]
    if not roots:
        raise UsageError(f"{data} has no folders train and val; pass CIFAR-10 as folders <train|val>/<class>/<image>")
    return roots[0]


def resume_me(what: str) -> int:
    """Reports that the stage is incomplete; returns 0."""
    print(f"RESUME ME: {what}; run the same command again to continue")
    return 0
