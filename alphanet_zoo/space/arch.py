"""An architecture as a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any


def _as_int(entry: str, value: object) -> int:
    """``value`` as a positive int. Accepts NumPy integers; rejects bools, floats and strings."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"arch entry {entry} is {value!r}; pass a positive integer")
    number = int(value.__index__())
    if number < 1:
        raise ValueError(f"arch entry {entry} is {number}; pass a positive integer")
    return number


def _as_ints(entry: str, values: object) -> tuple[int, ...]:
    """``values`` as a tuple of positive ints."""
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise ValueError(f"arch entry {entry} is {values!r}; pass a list of integers, one per stage")
    return tuple(_as_int(f"{entry}[{i}]", v) for i, v in enumerate(values))


@dataclass(frozen=True)
class ArchSpec:
    """The architecture of one subnet of a search space, in the published form.

    Args:
        resolution: Side of the square input, in pixels.
        width: Output channels of the stem, of each stage, and of the head (stages + 2 entries).
        depth: Blocks in each stage.
        kernel_size: Depthwise kernel size of each stage, shared by its blocks.
        expand_ratio: Expansion ratio of each stage, shared by its blocks.

    Raises:
        ValueError: An entry is not a positive integer, or the lengths do not match. Whether the entries are choices
            of a space is checked by `SearchSpace.validate`.

    Source: docs/specification.md, section 2; Wang et al., 2021, arXiv:2102.07954, table 7.
    """

    resolution: int
    width: tuple[int, ...]
    depth: tuple[int, ...]
    kernel_size: tuple[int, ...]
    expand_ratio: tuple[int, ...]

    def __post_init__(self) -> None:
        """Converts every entry to ints and tuples of ints, and checks the lengths."""
        object.__setattr__(self, "resolution", _as_int("resolution", self.resolution))
        for entry in ("width", "depth", "kernel_size", "expand_ratio"):
            object.__setattr__(self, entry, _as_ints(entry, getattr(self, entry)))
        stages = len(self.depth)
        for entry, expected in (("kernel_size", stages), ("expand_ratio", stages), ("width", stages + 2)):
            if len(getattr(self, entry)) != expected:
                raise ValueError(
                    f"arch entry {entry} has {len(getattr(self, entry))} values; "
                    f"{expected} are required for a depth of {stages} stages"
                )

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> ArchSpec:
        """Builds an arch from a mapping in the published form.

        Raises:
            ValueError: A key is missing or unknown, or a value is not valid for `ArchSpec`.
        """
        if not isinstance(spec, Mapping):
            raise ValueError(f"an arch must be a mapping with {', '.join(_ENTRIES)}; got {type(spec).__name__}")
        missing = [name for name in _ENTRIES if name not in spec]
        unknown = [name for name in spec if name not in _ENTRIES]
        if missing or unknown:
            raise ValueError(
                f"arch keys missing: {missing or 'none'}, unknown: {unknown or 'none'}; "
                f"pass exactly {', '.join(_ENTRIES)}"
            )
        return cls(**{name: spec[name] for name in _ENTRIES})

    def to_dict(self) -> dict[str, Any]:
        """The published form as plain ints and lists, ready for JSON."""
        return {
            "resolution": self.resolution,
            "width": list(self.width),
            "depth": list(self.depth),
            "kernel_size": list(self.kernel_size),
            "expand_ratio": list(self.expand_ratio),
        }

    @property
    def scalars(self) -> tuple[int, ...]:
        """All entries as one tuple: resolution, width, depth, kernel_size, expand_ratio."""
        return (self.resolution, *self.width, *self.depth, *self.kernel_size, *self.expand_ratio)

    @classmethod
    def from_scalars(cls, scalars: Sequence[int]) -> ArchSpec:
        """Inverse of `scalars`.

        Raises:
            ValueError: The length is not ``4 * stages + 3``, or an entry is not a positive integer.
        """
        stages, rest = divmod(len(scalars) - 3, 4)
        if stages < 1 or rest:
            raise ValueError(f"a row of {len(scalars)} scalars is not an arch; an arch has 4 x stages + 3")
        ends = (1, stages + 3, 2 * stages + 3, 3 * stages + 3, 4 * stages + 3)
        width, depth, kernel_size, expand_ratio = (scalars[a:b] for a, b in zip(ends, ends[1:], strict=False))
        return cls(scalars[0], tuple(width), tuple(depth), tuple(kernel_size), tuple(expand_ratio))

    @classmethod
    def _of_valid_rows(cls, rows: Iterable[Sequence[int]], stages: int) -> list[ArchSpec]:
        """Like `from_scalars` for many rows of plain ints that are known to be valid; checks nothing."""
        a, b, c = stages + 3, 2 * stages + 3, 3 * stages + 3
        archs = []
        for row in map(tuple, rows):
            arch = object.__new__(cls)
            values = arch.__dict__
            values["resolution"] = row[0]
            values["width"] = row[1:a]
            values["depth"] = row[a:b]
            values["kernel_size"] = row[b:c]
            values["expand_ratio"] = row[c:]
            archs.append(arch)
        return archs


_ENTRIES = tuple(field.name for field in fields(ArchSpec))
