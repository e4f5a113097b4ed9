"""Checkpoints that are written atomically and verified before use.

A checkpoint is a folder ``step-<n>`` with ``tensors.safetensors``, ``state.json`` and, written last, ``manifest.json``
with the size and SHA-256 of the other two. It is written under a temporary name, synced and renamed. To write a step
again, the old folder is first moved aside to ``.step-<n>.old``: if the process is killed there, that one is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import sha256_of, sync_file, sync_folder
from alphanet_zoo.tensor_file import parse_tensor_file, read_content

_NAME = re.compile(r"step-(\d+)|\.step-(\d+)\.old")


@dataclass(frozen=True)
class Checkpoint:
    """State of a run after a number of steps: tensors by name, and everything else as JSON values."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> Path:
    """Writes ``folder/step-<n>`` and removes all but the newest ``keep`` checkpoints.

    Raises:
        OSError: The disk is full or not writable. Existing checkpoints are left unchanged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, temporary = folder / f"step-{checkpoint.step}", folder / f".step-{checkpoint.step}.tmp"
    for path in list_checkpoints(folder):
        if path.name.startswith("."):
            path.rename(folder / f"step-{step_of(path)}")
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)
    temporary.mkdir()
    save_file({name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()},
              temporary / "tensors.safetensors")  # fmt: skip
    _write_json(temporary / "state.json", {"step": checkpoint.step, "state": checkpoint.state})
    names = ("tensors.safetensors", "state.json")
    for name in names:
        sync_file(temporary / name)
    manifest = {n: {"bytes": (temporary / n).stat().st_size, "sha256": sha256_of(temporary / n)} for n in names}
    _write_json(temporary / "manifest.json", {"files": manifest})
    sync_file(temporary / "manifest.json")
    sync_folder(temporary)
    if target.exists():
        target.rename(folder / f".step-{checkpoint.step}.old")
    temporary.rename(target)
    sync_folder(folder)
    for old in (*list_checkpoints(folder)[:-keep], *folder.glob(".step-*")):
        shutil.rmtree(old)
    return target


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder by ascending step, including damaged ones."""
    paths = [path for path in (*folder.glob(".step-*.old"), *folder.glob("step-*")) if _NAME.fullmatch(path.name)]
    found = {step_of(path): path for path in paths}  # One that was moved aside counts if its place is empty.
    return [found[step] for step in sorted(found)]


def load_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint after comparing every file with the manifest.

    Raises:
        AlphaNetError: A file is missing or differs from the manifest.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text("utf-8"))["files"]
        contents = {}
        for name in ("tensors.safetensors", "state.json"):
            contents[name] = read_content(path / name)
            if hashlib.sha256(contents[name]).hexdigest() != manifest[name]["sha256"]:
                raise AlphaNetError(f"the checkpoint {path} is damaged: {name} does not match the manifest")
        tensors = parse_tensor_file(path / "tensors.safetensors", contents["tensors.safetensors"]).tensors
        state = json.loads(contents["state.json"])
        return Checkpoint(state["step"], tensors, state["state"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, AlphaNetError) and not isinstance(error, UsageError):
            raise
        raise AlphaNetError(f"the checkpoint {path} is damaged: {type(error).__name__}: {error}") from error


def latest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest undamaged checkpoint; None if there are no checkpoints. Warns about each damaged one.

    Raises:
        AlphaNetError: All checkpoints are damaged. A run must not start over silently.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except AlphaNetError as error:
            warnings.warn(f"{error}; using the previous one", UserWarning, stacklevel=2)
    if paths:
        raise AlphaNetError(f"all {len(paths)} checkpoints in {folder} are damaged; remove the folder to start over")
    return None


def discard_after(folder: Path, step: int) -> None:
    """Removes the checkpoints of later steps."""
    for path in list_checkpoints(folder):
        if step_of(path) > step:
            shutil.rmtree(path)


def step_of(path: Path) -> int:
    """The step of one of `list_checkpoints`."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1] or match[2])


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Writes JSON with sorted keys, so that equal values give equal bytes."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", "utf-8")
