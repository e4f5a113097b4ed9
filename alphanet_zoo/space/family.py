"""What a search requires of a family of networks: its archs and its search space; and what all spaces share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt


class Arch(Hashable, Protocol):
    """The architecture of one subnet: an immutable, hashable value."""

    @property
    def resolution(self) -> int:
        """Side of the square input, in pixels."""

    @property
    def scalars(self) -> tuple[Any, ...]:
        """Its entries as numbers, in the order of the entries of its space."""

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

    @property
    def name(self) -> str:
        """Name of the space."""

    @property
    def resolution(self) -> tuple[int, ...]:
        """Choices of the side of the input, in pixels."""

    @property
    def entries(self) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """Name and ascending choices of each scalar of an arch."""

    @property
    def size(self) -> int:
        """The number of archs, however large."""

    def __contains__(self, arch: object) -> bool:
        """Whether every entry of ``arch`` is one of the choices."""

    def arch_of(self, scalars: Sequence[Any]) -> A:
        """The arch with these scalars."""

    def sample_array(self, n: int, rng: np.random.Generator) -> npt.NDArray[Any]:
        """Draws ``n`` archs like `sample`: ``(n, scalars)``, the ``scalars`` of one arch per row."""

    def validate(self, arch: A) -> A:
        """Returns ``arch`` if it is in this space; raises ValueError otherwise."""

    def read_arch(self, spec: Mapping[str, Any]) -> A:
        """The arch that `Arch.to_dict` describes, which need not be in this space."""

    def to_dict(self) -> dict[str, Any]:
        """The space as plain values, ready for JSON."""

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


class ProductSpace(ABC, Generic[A]):
    """A space whose archs are all combinations of one choice per entry: the part that every family shares."""

    name: str

    @property
    @abstractmethod
    def entries(self) -> tuple[tuple[str, tuple[Any, ...]], ...]:
        """Name and ascending choices of each scalar of an arch."""

    @abstractmethod
    def arch_of(self, scalars: Sequence[Any]) -> A:
        """The arch with these scalars."""

    @abstractmethod
    def _refusal(self, arch: object) -> str | None:
        """Why ``arch`` is not in this space; None if it is."""

    @cached_property
    def largest(self) -> A:
        """The arch with the largest choice of every entry."""
        return self.arch_of([choices[-1] for _, choices in self.entries])

    @cached_property
    def smallest(self) -> A:
        """The arch with the smallest choice of every entry."""
        return self.arch_of([choices[0] for _, choices in self.entries])

    @cached_property
    def size(self) -> int:
        """The number of archs, however large."""
        return math.prod(len(choices) for _, choices in self.entries)

    def __len__(self) -> int:
        """The number of archs."""
        return self.size

    def __bool__(self) -> bool:
        """Always true: a space is never empty, and ``len`` fails for spaces of more than 2**63 archs."""
        return True

    def __contains__(self, arch: object) -> bool:
        """Whether every entry of ``arch`` is one of the choices."""
        return self._refusal(arch) is None

    def validate(self, arch: A) -> A:
        """Returns ``arch`` if it is in this space.

        Raises:
            ValueError: It is not; the message names the entry, its value and the choices.
        """
        refusal = self._refusal(arch)
        if refusal is not None:
            raise ValueError(refusal)
        return arch

    def refusal(self, column: int, value: Any) -> str:
        """Error message: ``value`` is not a choice of entry number ``column``."""
        entry, choices = self.entries[column]
        return f"arch entry {entry} is {value}; the space {self.name} has the choices {' '.join(map(str, choices))}"

    def sample(self, rng: np.random.Generator) -> A:
        """Draws an arch, each entry independently and uniformly."""
        return self.arch_of([choices[rng.integers(len(choices))] for _, choices in self.entries])

    def sample_array(self, n: int, rng: np.random.Generator) -> npt.NDArray[Any]:
        """Draws ``n`` archs like `sample`: ``(n, scalars)``, the ``scalars`` of one arch per row."""
        return np.stack([np.asarray(c)[rng.integers(len(c), size=n)] for _, c in self.entries], axis=1)

    def mutate(self, arch: A, prob: float, rng: np.random.Generator) -> A:
        """Redraws each scalar with probability ``prob``, to a different value if there is more than one choice.

        Raises:
            ValueError: ``arch`` is not in this space, or ``prob`` is not in [0, 1].
        """
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"mutation probability is {prob}; pass a value from 0 to 1")
        scalars = list(self.validate(arch).scalars)
        for i, (_, choices) in enumerate(self.entries):
            others = [c for c in choices if c != scalars[i]]
            if rng.random() < prob and others:
                scalars[i] = others[rng.integers(len(others))]
        return self.arch_of(scalars)

    def crossover(self, a: A, b: A, rng: np.random.Generator) -> A:
        """Takes each scalar from either parent with probability 1/2.

        Raises:
            ValueError: A parent is not in this space.
        """
        pairs = zip(self.validate(a).scalars, self.validate(b).scalars, strict=True)
        return self.arch_of([pair[rng.integers(2)] for pair in pairs])
