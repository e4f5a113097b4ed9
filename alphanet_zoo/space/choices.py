"""The choices that make up a search space, as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Self

from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.family import ProductSpace

LIMITS = {
    "width": 2**16, "depth": 256, "kernel_size": 255, "expand_ratio": 64, "resolution": 2**14, "stem_width": 2**16,
    "head_width": 2**16, "head_expand": 64,
}  # fmt: skip
"""Largest value of each entry. Larger ones, in a file from elsewhere, would take all memory before they are refused."""
MOST_CHOICES, MOST_STAGES, MOST_BLOCKS = 4096, 64, 1024
"""Largest number of choices of an entry, of stages, and of blocks."""


def _as_choices(entry: str, values: object) -> tuple[int, ...]:
    """Choices as a tuple of ascending distinct positive ints."""
    choices = tuple(values) if isinstance(values, tuple | list) else (values,)
    if not choices or any(isinstance(c, bool) or not isinstance(c, int) or c < 1 for c in choices):
        raise ValueError(f"{entry} has the choices {values!r}; pass positive integers")
    if list(choices) != sorted(set(choices)):
        raise ValueError(f"{entry} has the choices {values!r}; list them in ascending order, each once")
    limit = LIMITS[entry.rpartition(" ")[2]]
    if choices[-1] > limit or len(choices) > MOST_CHOICES:
        raise ValueError(
            f"{entry} has {len(choices)} choices up to {choices[-1]}; pass at most {MOST_CHOICES} choices up to {limit}"
        )
    return choices


def _is_stride(value: object) -> bool:
    """Whether a value is 1 or 2, and not True or 1.0."""
    return isinstance(value, int) and not isinstance(value, bool) and value in (1, 2)


@dataclass(frozen=True)
class Stage:
    """The choices of one stage of MBConv blocks: a row of the table in docs/specification.md, section 2.

    Args:
        name: Name of the stage, unique in its space.
        width: Choices of output channels.
        depth: Choices of the number of blocks.
        kernel_size: Choices of the depthwise kernel size (odd), shared by the blocks of the stage.
        expand_ratio: Choices of the expansion ratio, shared by the blocks of the stage. If the largest is 1, the
            blocks have no expanding convolution.
        stride: Stride of the first block, 1 or 2.
        se: Whether the blocks have squeeze-and-excite.

    Raises:
        ValueError: A choice is not a positive integer, choices do not ascend, a kernel size is even, or the stride is
            not 1 or 2.
    """

    name: str
    width: tuple[int, ...]
    depth: tuple[int, ...]
    kernel_size: tuple[int, ...]
    expand_ratio: tuple[int, ...]
    stride: int
    se: bool

    def __post_init__(self) -> None:
        """Normalises and checks every entry."""
        if not isinstance(self.name, str) or not isinstance(self.se, bool):
            raise ValueError(f"stage {self.name!r:.80}: se is {self.se!r:.80}; pass a name, and true or false for se")
        for entry in ("width", "depth", "kernel_size", "expand_ratio"):
            object.__setattr__(self, entry, _as_choices(f"stage {self.name}: {entry}", getattr(self, entry)))
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"stage {self.name}: kernel_size {self.kernel_size} has an even kernel; pass odd sizes")
        if not _is_stride(self.stride):
            raise ValueError(f"stage {self.name}: stride is {self.stride!r}; pass 1 or 2")


@dataclass(frozen=True)
class SpaceChoices(ProductSpace[ArchSpec]):
    """The choices of a search space. Its archs are all combinations of one choice per entry.

    The cost model and the samplers take this class; users work with `alphanet_zoo.space.space.SearchSpace`.

    Args:
        name: Name of the space.
        resolution: Choices of the side of the input, in pixels.
        stem_width: Choices of the output channels of the stem.
        stem_stride: Stride of the stem's 3x3 convolution, 1 or 2.
        stages: The stages in order, at least one.
        head_width: Choices of the width of the last 1x1 convolution.
        head_expand: Ratio of the channels of the convolution before global pooling to the channels of the last stage.

    Raises:
        ValueError: A choice is not a positive integer, choices do not ascend, or there is no stage.

    Source: docs/specification.md, section 2.
    """

    name: str
    resolution: tuple[int, ...]
    stem_width: tuple[int, ...]
    stem_stride: int
    stages: tuple[Stage, ...]
    head_width: tuple[int, ...]
    head_expand: int = 6

    def __post_init__(self) -> None:
        """Normalises and checks every entry."""
        if not isinstance(self.name, str):
            raise ValueError(f"the name of the space is {self.name!r:.80}; pass a text")
        for entry in ("resolution", "stem_width", "head_width"):
            object.__setattr__(self, entry, _as_choices(f"space {self.name}: {entry}", getattr(self, entry)))
        object.__setattr__(self, "stages", tuple(self.stages))
        if not 1 <= len(self.stages) <= MOST_STAGES:
            raise ValueError(f"space {self.name} has {len(self.stages)} stages; pass 1 to {MOST_STAGES}")
        if sum(stage.depth[-1] for stage in self.stages) > MOST_BLOCKS:
            raise ValueError(f"space {self.name} has more than {MOST_BLOCKS} blocks; pass smaller depths")
        if not _is_stride(self.stem_stride):
            raise ValueError(f"space {self.name}: stem_stride is {self.stem_stride!r}; pass 1 or 2")
        if (
            isinstance(self.head_expand, bool)
            or not isinstance(self.head_expand, int)
            or not (1 <= self.head_expand <= LIMITS["head_expand"])
        ):
            raise ValueError(
                f"space {self.name}: head_expand is {self.head_expand!r}; pass one integer from 1 to "
                f"{LIMITS['head_expand']}"
            )

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value is out of its domain.
        """
        try:
            items = dict(spec)
            items["stages"] = tuple(Stage(**row) for row in islice(items["stages"], MOST_STAGES + 1))
            return cls(**items)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a search space: {error}; pass a mapping returned by SearchSpace.to_dict") from error

    def read_arch(self, spec: Mapping[str, Any]) -> ArchSpec:
        """The arch that `ArchSpec.to_dict` describes, which need not be in this space."""
        return ArchSpec.from_dict(spec)

    def to_dict(self) -> dict[str, Any]:
        """The space as plain values, ready for JSON."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(item) for key, item in value.items()}
            return [plain(item) for item in value] if isinstance(value, tuple) else value

        result: dict[str, Any] = plain(asdict(self))
        return result

    @cached_property
    def entries(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Name and choices of each scalar of an arch, in the order of `ArchSpec.scalars`."""
        widths = (self.stem_width, *(s.width for s in self.stages), self.head_width)
        columns = [("width", widths)] + [
            (name, tuple(getattr(s, name) for s in self.stages)) for name in ("depth", "kernel_size", "expand_ratio")
        ]
        named = tuple((f"{name}[{i}]", c) for name, column in columns for i, c in enumerate(column))
        return (("resolution", self.resolution), *named)

    def arch_of(self, scalars: Sequence[int]) -> ArchSpec:
        """The arch with these scalars."""
        return ArchSpec.from_scalars(scalars)

    def _refusal(self, arch: object) -> str | None:
        """Why ``arch`` is not in this space; None if it is."""
        if not isinstance(arch, ArchSpec):
            return f"{type(arch).__name__} is not an ArchSpec; pass one (the arch of a net is net.arch)"
        if len(arch.depth) != len(self.stages):
            return f"the arch has {len(arch.depth)} stages; the space {self.name} has {len(self.stages)}"
        for i, ((_, choices), value) in enumerate(zip(self.entries, arch.scalars, strict=True)):
            if value not in choices:
                return self.refusal(i, value)
        return None
