"""The scores of a search in a file that is only appended to, shared by all processes that score. Loads no torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError
from alphanet_zoo.locks import locked_byte
from alphanet_zoo.space.family import Arch

SETTINGS, IDENTITY = "settings", "id"


def arch_key(arch: Arch) -> str:
    """An arch as text, the key of its score."""
    return json.dumps(arch.to_dict(), separators=(",", ":"))


class ScoreFile:
    """One JSON object per line: first the settings of a scoring, then the archs that were scored with them.

    A line belongs to the settings whose digest it has as ``id``. Lines of other settings, of another supernet or of
    other images, and a line that was cut off by a crash, are kept and not used. The file is never rewritten.

    Args:
        path: The file; it is created when the first score is added.
        settings: What a score depends on: supernet, images, calibration, measure. Ready for JSON.

    Attributes:
        entries: The scores with these settings, by `arch_key`.
        others: Number of lines that are not used.

    Raises:
        AlphaNetError: The file cannot be read.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        """Reads the scores that exist."""
        self.path, self.settings = path, dict(settings)
        text = json.dumps(self.settings, sort_keys=True)
        self.identity = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.entries: dict[str, dict[str, Any]] = {}
        self.others, self._position, self._described = 0, 0, False
        self.refresh()

    def refresh(self) -> None:
        """Reads the lines that were added since the last call, by any process."""
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                content = file.read()
        except FileNotFoundError:
            return
        except OSError as error:
            raise AlphaNetError(f"cannot read {self.path}: {error}; pass another -o") from error
        end = content.rfind(b"\n") + 1  # What follows is incomplete: another process may still write it.
        self._position += end
        for line in content[:end].splitlines():
            self._read(line)

    def _read(self, line: bytes) -> None:
        """Adds one line to the scores, if it is whole and has these settings."""
        try:
            entry = json.loads(line)
            used = entry[IDENTITY] == self.identity
            if used and SETTINGS in entry:
                self._described = True
            elif used and {"score", "complete"} <= entry.keys():
                self.entries.setdefault(json.dumps(entry["arch"], separators=(",", ":")), entry)
            elif SETTINGS not in entry:
                self.others += 1
        except (ValueError, TypeError, KeyError):
            self.others += 1

    def __contains__(self, arch: Arch) -> bool:
        """Whether the arch has a score."""
        return arch_key(arch) in self.entries

    def __getitem__(self, arch: Arch) -> dict[str, Any]:
        """The entry of an arch."""
        return self.entries[arch_key(arch)]

    def add(self, arch: Arch, figures: Mapping[str, Any]) -> None:
        """Appends a score, and flushes it to disk."""
        entry = {IDENTITY: self.identity, "arch": arch.to_dict(), **figures}
        lines = [] if self._described else [{IDENTITY: self.identity, SETTINGS: self.settings}]
        with locked_byte(self._claims(), 0, wait=True):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                cut = file.tell() > 0 and not _ends_with_newline(self.path)
                text = "".join(json.dumps(each) + "\n" for each in (*lines, entry))
                file.write(b"\n" * cut + text.encode())
                file.flush()
                os.fsync(file.fileno())
        self.refresh()

    @contextmanager
    def claimed(self, arch: Arch) -> Iterator[bool]:
        """Claims an arch for this process during the block; yields False if another process has claimed it.

        The system releases the claim when the process ends, for any reason, so a process that dies costs only the arch
        that it was scoring.
        """
        place = 1 + int.from_bytes(hashlib.sha256(arch_key(arch).encode()).digest()[:7], "big") // 2
        try:
            with locked_byte(self._claims(), place, wait=False):
                yield True
        except BlockingIOError:
            yield False

    def _claims(self) -> Path:
        """The file whose bytes stand for archs that are being scored."""
        path = self.path.with_name(f".{self.path.name}.claims")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _ends_with_newline(path: Path) -> bool:
    """Whether the last byte of a file that is not empty is a newline."""
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def processes() -> tuple[int, int]:
    """Rank and number of the processes that torchrun started; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
