"""What a search requires of a family of networks: its archs and its search space."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Protocol, TypeVar

import numpy as np


class Arch(Hashable, Protocol):
    """The architecture of one subnet: an immutable, hashable value."""

    @property
    def resolution(self) -> int:
        """Side of the square input, in pixels."""

    def to_dict(self) -> dict[str, Any]:
        """The arch as plain values, ready for JSON."""


A = TypeVar("A", bound=Arch)


class Space(Protocol[A]):
    """All archs of one supernet. `SearchSpace` (AlphaNet) and `SlimSpace` (slimmable networks) have these methods."""

    @property
    def largest(self) -> A:
        """The arch with the largest choice of every entry."""

    @property
    def smallest(self) -> A:
        """The arch with the smallest choice of every entry."""

    def sample(self, rng: np.random.Generator) -> A:
        """Draws an arch, each entry independently and uniformly."""

    def mutate(self, arch: A, prob: float, rng: np.random.Generator) -> A:
        """Redraws each entry with probability ``prob``."""

    def crossover(self, a: A, b: A, rng: np.random.Generator) -> A:
        """Takes each entry from either parent with probability 1/2."""

    def sample_within(
        self, low: float, high: float, n: int, rng: np.random.Generator, *, num_classes: int = ...
    ) -> list[A]:
        """Draws ``n`` archs exactly uniformly from those that cost ``low`` to ``high`` MACs (inclusive).

        Raises:
            TargetError: No arch costs that much, or none was found.
        """

    def count_macs(self, arch: A, num_classes: int = ..., /) -> int:
        """Multiply-accumulates for one image."""

    def count_params(self, arch: A, num_classes: int = ..., /) -> int:
        """Number of parameters."""
