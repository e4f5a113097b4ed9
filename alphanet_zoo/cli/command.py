"""What every command shares: its parser, its exit codes, its one line of error."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from alphanet_zoo import __version__
from alphanet_zoo.errors import AlphaNetError, UsageError


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are `UsageError`, and which knows ``--debug`` and ``--version``."""

    def __init__(self, prog: str, description: str, *, epilog: str | None = None) -> None:
        """A parser for the command ``prog``."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--version", action="version", version=f"{prog} {__version__}")
        self.add_argument("--debug", action="store_true", help="show a traceback where something fails")

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage: an error is one line."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Keeps the words of a `UsageError` that an argument's type raises; argparse drops a ValueError's."""
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if isinstance(error.__context__, UsageError):
                raise argparse.ArgumentError(action, str(error.__context__)) from error
            raise


def run_command(
    parser: CommandParser, action: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None = None
) -> int:
    """Parses ``argv``, runs ``action`` and returns the exit code; an error becomes one line on standard error.

    Codes: 0 done; 1 failed on contents or environment; 2 wrong command line or config; 3 parity broken;
    4 accuracy under its floor; 5 a target cannot be met; 6 an optional dependency missing; 130 interrupted.
    With ``--debug`` the traceback comes before that line.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return action(parser.parse_args(arguments)) or 0
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except AlphaNetError as error:
        code, message = error.exit_code, str(error)
        _traceback_if("--debug" in arguments)
    except ValueError as error:
        code, message = 2, str(error)
        _traceback_if("--debug" in arguments)
    except OSError as error:
        code, message = 1, f"{type(error).__name__}: {error}"
        if error.filename is not None and error.strerror:
            message = f"{error.filename}: {error.strerror.lower()}; give a path that exists and may be read or written"
        _traceback_if("--debug" in arguments)
    except Exception as error:
        code, message = 1, f"{type(error).__name__}: {error}"
        _traceback_if("--debug" in arguments)
    print(f"{parser.prog}: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _traceback_if(wanted: bool) -> None:
    """Prints the current exception's traceback where ``--debug`` asks for it."""
    if wanted:
        import traceback

        traceback.print_exc()


def existing_path(text: str) -> Path:
    """An argparse type: a path that exists.

    Raises:
        UsageError: It does not.
    """
    path = Path(text)
    if not text or not path.exists():
        raise UsageError(f"{text!r} does not exist; give a file or folder that does")
    return path


def check_place(path: Path, flag: str) -> None:
    """Refuses a file to write that cannot be, before the work whose result it is to hold.

    Raises:
        UsageError: It lies below a file, or in a folder that may not be written.
    """
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not nearest.is_dir():
        raise UsageError(f"{flag} {path} lies below {nearest}, which is a file; give another place")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise UsageError(f"{flag} {path} lies in {nearest}, which may not be written; give another place")


def parse_macs(text: str) -> tuple[float, float]:
    """A budget such as ``444M``, ``0.5G`` or ``203389568``: (MACs, the worth of its last written digit).

    Raises:
        UsageError: Not a positive number with an optional K, M or G.
    """
    number, scale = text.strip(), 1.0
    if number[-1:].upper() in ("K", "M", "G"):
        scale = {"K": 1e3, "M": 1e6, "G": 1e9}[number[-1].upper()]
        number = number[:-1]
    digits = number.replace(".", "", 1)
    if not (digits.isascii() and digits.isdigit()) or float(number) <= 0:
        raise UsageError(f"{text!r} is no budget of MACs; give a positive number such as 444M or 0.5G")
    decimals = len(number.partition(".")[2])
    return float(number) * scale, scale / 10**decimals


def positive_int(text: str) -> int:
    """An argparse type: an integer of at least 1.

    Raises:
        UsageError: It is none.
    """
    number = natural_int(text)
    if number < 1:
        raise UsageError(f"{text!r} is not a positive integer; give 1 or more")
    return number


def natural_int(text: str) -> int:
    """An argparse type: an integer of at least 0.

    Raises:
        UsageError: It is none.
    """
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{text!r} is not a positive integer or zero")
    return int(text)


def positive_float(text: str) -> float:
    """An argparse type: a finite number above 0.

    Raises:
        UsageError: It is none.
    """
    number = _as_float(text)
    if not 0 < number < math.inf:
        raise UsageError(f"{text!r} is not a positive number")
    return number


def percentage(text: str) -> float:
    """An argparse type: a number from 0 to 100.

    Raises:
        UsageError: It is none.
    """
    number = _as_float(text)
    if not 0 <= number <= 100:
        raise UsageError(f"{text!r} is not a percentage from 0 to 100")
    return number


def _as_float(text: str) -> float:
    """The number in a text, NaN where there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
