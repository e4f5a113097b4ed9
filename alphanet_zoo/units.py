"""Durations, counts and sizes as text. This module imports no torch."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """A duration in its two largest units, such as ``0.4 s``, ``1 min 12 s``, ``3 h 5 min`` or ``2 d 4 h``."""
    if seconds < 9.95:
        return f"{max(seconds, 0.0):.1f} s"
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    whole = round(seconds)
    for (name, size), (lower_name, lower) in zip(units, units[1:], strict=False):
        if whole >= size:
            whole = round(seconds / lower) * lower
            large, small = divmod(whole, size)
            rest = f" {small // lower} {lower_name}" if small else ""
            return f"{large} {name}{rest}"
    return f"{whole} s"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun, such as ``1 image`` or ``2,000 images``; the plural is the noun with an s by default."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def file_size(size: int) -> str:
    """A number of bytes, such as ``25 bytes``, ``8.1 kB`` or ``35.79 MB``."""
    if size < 1000:
        return counted(size, "byte")
    return f"{size / 1e6:.2f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def parse_count(text: str) -> float:
    """A number with an optional suffix K, M or G, such as ``60M`` or ``0.5G``.

    Raises:
        ValueError: ``text`` is not a positive number with such a suffix.
    """
    number, scale = text.strip(), 1.0
    if number[-1:].upper() in ("K", "M", "G"):
        scale = {"K": 1e3, "M": 1e6, "G": 1e9}[number[-1].upper()]
        number = number[:-1]
    digits = number.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit()) or float(number) <= 0:
        raise ValueError(f"{text!r} is not a positive number; pass one such as 444M or 0.5G")
    return float(number) * scale


def parse_budget(text: str) -> tuple[float, float]:
    """A budget such as ``444M``, ``0.5G`` or ``203389568``, and the value of one unit of its last written digit.

    Raises:
        ValueError: ``text`` is not a positive number with an optional suffix K, M or G.
    """
    value = parse_count(text)
    number = text.strip().rstrip("kKmMgG")
    unit = parse_count("1" + text.strip()[len(number) :])
    return value, unit / 10 ** len(number.partition(".")[2])
