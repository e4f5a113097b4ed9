"""Limits of the costs of a search, and their texts. Loads neither torch nor NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from alphanet_zoo.errors import UsageError
from alphanet_zoo.units import parse_count

MACS, PARAMS, LATENCY = "macs", "params", "latency_ms"
UNITS = {MACS: "MACs", PARAMS: "parameters", LATENCY: "ms"}
"""The costs, and their units."""


def cost_text(name: str, value: float) -> str:
    """A cost with its unit and four significant digits, such as ``12.34 M MACs`` or ``0.0421 ms``."""
    scale, suffix = (1.0, "") if name == LATENCY or value < 1e3 else (1e3, "k ") if value < 1e6 else (1e6, "M ")
    digits = f"{value / scale:.4g}" if value / scale < 1e4 else f"{value / scale:.0f}"
    return f"{digits} {suffix}{UNITS[name]}"


@dataclass(frozen=True)
class Limit:
    """Least and greatest value of a cost.

    Args:
        low: Least value; with ``relative``, a share of the largest arch's cost.
        high: Greatest value.
        relative: Whether the bounds are shares of the cost of the largest arch.
    """

    low: float = 0.0
    high: float = math.inf
    relative: bool = False

    def of(self, largest: float) -> tuple[float, float]:
        """The bounds in units of the cost, given that of the largest arch."""
        scale = largest if self.relative else 1.0
        return self.low * scale, self.high * scale


def parse_limit(text: str) -> Limit:
    """A limit such as ``600M`` (at most), ``200M:1200M``, ``200M:``, ``60%`` or ``20%:60%``.

    Raises:
        UsageError: ``text`` is not a limit, or its first bound is above the second.
    """
    return _parsed(text, parse_count, "a maximum such as 600M, a range such as 200M:1.2G")


def parse_latency_limit(text: str) -> Limit:
    """A limit in milliseconds such as ``40`` (at most), ``5:40``, ``5:``, ``60%`` or ``20%:60%``.

    Raises:
        UsageError: ``text`` is not a limit, or its first bound is above the second.
    """
    return _parsed(text, parse_ms, "a maximum in milliseconds such as 40, a range such as 5:40")


def parse_ms(text: str) -> float:
    """Milliseconds, with or without the unit ``ms``.

    Raises:
        UsageError: ``text`` is not a positive number.
    """
    try:
        value = float(text.strip().removesuffix("ms"))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UsageError(f"{text!r} is not a positive number of milliseconds; pass one such as 12 or 0.5")
    return value


def _parsed(text: str, number: Callable[[str], float], examples: str) -> Limit:
    """A limit whose bounds ``number`` reads."""
    remedy = f"pass {examples}, or percentages of the largest such as 20%:60%"
    parts = text.split(":")
    if len(parts) > 2 or not any(parts):
        raise UsageError(f"{text!r} is not a limit; {remedy}")
    relative = [part.endswith("%") for part in parts if part]
    if any(relative) != all(relative):
        raise UsageError(f"{text!r} mixes percentages and absolute values; {remedy}")
    try:
        values = [number(part.removesuffix("%")) if part else None for part in parts]
    except ValueError as error:
        raise UsageError(f"{text!r} is not a limit; {remedy}") from error
    low, high = (None, *values) if len(values) == 1 else values
    scale = 0.01 if relative[0] else 1.0
    limit = Limit(scale * (low or 0.0), math.inf if high is None else scale * high, relative[0])
    if limit.low > limit.high:
        raise UsageError(f"{text!r}: the minimum is above the maximum; {remedy}")
    return limit
