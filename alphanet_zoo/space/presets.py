"""Search spaces and model families."""

from __future__ import annotations

from dataclasses import dataclass

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.choices import Stage
from alphanet_zoo.space.space import SearchSpace

ALPHANET = SearchSpace(
    name="alphanet",
    resolution=(192, 224, 256, 288),
    stem_width=(16, 24),
    stem_stride=2,
    stages=(
        Stage("mb1", (16, 24), (1, 2), (3, 5), (1,), 1, False),
        Stage("mb2", (24, 32), (3, 4, 5), (3, 5), (4, 5, 6), 2, False),
        Stage("mb3", (32, 40), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, True),
        Stage("mb4", (64, 72), (3, 4, 5, 6), (3, 5), (4, 5, 6), 2, False),
        Stage("mb5", (112, 120, 128), (3, 4, 5, 6, 7, 8), (3, 5), (4, 5, 6), 1, True),
        Stage("mb6", (192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (3, 5), (6,), 2, True),
        Stage("mb7", (216, 224), (1, 2), (3, 5), (6,), 1, True),
    ),
    head_width=(1792, 1984),
)
"""The ImageNet space. Source: docs/specification.md, section 2; Wang et al., 2021, arXiv:2102.07954, table 7."""

ALPHANET_CIFAR = SearchSpace(
    name="alphanet_cifar",
    resolution=(24, 28, 32),
    stem_width=(16, 24),
    stem_stride=1,
    stages=(
        Stage("mb1", (16, 24), (1, 2), (3, 5), (1,), 1, False),
        Stage("mb2", (24, 32), (2, 3), (3, 5), (3, 4), 2, False),
        Stage("mb3", (32, 40), (2, 3), (3, 5), (3, 4), 1, True),
        Stage("mb4", (64, 72), (2, 3), (3, 5), (3, 4), 2, False),
        Stage("mb5", (80, 88), (2, 3), (3, 5), (3, 4), 1, True),
        Stage("mb6", (144, 152, 160), (2, 3), (3, 5), (4,), 2, True),
    ),
    head_width=(640, 768),
)
"""A space for 32-pixel images: stem stride 1, three downsampling stages; 13 to 61 M MACs with 10 classes."""

ALPHANET_TINY = SearchSpace(
    name="alphanet_tiny",
    resolution=(12, 16),
    stem_width=(8, 16),
    stem_stride=1,
    stages=(
        Stage("mb1", (8, 16), (1, 2), (3, 5), (1,), 1, False),
        Stage("mb2", (16, 24), (1, 2, 3), (3, 5), (3, 4), 2, False),
        Stage("mb3", (24, 32), (1, 2, 3), (3, 5), (3, 4), 2, True),
    ),
    head_width=(96, 128),
)
"""A space for handwritten digits, demos and tests with every feature of the large spaces: 0.2 to 2.6 M MACs with 10
classes."""

SPACES: dict[str, SearchSpace] = {space.name: space for space in (ALPHANET, ALPHANET_CIFAR, ALPHANET_TINY)}
"""The spaces by name."""


@dataclass(frozen=True)
class FamilyMember:
    """A named arch of a family.

    Attributes:
        name: Name of the model.
        arch: Its architecture.
        space: The search space of ``arch``.
        top1: Published ImageNet top-1 in percent; for a family with weights in the package, their measured test top-1.
            None if there is neither.
        num_classes: Outputs of the classifier.
    """

    name: str
    arch: ArchSpec
    space: SearchSpace
    top1: float | None
    num_classes: int = 1000


def _member(
    name: str, top1: float, resolution: int, width: str, kernel_size: str, expand: str, depth: str
) -> FamilyMember:
    """A row of the table in docs/specification.md, section 4; lists are separated by spaces as there."""
    rows = [tuple(map(int, row.split())) for row in (width, depth, kernel_size, expand)]
    return FamilyMember(f"alphanet_{name}", ArchSpec(resolution, *rows), ALPHANET, top1)


IMAGENET_FAMILY: tuple[FamilyMember, ...] = (
    _member("a0", 77.87, 192, "16 16 24 32 64 112 192 216 1792", "3 3 3 3 3 3 3", "1 4 4 4 4 6 6", "1 3 3 3 3 3 1"),
    _member("a1", 78.94, 224, "16 16 24 32 64 112 192 216 1984", "3 3 3 5 3 5 3", "1 4 4 4 4 6 6", "1 3 3 3 3 3 1"),
    _member("a2", 79.20, 224, "16 16 24 32 64 112 200 224 1984", "3 3 3 3 3 5 3", "1 4 5 4 4 6 6", "1 3 3 3 3 4 1"),
    _member("a3", 79.41, 224, "16 16 24 32 64 112 208 224 1984", "3 3 3 5 3 3 3", "1 4 4 4 4 6 6", "2 3 3 4 3 5 1"),
    _member("a4", 80.01, 256, "16 16 24 32 64 112 192 216 1984", "3 3 3 5 3 5 3", "1 4 4 5 4 6 6", "1 3 3 4 3 5 1"),
    _member("a5", 80.29, 256, "16 16 24 32 64 112 208 216 1984", "3 3 3 3 3 5 3", "1 4 4 5 4 6 6", "1 3 3 4 4 5 1"),
    _member(
        "a5_base", 80.62, 288, "16 16 24 32 64 112 200 216 1984", "3 3 5 5 3 3 3", "1 4 4 4 5 6 6", "2 3 4 3 3 5 1"
    ),
    _member("a6", 80.78, 288, "16 16 24 32 64 112 216 224 1984", "3 3 3 3 3 5 3", "1 4 6 5 4 6 6", "1 3 3 4 4 6 1"),
)
"""A0 to A6 by ascending cost. Source: docs/specification.md, section 4; Wang et al., 2021, arXiv:2102.07954."""

FAMILIES: dict[str, tuple[FamilyMember, ...]] = {"imagenet": IMAGENET_FAMILY}
"""The families by name."""

ALIASES: dict[str, str] = {"alphanet_a5_small": "alphanet_a5"}
"""Alternative names of models."""
