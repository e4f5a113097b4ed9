"""What a run says of itself while it goes: a JSON line every few steps, and TensorBoard where it is asked for."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any

from alphanet_zoo.errors import MissingDependencyError
from alphanet_zoo.files import replacing


class RunLog:
    """Appends to ``<output>/log.jsonl`` and, where asked, to ``<output>/tensorboard``.

    Raises:
        MissingDependencyError: TensorBoard is asked for and not installed.
    """

    def __init__(self, output: Path, *, start: int, tensorboard: bool) -> None:
        """Opens the log of a run that has ``start`` steps behind it; lines of later steps are dropped."""
        self._writer: Any = None
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
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Adds the figures of one step: ``step``, further numbers, and ``subnets`` with the numbers of each."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._writer is None:
            return
        step = line["step"]
        for name, value in line.items():
            if name not in ("step", "subnets"):
                self._writer.add_scalar(name, value, step)
        for subnet, figures in line["subnets"].items():
            for name, value in figures.items():
                self._writer.add_scalar(f"{name}/{subnet}", value, step)

    def __enter__(self) -> RunLog:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the files."""
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
