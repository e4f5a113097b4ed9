"""Errors that a user can mend, each with the exit code a command ends with.

A plain ``ValueError`` means 2 as well: a value out of its domain.
"""

from __future__ import annotations


class AlphaNetError(Exception):
    """Failed on contents or environment: corrupt, unreadable, digest, network, disk (exit 1)."""

    exit_code = 1


class UsageError(AlphaNetError, ValueError):
    """Wrong command line, config or argument; a named input that does not exist (exit 2)."""

    exit_code = 2


class ParityError(AlphaNetError):
    """An exported file does not compute what its network computes (exit 3)."""

    exit_code = 3


class AccuracyError(AlphaNetError):
    """Accuracy is under its floor (exit 4)."""

    exit_code = 4


class TargetError(AlphaNetError, ValueError):
    """A target in MACs or milliseconds cannot be met (exit 5); a window of MACs holds no arch."""

    exit_code = 5


class MissingDependencyError(AlphaNetError, ImportError):
    """An optional dependency is missing (exit 6)."""

    exit_code = 6

    def __init__(self, package: str, extra: str) -> None:
        """Says which ``package`` is missing and which ``extra`` of ours brings it."""
        super().__init__(f"{package} is not installed; add it with: pip install 'alphanet-zoo[{extra}]'")


class MissingProgramError(AlphaNetError):
    """A program of the system that an optional part needs is missing, such as a compiler (exit 6)."""

    exit_code = 6
