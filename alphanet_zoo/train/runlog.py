"""What a run says of itself while it goes: a JSON line every few steps, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from alphanet_zoo.errors import MissingDependencyError
from alphanet_zoo.files import replacing

_LOG = logging.getLogger(__name__)


class RunLog:
    """Appends to ``<output>/log.jsonl`` and, where asked, to ``<output>/tensorboard``.

    Attributes:
        validations: The figures of each validation by its step.

    Raises:
        MissingDependencyError: TensorBoard is asked for and not installed.
    """

    def __init__(self, output: Path | None, *, start: int, tensorboard: bool) -> None:
        """Opens the log of a run that has ``start`` steps behind it; lines of later steps are dropped.

        Without ``output`` nothing is written: one process of a run writes for all.
        """
        self._writer: Any = None
        self._file: TextIO | None = None
        self.validations: dict[int, dict[str, dict[str, float]]] = {}
        if output is None:
            return
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise MissingDependencyError("tensorboard", "train") from error
            self._writer = SummaryWriter(str(output / "tensorboard"), purge_step=start + 1)
        path = output / "log.jsonl"
        kept = [line for line in read_log(path) if line["step"] <= start]
        with replacing(path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), "utf-8")
        self.validations = {line["step"]: line["validation"] for line in kept if "validation" in line}
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Adds figures of one ``step``: numbers, and tables (``subnets``, ``validation``) of numbers by subnet."""
        self._append(line)
        step = line["step"]
        if "validation" in line:
            self.validations[step] = line["validation"]
        if self._writer is None:
            return
        for name, value in line.items():
            if isinstance(value, dict):
                prefix = "" if name == "subnets" else f"{name}_"
                for subnet, figures in value.items():
                    for figure, number in figures.items():
                        self._writer.add_scalar(f"{prefix}{figure}/{subnet}", number, step)
            elif name != "step":
                self._writer.add_scalar(name, value, step)

    def note(self, step: int, event: str, message: str) -> None:
        """Adds that something happened in a step, and says so as a log record."""
        self._append({"step": step, "event": event, "message": message})
        if self._file is not None:
            _LOG.warning("step %d: %s: %s", step, event, message)

    def _append(self, line: dict[str, Any]) -> None:
        """Adds a line to the file."""
        if self._file is not None:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def __enter__(self) -> RunLog:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files."""
        if self._file is not None:
            self._file.close()
        if self._writer is not None:
            self._writer.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``log.jsonl``; empty where there is none. A last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text("utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
