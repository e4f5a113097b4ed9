"""Exceptions that a user can act on. Each has the exit code of a command that ends with it.

A plain ``ValueError`` (a value outside its domain) also ends a command with exit code 2.
"""

from __future__ import annotations

import textwrap


def one_line(error: BaseException) -> str:
    """The class and the text of an error of other code, on one line of at most 200 characters."""
    return textwrap.shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")


class AlphaNetError(Exception):
    """Invalid contents or a failing environment: corrupt file, wrong digest, network, disk (exit code 1)."""

    exit_code = 1


class UsageError(AlphaNetError, ValueError):
    """Wrong command line, config or argument, or an input that does not exist (exit code 2)."""

    exit_code = 2


class ParityError(AlphaNetError):
    """An exported file does not compute what its network computes (exit code 3)."""

    exit_code = 3


class AccuracyError(AlphaNetError):
    """Accuracy is below its minimum (exit code 4)."""

    exit_code = 4


class TargetError(AlphaNetError, ValueError):
    """A target in MACs or milliseconds is not met, or no arch has a cost within the limits (exit code 5)."""

    exit_code = 5


class MissingDependencyError(AlphaNetError, ImportError):
    """An optional dependency is not installed (exit code 6)."""

    exit_code = 6

    def __init__(self, package: str, extra: str) -> None:
        """Creates the message.

        Args:
            package: The package that is missing.
            extra: The extra of ``alphanet-zoo`` that installs it.
        """
        super().__init__(f"{package} is not installed; add it with: pip install 'alphanet-zoo[{extra}]'")


class MissingProgramError(AlphaNetError):
    """A system program that an optional feature needs, such as a compiler, is not installed (exit code 6)."""

    exit_code = 6
