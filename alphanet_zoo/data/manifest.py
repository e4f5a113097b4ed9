"""Checks every image in a folder, and writes a manifest with which later changes are found.

The manifest has one line of JSON per file, in the order of the paths: ``path`` (below the folder, with slashes),
``bytes``, ``sha256``, ``width``, ``height``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from alphanet_zoo.data.folder import list_images
from alphanet_zoo.data.images import decode_image, read_file
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import replacing, sha256_of

MANIFEST = "manifest.jsonl"

_CHUNK = 4096
"""Files that are queued for the threads at a time."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Entry:
    """The manifest's line of one file; ``width`` and ``height`` of the upright image, in pixels."""

    path: str
    bytes: int
    sha256: str
    width: int
    height: int


@dataclass(frozen=True)
class DataReport:
    """The result of a check.

    Attributes:
        files: Number of image files in the folder.
        problems: One line per file that is damaged, changed, missing or not in the manifest, in the order of the paths.
        entries: The manifest's lines of the other files.
    """

    files: int
    problems: tuple[str, ...]
    entries: tuple[Entry, ...]


def verify_images(root: str | Path, *, threads: int = 1, progress: bool = False) -> DataReport:
    """Reads and decodes every image below a folder.

    Raises:
        UsageError: No such folder, or no images in it.
    """
    root = Path(root)
    found = _on_each(lambda path: _examine(root, path), _image_files(root), threads, progress)
    problems = tuple(result for result in found if isinstance(result, str))
    return DataReport(len(found), problems, tuple(result for result in found if isinstance(result, Entry)))


def write_manifest(root: str | Path, *, threads: int = 1, progress: bool = False) -> DataReport:
    """As `verify_images`; also writes ``root/manifest.jsonl`` if no file is damaged."""
    report = verify_images(root, threads=threads, progress=progress)
    if not report.problems:
        with replacing(Path(root) / MANIFEST) as temporary:
            temporary.write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in report.entries), "utf-8")
    return report


def check_manifest(root: str | Path, *, threads: int = 1, progress: bool = False) -> DataReport:
    """Compares a folder with its manifest, by size and SHA-256: files that are missing, added or changed.

    Raises:
        UsageError: No such folder, no images in it, or no manifest.
        AlphaNetError: The manifest cannot be read.
    """
    root = Path(root)
    expected = {entry.path: entry for entry in read_manifest(root)}
    files = _image_files(root)
    there = {_relative(root, path) for path in files}
    problems = {path: f"{path}: missing" for path in expected if path not in there}
    problems |= {path: f"{path}: not in the manifest" for path in there if path not in expected}
    known = [path for path in files if _relative(root, path) in expected]
    changes = _on_each(lambda path: _compare(path, expected[_relative(root, path)]), known, threads, progress)
    problems |= {_relative(root, path): change for path, change in zip(known, changes, strict=True) if change}
    kept = tuple(entry for path, entry in expected.items() if path not in problems)
    return DataReport(len(files), tuple(problems[path] for path in sorted(problems)), kept)


def read_manifest(root: str | Path) -> list[Entry]:
    """The entries of ``root/manifest.jsonl``.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: It cannot be read.
    """
    path = Path(root) / MANIFEST
    if not path.is_file():
        raise UsageError(f"no such file: {path}; write it with alphanet verify-data {root} --write-manifest")
    entries = []
    for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1):
        try:
            entries.append(Entry(**json.loads(line)))
        except (ValueError, TypeError) as error:
            raise AlphaNetError(f"{path} is damaged in line {number}: {error}; write it again") from error
    return entries


def _image_files(root: Path) -> list[Path]:
    """All image files below a folder (see `list_images`), in the order of their paths."""
    if not root.is_dir():
        raise UsageError(f"no such folder: {root}; pass the folder of images")
    files = list_images(root)
    if not files:
        raise UsageError(f"{root} contains no images; pass a folder with images in it, at any depth")
    return sorted(files, key=lambda path: _relative(root, path))


def _relative(root: Path, path: Path) -> str:
    """A path as the manifest writes it."""
    return path.relative_to(root).as_posix()


def _examine(root: Path, path: Path) -> Entry | str:
    """A file's entry, or its problem."""
    name = _relative(root, path)
    try:
        content = read_file(path)
        _, height, width = decode_image(content, name).shape
    except AlphaNetError as error:
        return f"{name}: damaged: {error}"
    return Entry(name, len(content), hashlib.sha256(content).hexdigest(), width, height)


def _compare(path: Path, entry: Entry) -> str | None:
    """How a file differs from its entry; None if it does not."""
    try:
        size = path.stat().st_size
        if size != entry.bytes:
            return f"{entry.path}: {size} bytes, {entry.bytes} in the manifest"
        return None if sha256_of(path) == entry.sha256 else f"{entry.path}: changed: another SHA-256"
    except OSError as error:
        return f"{entry.path}: cannot be read: {error.strerror or error}"


def _on_each(action: Callable[[Path], Result], files: Sequence[Path], threads: int, progress: bool) -> list[Result]:
    """The action's results in the files' order; decoding and hashing release the interpreter's lock."""
    results: list[Result] = []
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=len(files), unit="file", disable=None if progress else True) as bar,
    ):
        for start in range(0, len(files), _CHUNK):
            for result in pool.map(action, files[start : start + _CHUNK]):
                results.append(result)
                bar.update()
    return results
