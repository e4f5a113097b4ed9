"""A search space as a value: which archs it holds, and how to draw them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from alphanet_zoo.space.arch import ArchSpec

IntArray = npt.NDArray[np.integer[Any]]


def _as_choices(entry: str, values: object) -> tuple[int, ...]:
    """Choices as a tuple of ascending distinct positive ints."""
    choices = tuple(values) if isinstance(values, tuple | list) else (values,)
    if not choices or any(isinstance(c, bool) or not isinstance(c, int) or c < 1 for c in choices):
        raise ValueError(f"{entry} has the choices {values!r}; give positive integers")
    if list(choices) != sorted(set(choices)):
        raise ValueError(f"{entry} has the choices {values!r}; give them ascending, each once")
    return choices


@dataclass(frozen=True)
class Stage:
    """A row of the table of docs/specification.md, section 2: the choices of one stage of MBConv blocks.

    Args:
        name: Name of the stage, unique in its space.
        width: Choices of output channels.
        depth: Choices of the number of blocks.
        kernel_size: Choices of the (odd) depthwise kernel, shared by the blocks.
        expand_ratio: Choices of the expansion, shared by the blocks. Where the largest is 1 the blocks have no
            expanding convolution.
        stride: Stride of the first block, 1 or 2.
        se: Whether the blocks have squeeze-and-excite.
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
        for entry in ("width", "depth", "kernel_size", "expand_ratio"):
            object.__setattr__(self, entry, _as_choices(f"stage {self.name}: {entry}", getattr(self, entry)))
        if any(k % 2 == 0 for k in self.kernel_size):
            raise ValueError(f"stage {self.name}: kernel_size {self.kernel_size} has an even kernel; give odd ones")
        if self.stride not in (1, 2):
            raise ValueError(f"stage {self.name}: stride is {self.stride!r}; give 1 or 2")


@dataclass(frozen=True)
class SearchSpace:
    """All archs that one supernet holds: the product of independent choices.

    Args:
        name: Name of the space.
        resolution: Choices of the input's side, in pixels.
        stem_width: Choices of the stem's output channels.
        stem_stride: Stride of the stem's 3x3 convolution, 1 or 2.
        stages: The stages, in order; any number of them.
        head_width: Choices of the width of the last 1x1 convolution.
        head_expand: The convolution before the global pooling has this many times the last stage's channels.

    Raises:
        ValueError: A choice is not a positive integer, choices are not ascending, or there is no stage.

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
        for entry in ("resolution", "stem_width", "head_width"):
            object.__setattr__(self, entry, _as_choices(f"space {self.name}: {entry}", getattr(self, entry)))
        object.__setattr__(self, "stages", tuple(self.stages))
        if not self.stages:
            raise ValueError(f"space {self.name} has no stages; give at least one")
        if self.stem_stride not in (1, 2):
            raise ValueError(f"space {self.name}: stem_stride is {self.stem_stride!r}; give 1 or 2")
        if isinstance(self.head_expand, bool) or not isinstance(self.head_expand, int) or self.head_expand < 1:
            raise ValueError(f"space {self.name}: head_expand is {self.head_expand!r}; give one positive integer")

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> SearchSpace:
        """The inverse of `to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value is out of its domain.
        """
        try:
            items = dict(spec)
            items["stages"] = tuple(Stage(**row) for row in items["stages"])
            return cls(**items)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a search space: {error}; give the mapping that SearchSpace.to_dict made") from error

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

    @cached_property
    def largest(self) -> ArchSpec:
        """The arch with the largest choice in every entry; its weights hold all others'."""
        return ArchSpec.from_scalars([choices[-1] for _, choices in self.entries])

    @cached_property
    def smallest(self) -> ArchSpec:
        """The arch with the smallest choice in every entry."""
        return ArchSpec.from_scalars([choices[0] for _, choices in self.entries])

    def __len__(self) -> int:
        """The number of archs in the space."""
        count = 1
        for _, choices in self.entries:
            count *= len(choices)
        return count

    def __bool__(self) -> bool:
        """A space is never empty (and may be too large for ``len``)."""
        return True

    def __contains__(self, arch: object) -> bool:
        """Whether every entry of ``arch`` is a choice of this space."""
        return isinstance(arch, ArchSpec) and self._refusal(arch) is None

    def validate(self, arch: ArchSpec) -> ArchSpec:
        """Returns ``arch``, or says why it is not in this space.

        Raises:
            ValueError: Names the entry, its value and the choices.
        """
        refusal = self._refusal(arch)
        if refusal is not None:
            raise ValueError(refusal)
        return arch

    def _refusal(self, arch: ArchSpec) -> str | None:
        """Why ``arch`` is not in this space, or None."""
        if not isinstance(arch, ArchSpec):
            return f"{type(arch).__name__} is no ArchSpec; give one (a net has one in .arch)"
        if len(arch.depth) != len(self.stages):
            return f"the arch has {len(arch.depth)} stages; the space {self.name} has {len(self.stages)}"
        for i, ((_, choices), value) in enumerate(zip(self.entries, arch.scalars, strict=True)):
            if value not in choices:
                return self.refusal(i, value)
        return None

    def refusal(self, column: int, value: int) -> str:
        """Says that ``value`` is no choice of entry ``column``, and which the choices are."""
        entry, choices = self.entries[column]
        return f"arch entry {entry} is {value}; the space {self.name} has the choices {' '.join(map(str, choices))}"

    def sample(self, rng: np.random.Generator) -> ArchSpec:
        """An arch with each entry drawn independently and uniformly."""
        return ArchSpec.from_scalars([choices[rng.integers(len(choices))] for _, choices in self.entries])

    def sample_array(self, n: int, rng: np.random.Generator) -> IntArray:
        """As `sample`, ``n`` archs at once: ``(n, scalars)`` int64, a row an `ArchSpec.scalars`."""
        return np.stack([np.asarray(c)[rng.integers(len(c), size=n)] for _, c in self.entries], axis=1)

    def mutate(self, arch: ArchSpec, prob: float, rng: np.random.Generator) -> ArchSpec:
        """Redraws each scalar with probability ``prob``, to a different value where there is one.

        Raises:
            ValueError: ``arch`` is not in this space, or ``prob`` not in [0, 1].
        """
        if not 0.0 <= prob <= 1.0:
            raise ValueError(f"mutation probability is {prob}; give a value from 0 to 1")
        self.validate(arch)
        scalars = list(arch.scalars)
        for i, (_, choices) in enumerate(self.entries):
            others = [c for c in choices if c != scalars[i]]
            if rng.random() < prob and others:
                scalars[i] = others[rng.integers(len(others))]
        return ArchSpec.from_scalars(scalars)

    def crossover(self, a: ArchSpec, b: ArchSpec, rng: np.random.Generator) -> ArchSpec:
        """Takes each scalar from either parent with probability 1/2.

        Raises:
            ValueError: A parent is not in this space.
        """
        pairs = zip(self.validate(a).scalars, self.validate(b).scalars, strict=True)
        return ArchSpec.from_scalars([pair[rng.integers(2)] for pair in pairs])

    def sample_within(
        self, low: float, high: float, n: int, rng: np.random.Generator, *, num_classes: int = 1000
    ) -> list[ArchSpec]:
        """Draws ``n`` archs exactly uniformly from those that cost ``low`` to ``high`` MACs, both included.

        Args:
            low: Least cost, in multiply-accumulates (not millions).
            high: Greatest cost, in multiply-accumulates.
            n: Number of archs, drawn with replacement.
            rng: Source of randomness.
            num_classes: Classes of the classifier, which the cost counts.

        Raises:
            ValueError: No arch costs that much; the message says the nearest possible costs.
        """
        from alphanet_zoo.space.sampling import draw_within

        return draw_within(self, low, high, n, rng, num_classes)
