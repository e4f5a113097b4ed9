"""What the pieces of `cifar_supernet.py` share: folders, settings, a time limit."""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.train.config import TrainConfig, load_config

RECIPE = "alphanet_cifar10"
LOSSES = {"adaptive alpha": RECIPE, "KL": f"{RECIPE}_kl", "none": f"{RECIPE}_no_distill"}
OURS = (
    "data.engine=device", "data.hold_out=5000", "data.workers=8", "data.batch_size=512", "optim.precision=bf16",
    "validation.every_epochs=10", "checkpoint_every_steps=2000", "log.every_steps=20", "log.progress=false",
)  # fmt: skip
"""How a GPU runs the recipe; settings on the command line come after these."""


@dataclass(frozen=True)
class Work:
    """Where a piece works, and until when.

    Attributes:
        folder: Everything that the next pieces go on from.
        data: The folder with ``train`` and ``val``.
        deadline: On `time.monotonic`'s clock; None for no limit.
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
        """What a person keeps."""
        return self.folder / "results"

    @property
    def seconds_left(self) -> float | None:
        """Until the deadline."""
        return None if self.deadline is None else max(self.deadline - time.monotonic(), 0.0)

    def config(self, recipe: str, output: Path, *settings: str) -> TrainConfig:
        """A recipe with our settings, these, and the command line's."""
        places = (f"data.root={self.data}", f"output={output}")
        return load_config(recipe, [*OURS, *places, *settings, *self.overrides])

    def write(self, name: str, content: Any) -> None:
        """Writes a result as JSON, or text as it is."""
        with replacing(self.results / name) as temporary:
            text = content if isinstance(content, str) else json.dumps(content, indent=1) + "\n"
            temporary.write_text(text, "utf-8")


def open_work(arguments: argparse.Namespace) -> Work:
    """The folders of a piece; unpacks the data where it comes packed."""
    limit, data = getattr(arguments, "time_limit", None), getattr(arguments, "data", None)
    deadline = None if limit is None else time.monotonic() + limit
    arguments.work.joinpath("results").mkdir(parents=True, exist_ok=True)
    root = Path("nowhere") if data is None else unpacked(data, arguments.work / "data")
    return Work(arguments.work, root, deadline, tuple(getattr(arguments, "overrides", ())))


def unpacked(data: Path, target: Path) -> Path:
    """The folder with ``train`` and ``val`` in a folder or a tar file, which is unpacked once."""
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
        raise UsageError(f"{data} holds no train and val; give CIFAR-10 as folders <train|val>/<class>/<image>")
    return roots[0]


def resume_me(what: str) -> int:
    """Says that there is more to do."""
    print(f"RESUME ME: {what}; the same command goes on from here")
    return 0
