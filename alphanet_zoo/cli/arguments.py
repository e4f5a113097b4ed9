"""Types and checks of the arguments of the commands. The errors state what to pass instead."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

from alphanet_zoo.errors import UsageError
from alphanet_zoo.units import parse_budget


def existing_path(text: str) -> Path:
    """An argparse type: a path that exists.

    Raises:
        UsageError: It does not exist.
    """
    path = Path(text)
    if not text or not path.exists():
        raise UsageError(f"{text!r} does not exist; pass an existing file or folder")
    return path


def existing_network(text: str) -> Path:
    """An argparse type: a path that exists, or the name of the included supernet, which `open_net` opens.

    Raises:
        UsageError: It is neither.
    """
    from alphanet_zoo.zoo.families import included_supernet

    return existing_path(text) if included_supernet(text) is None else Path(text)


def check_place(path: Path, flag: str, *, folder: bool = False) -> None:
    """Checks that a result can be written, before the work that produces it.

    Args:
        path: The file, or the folder, to write.
        flag: The option that names it, for the message.
        folder: Whether it is a folder.

    Raises:
        UsageError: It cannot be written: see `alphanet_zoo.files.check_writable`.
    """
    from alphanet_zoo.files import check_writable

    try:
        check_writable(path, folder=folder)
    except UsageError as error:
        raise UsageError(f"{flag}: {error}") from error


def check_places(places: Mapping[str, Path | None]) -> None:
    """Checks every file that a command will write, before the work.

    Args:
        places: The files by the option that names them; None for an option that is not used.

    Raises:
        UsageError: A file cannot be written, or two options name the same file.
    """
    seen: dict[str, str] = {}
    for flag, path in places.items():
        if path is None:
            continue
        check_place(path, flag)
        real = os.path.realpath(path)
        if real in seen:
            raise UsageError(f"{seen[real]} and {flag} both name {path}; pass two different files")
        seen[real] = flag


def parse_macs(text: str) -> tuple[float, float]:
    """An argparse type: a budget such as ``444M``, ``0.5G`` or ``203389568``.

    Returns:
        The budget in MACs, and the value of one unit of its last written digit.

    Raises:
        UsageError: It is not a positive number with an optional K, M or G.
    """
    try:
        return parse_budget(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is not a budget of MACs; pass a positive number such as 444M or 0.5G") from error


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1.

    Raises:
        UsageError: It is not.
    """
    number = natural_int(text)
    if number < 1:
        raise UsageError(f"{text!r} is not a positive integer; pass 1 or more")
    return number


def natural_int(text: str) -> int:
    """An argparse type: an integer of at least 0.

    Raises:
        UsageError: It is not.
    """
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{text!r} is not a positive integer or zero")
    return int(text)


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0.

    Raises:
        UsageError: It is not.
    """
    number = _as_float(text)
    if not 0 < number < math.inf:
        raise UsageError(f"{text!r} is not a positive number")
    return number


def duration_seconds(text: str) -> float:
    """An argparse type: a time such as ``90s``, ``30m`` or ``2h``, in seconds; a number alone is seconds.

    Raises:
        UsageError: It is not a positive time.
    """
    unit = text[-1:].lower()
    seconds = _as_float(text[:-1] if unit in _UNITS else text) * _UNITS.get(unit, 1)
    if not 0 < seconds < math.inf:
        raise UsageError(f"{text!r} is not a time; pass one such as 90s, 30m or 2h")
    return seconds


_UNITS = {"s": 1, "m": 60, "h": 3600}
"""Seconds of each unit of a time."""


def percentage(text: str) -> float:
    """An argparse type: a number from 0 to 100.

    Raises:
        UsageError: It is not.
    """
    number = _as_float(text)
    if not 0 <= number <= 100:
        raise UsageError(f"{text!r} is not a percentage from 0 to 100")
    return number


def _as_float(text: str) -> float:
    """The number in ``text``, or NaN if there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
