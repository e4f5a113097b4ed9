"""What all commands share: the parser, exit codes, output and error messages."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NoReturn, TextIO

from alphanet_zoo import __version__
from alphanet_zoo.errors import AlphaNetError, UsageError

_COMMAND: ContextVar[str] = ContextVar("command", default="alphanet")
"""Name of the command that runs, for warnings."""


class CommandParser(argparse.ArgumentParser):
    """An argument parser with ``--debug`` and ``--version`` whose errors are `UsageError`.

    The parsed arguments have ``prog``, the name of the command as the user typed it.
    """

    def __init__(self, prog: str, description: str, *, epilog: str | None = None) -> None:
        """Creates the parser of the command ``prog``."""
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.add_argument("--version", action="version", version=f"{prog} {__version__}")
        self.add_argument("--debug", action="store_true", help="print a traceback on errors")
        self.set_defaults(prog=prog)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses a command line."""
        return self.parse_args(argv)

    def error(self, message: str) -> NoReturn:
        """Raises instead of printing the usage: an error message is one line."""
        raise UsageError(f"{message} (see {self.prog} --help)")

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Keeps the message of a `UsageError` that an argument's type raises; argparse drops it."""
        try:
            return super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            if isinstance(error.__context__, UsageError):
                raise argparse.ArgumentError(action, str(error.__context__)) from error
            raise

    def _print_message(self, message: str, file: Any = None) -> None:
        """Prints help and version, which are the command's result, like all other output."""
        if message and file in (None, sys.stdout):
            say(message.removesuffix("\n"), required=True)
        elif message:
            _write(file, message)


def run_command(
    parser: CommandParser, action: Callable[[argparse.Namespace], int | None], argv: Sequence[str] | None = None
) -> int:
    """Parses ``argv``, runs ``action`` and returns the exit code. An error becomes one line on standard error.

    Exit codes: 0 success; 1 invalid contents or environment; 2 wrong command line or config; 3 parity broken;
    4 accuracy below its minimum; 5 a target not met; 6 an optional dependency missing; 130 interrupted.
    With ``--debug`` a traceback precedes that line.

    Args:
        parser: The command's parser.
        action: Does the work; returns an exit code, or None for 0.
        argv: The arguments; None takes those of the process.
    """
    open_missing_streams()
    arguments = list(sys.argv[1:] if argv is None else argv)
    running = _COMMAND.set(parser.prog)
    try:
        return action(parser.parse(arguments)) or 0
    except KeyboardInterrupt:
        code, message = 130, "interrupted"
    except AlphaNetError as error:
        code, message = error.exit_code, str(error)
        _traceback_if("--debug" in arguments)
    except ValueError as error:
        code, message = 2, str(error)
        _traceback_if("--debug" in arguments)
    except OSError as error:
        code, message = 1, _described(error)
        _traceback_if("--debug" in arguments)
    except Exception as error:
        code, message = 1, f"{type(error).__name__}: {error}"
        _traceback_if("--debug" in arguments)
    finally:
        _COMMAND.reset(running)
    _write(sys.stderr, f"{parser.prog}: error: {_printable(' '.join(message.split()))}\n")
    return code


def say(text: str, *, required: bool = False) -> None:
    """Prints a line to standard output.

    A closed pipe ends the output silently. Characters that the terminal cannot display are printed as escapes. So
    neither changes the exit code or the files of a command.

    Args:
        text: One or more lines, without the last newline.
        required: Whether the output is the command's result, so that any other failure to print is an error.

    Raises:
        AlphaNetError: ``required``, and standard output cannot be written, for example because the disk is full.
    """
    error = _write(sys.stdout, f"{text}\n")
    if error is None or error.errno in (errno.EPIPE, errno.EBADF):
        return
    message = f"cannot write to standard output: {error.strerror or error}"
    if required:
        raise AlphaNetError(message)
    note(_COMMAND.get(), f"warning: {message}")


def note(prog: str, text: str) -> None:
    """Prints one line to standard error, which begins with the command's name."""
    _write(sys.stderr, f"{prog}: {text}\n")


@contextmanager
def stages(prog: str, total: int) -> Iterator[Callable[[str], None]]:
    """Shows the measurements of a command on standard error: a progress bar on a terminal, else one line each.

    Yields a function that is called with the name of each measurement when it begins.

    Args:
        prog: The command's name.
        total: Number of measurements.
    """
    if sys.stderr is None or sys.stderr.closed or not sys.stderr.isatty():
        yield lambda stage: note(prog, f"measuring {stage}")
        return
    from tqdm import tqdm

    with tqdm(total=total, unit="stage", file=sys.stderr, leave=False) as bar:
        begun = 0

        def begin(stage: str) -> None:
            nonlocal begun
            bar.set_description_str(stage, refresh=False)
            bar.update(min(begun, 1))
            bar.refresh()
            begun += 1

        yield begin


def deprecated(old: str, new: str) -> None:
    """Prints that the spelling ``old`` of a command is replaced by ``new``."""
    note(old.split()[0], f"note: '{old}' is deprecated and will be removed in the next release; use '{new}'")


def open_missing_streams() -> None:
    """Opens the null device as each standard stream that was closed when the process started.

    Otherwise the next file to be opened would take the stream's number, and receive what libraries print.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            with suppress(OSError):
                setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))


def _write(stream: TextIO | None, text: str) -> OSError | None:
    """Writes and flushes ``text``; returns the error if that fails. The stream then goes to the null device."""
    if stream is None or stream.closed:
        return None
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()
    except OSError as error:
        with suppress(OSError, ValueError):  # Python flushes the stream again at exit, and that must not fail.
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, stream.fileno())
            os.close(null)
        return error
    return None


def _described(error: OSError) -> str:
    """The message of an error of the operating system: the path, what is wrong with it, and what to do."""
    if error.filename is None or not error.strerror:
        return f"{type(error).__name__}: {error}"
    remedy = "pass a path that exists and that you may read or write"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space there, or use another disk (for temporary files: set TMPDIR)"
    return f"{os.fsdecode(error.filename)}: {error.strerror.lower()}; {remedy}"


def _printable(text: str) -> str:
    """A text in which control characters, which a file may contain, are escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _traceback_if(wanted: bool) -> None:
    """Prints the traceback of the current exception if ``wanted``."""
    if wanted:
        import traceback

        _write(sys.stderr, traceback.format_exc())
