"""A search space: its choices, and how to draw archs from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import overload

import numpy as np

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.choices import SpaceChoices
from alphanet_zoo.space.sampling import draw_within
from alphanet_zoo.space.shapes import net_macs, net_params, net_shape
from alphanet_zoo.space.tables import Int64Array, IntArray, count_rows


@dataclass(frozen=True)
class SearchSpace(SpaceChoices):
    """All archs that one supernet contains: every combination of independent choices.

    Arguments, attributes and errors as `alphanet_zoo.space.choices.SpaceChoices`.

    Source: docs/specification.md, section 2.
    """

    def sample_within(
        self, low: float, high: float, n: int, rng: np.random.Generator, *, num_classes: int = 1000
    ) -> list[ArchSpec]:
        """Draws ``n`` archs exactly uniformly from those that cost ``low`` to ``high`` MACs (inclusive).

        Args:
            low: Least cost, in multiply-accumulates (not millions).
            high: Greatest cost, in multiply-accumulates.
            n: Number of archs, drawn with replacement.
            rng: Source of randomness.
            num_classes: Classes of the classifier, which is part of the cost.

        Raises:
            TargetError: (a ValueError) No arch costs that much; the message names the nearest possible costs.
            ValueError: ``low`` is above ``high``, a bound is not a number, ``n`` is negative or not an integer, or the
                space is too large to be sampled by cost.
        """
        return draw_within(self, low, high, n, rng, num_classes)

    @overload
    def count_macs(self, arch: ArchSpec, num_classes: int = 1000) -> int: ...
    @overload
    def count_macs(self, arch: IntArray, num_classes: int = 1000) -> Int64Array: ...
    def count_macs(self, arch: ArchSpec | IntArray, num_classes: int = 1000) -> int | Int64Array:
        """Multiply-accumulates of one arch or of many; see `alphanet_zoo.space.cost.count_macs`."""
        _check_classes(num_classes)
        if isinstance(arch, ArchSpec):
            return net_macs(net_shape(self, arch), num_classes)
        if not isinstance(arch, np.ndarray):
            raise ValueError(
                f"cannot count the MACs of a {type(arch).__name__}; pass an ArchSpec (the arch of a net is net.arch) "
                "or an integer array of many archs"
            )
        return count_rows(self, arch, num_classes)

    def count_params(self, arch: ArchSpec, num_classes: int = 1000) -> int:
        """Number of parameters of the static net of an arch; see `alphanet_zoo.space.cost.count_params`."""
        _check_classes(num_classes)
        return net_params(net_shape(self, arch), num_classes)


def _check_classes(num_classes: int) -> None:
    """Rejects a negative number of classes."""
    if num_classes < 0:
        raise ValueError(
            f"num_classes is {num_classes}; pass the number of classes, or 0 for a net without a classifier"
        )
