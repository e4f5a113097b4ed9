"""Moves exported files from a temporary folder to their final paths: all of them or none."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from alphanet_export.formats import CONVERTED, FORMATS, INT8_LOG_ENDING
from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import check_writable, replacing, replacing_folder

NAME = re.compile(r"\w[\w.-]*")
"""Names of models that are valid as file names and in a model repository."""

_LARGEST_HEADER = 100_000_000
"""Bytes of the header of a safetensors file, at most."""

Move = tuple[Path, Path]
"""The path of a temporary file or folder, and the path it is moved to."""


def default_name(network: str | os.PathLike[str]) -> str:
    """The name of an export of a network: the name stored in its file, else that of the file, folder or repository."""
    path = Path(network).absolute()
    stored = _stored_name(path / "model.safetensors" if path.is_dir() else path)
    if stored is not None or path.is_dir():
        return stored or path.name
    ending = next((each for each in (".safetensors", ".pth.tar", *path.suffixes[-1:]) if path.name.endswith(each)), "")
    return path.name.removesuffix(ending) or "alphanet"


def _stored_name(path: Path) -> str | None:
    """The name that ``alphanet export --format safetensors`` stored in a file; None if there is none."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(min(int.from_bytes(file.read(8), "little"), _LARGEST_HEADER)))
        name = json.loads(header["__metadata__"]["alphanet"])["pretrained_cfg"]["name"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return name if isinstance(name, str) and NAME.fullmatch(name) else None


def is_folder(output: str | os.PathLike[str], formats: Iterable[str]) -> bool:
    """Whether an output is a folder for the files of ``formats``, not a file or a Core ML package."""
    path = Path(output)
    package = path.suffix.lower() == FORMATS["coreml"].ending and "coreml" in formats
    return os.fspath(output).endswith(("/", "\\")) or (path.is_dir() and not package)


def output_files(
    output: str | os.PathLike[str] | None, name: str, formats: Iterable[str], *, int8: bool = False, flag: str = "-o"
) -> dict[str, Path]:
    """The path of each format for an output, after checking that every file can be written.

    Args:
        output: A file with the ending of one of the formats, or a folder that exists or ends in ``/``. None: the
            current folder.
        name: Name of the model, for a folder; int8 files are called ``<name>.int8.*``.
        formats: Keys of `FORMATS`.
        int8: Whether the files are int8; a log of the quantization is written beside each.
        flag: The option that names the output, for messages.

    Raises:
        UsageError: The ending is not that of one of the formats, or a file cannot be written.
    """
    wanted = [FORMATS[each] for each in formats]
    text = None if output is None else os.fspath(output)
    if text == "":
        raise UsageError(f"{flag} is empty; pass a file or a folder")
    path = Path(text or ".")
    longest = max((f.ending for f in wanted if path.name.lower().endswith(f.ending)), key=len, default=None)
    if is_folder(text or ".", [each.name for each in wanted]):
        base = path / (f"{name}.int8" if int8 else name)
    elif longest is not None:
        base = path.with_name(path.name[: -len(longest)])
    else:
        remedy = CONVERTED.get(path.suffix.lower().removeprefix("."))
        if remedy is None:
            others = ", ".join(each.ending for each in FORMATS.values() if each not in wanted)
            remedy = f"for another format, use its ending ({others}), and end a new folder's name with /"
        endings = " or ".join(each.ending for each in wanted)
        raise UsageError(f"{flag} {text} is not a folder and does not end in {endings}; {remedy}")
    targets = {each.name: each.path(base) for each in wanted}
    for each in wanted:
        target = targets[each.name]
        logs = [target.with_name(target.name + INT8_LOG_ENDING)] if int8 else []
        for file in (*each.files(target), *logs):
            try:
                check_writable(file, folder=file.suffix == ".mlpackage")
            except UsageError as error:
                raise UsageError(f"{flag}: {error}") from error
    return targets


def moves_of(name: str, staged: Path, target: Path) -> list[Move]:
    """The moves of all files of the format ``name``, which is a key of `FORMATS`."""
    return list(zip(FORMATS[name].files(staged), FORMATS[name].files(target), strict=True))


def place(moves: Iterable[Move]) -> dict[Path, int]:
    """Copies every file to its disk before any replaces its target.

    Returns:
        The size of each file in bytes; of a folder, the sum over its files.

    Raises:
        UsageError: A target exists and is not a regular file (or folder).
        OSError: The disk is full or not writable; its ``filename`` is the target. No target has changed.
    """
    sizes = {}
    with ExitStack() as stack:
        for staged, target in moves:
            if staged.is_dir():
                shutil.copytree(staged, stack.enter_context(replacing_folder(target)), dirs_exist_ok=True)
                sizes[target] = sum(file.stat().st_size for file in staged.rglob("*") if file.is_file())
            else:
                shutil.copyfile(staged, stack.enter_context(replacing(target)))
                sizes[target] = staged.stat().st_size
    return sizes
