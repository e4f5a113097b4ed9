"""A module of the user's with small networks, for tests that name them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

MODULE = """
from torch import nn


def build(num_classes):
    layers, channels = [], 3
    for out in (16, 24, 32):
        layers += [nn.Conv2d(channels, out, 3, 2, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, num_classes))


def nothing(num_classes):
    return None
"""


@contextmanager
def current_folder(path: Path, module: str, text: str) -> Iterator[Path]:
    """Makes ``path``, with a module of the user's, the current folder, from which this process imports, too."""
    (path / f"{module}.py").write_text(text, "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.syspath_prepend(path)
        yield path


SETTINGS = [
    "net=own_network:build", "data.source=digits", "data.root=null", "data.image_size=16", "data.workers=0",
    "data.batch_size=32", "data.transform=affine", "optim.epochs=4", "optim.warmup_epochs=0",
    "checkpoint_every_steps=20", "log.progress=false", "validation.every_epochs=0", "optim.ema_decay=0.9",
]  # fmt: skip
"""A run of that network on scanned digits."""
