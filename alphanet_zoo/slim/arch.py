"""The arch of a subnet of a slimmable network, as a value."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


def _numbers(entry: str, values: object) -> tuple[float, ...]:
    """``values`` as a tuple of positive ints and floats. Accepts NumPy numbers; rejects bools and strings."""
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"arch entry {entry} is {values!r}; pass a list of numbers")
    found: list[float] = []
    for i, value in enumerate(values):
        if hasattr(value, "__index__") and not isinstance(value, bool):
            number: float = int(value.__index__())
        elif hasattr(value, "__float__") and not isinstance(value, bool):
            number = float(value)
        else:
            raise ValueError(f"arch entry {entry}[{i}] is {value!r}; pass a positive number")
        if not number > 0:
            raise ValueError(f"arch entry {entry}[{i}] is {number}; pass a positive number")
        found.append(number)
    return tuple(found)


@dataclass(frozen=True)
class SlimArch:
    """The architecture of one subnet of a slimmable network.

    Args:
        resolution: Side of the square input, in pixels.
        width: Width of each independent part, see `SlimSpace`. If widths are tied, the share of the channels (a
            float; one for the whole network or one per stage). Otherwise the number of channels of each group (ints).
        depth: Modules that stay in each container of blocks that can be dropped.

    Raises:
        ValueError: An entry is not a positive number. Whether the entries are choices of a space is checked by
            `SlimSpace.validate`.
    """

    resolution: int
    width: tuple[float, ...]
    depth: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Converts every entry to Python numbers."""
        for entry in ("resolution", "depth"):
            value = getattr(self, entry)
            numbers = _numbers(entry, (value,) if entry == "resolution" else value)
            if any(not isinstance(number, int) for number in numbers):
                raise ValueError(f"arch entry {entry} is {value!r}; pass integers")
            object.__setattr__(self, entry, numbers[0] if entry == "resolution" else numbers)
        object.__setattr__(self, "width", _numbers("width", self.width))

    @classmethod
    def from_dict(cls, spec: Mapping[str, Any]) -> SlimArch:
        """Inverse of `to_dict`.

        Raises:
            ValueError: A key is missing or unknown, or a value is not valid.
        """
        if not isinstance(spec, Mapping) or set(spec) != {"resolution", "width", "depth"}:
            found = sorted(spec) if isinstance(spec, Mapping) else type(spec).__name__
            raise ValueError(f"an arch must be a mapping with exactly resolution, width and depth; got {found}")
        return cls(**spec)

    def to_dict(self) -> dict[str, Any]:
        """The arch as plain numbers and lists, ready for JSON."""
        return {"resolution": self.resolution, "width": list(self.width), "depth": list(self.depth)}

    @property
    def scalars(self) -> tuple[float, ...]:
        """All entries as one tuple: resolution, width, depth."""
        return (self.resolution, *self.width, *self.depth)
