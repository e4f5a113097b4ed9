"""A module of the user's with small networks, for tests that name them."""

from __future__ import annotations

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

SETTINGS = [
    "net=own_network:build", "data.source=digits", "data.root=null", "data.image_size=16", "data.workers=0",
    "data.batch_size=32", "data.transform=affine", "optim.epochs=4", "optim.warmup_epochs=0",
    "checkpoint_every_steps=20", "log.progress=false", "validation.every_epochs=0", "optim.ema_decay=0.9",
]  # fmt: skip
"""A run of that network on scanned digits."""
