"""The output folder of a run: config, lock, results."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from alphanet_zoo.checkpoint import Checkpoint
from alphanet_zoo.data.batches import TrainingBatches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import ImageSource, split_hold_out, subset
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import read_yaml, replacing
from alphanet_zoo.locks import locked_folder
from alphanet_zoo.train.config import TrainConfig, affects_weights, flat
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.state import RunState
from alphanet_zoo.zoo.files import save_net


def check_config(output: Path, config: TrainConfig, *, resume_anyway: bool = False) -> list[str]:
    """Compares the config of an existing run in a folder with ``config``.

    Returns:
        The settings that differ; always empty without ``resume_anyway``.

    Raises:
        UsageError: Settings differ and ``resume_anyway`` is false, or ``output`` is a file.
        AlphaNetError: The config in the folder cannot be read.
    """
    path, changed = output / "config.yaml", list[str]()
    if output.exists() and not output.is_dir():
        raise UsageError(f"output is {output}, which is a file; pass a folder")
    if path.exists():
        changed = stored_config(output).differences(config)
        if changed and not resume_anyway:
            raise UsageError(
                f"{output} contains a run with a different config ({'; '.join(changed)}); pass another output, or "
                "--resume-anyway to continue with these settings"
            )
    return changed


def check_resumed(
    output: Path, checkpoint: Checkpoint | None, config: TrainConfig, data: Mapping[str, Any], *, resume_anyway: bool
) -> list[str]:
    """Compares the config and the images of a run with those that its checkpoint records.

    The file config.yaml can be edited; what the checkpoint records cannot. Checkpoints of older versions do not record
    the images.

    Args:
        output: The folder of the run.
        checkpoint: The checkpoint to resume from; None at the start of the run.
        config: The config to resume with.
        data: The `fingerprint` of the images.
        resume_anyway: Accept differences.

    Returns:
        The differences; always empty without ``resume_anyway``.

    Raises:
        UsageError: There are differences and ``resume_anyway`` is false.
    """
    if checkpoint is None:
        return []
    before, now = flat(checkpoint.state["config"]), flat(config.model_dump(mode="json"))
    effective = [key for key in before if key in now and affects_weights(key)]
    changed = [f"{key}: {before[key]} -> {now[key]}" for key in effective if before[key] != now[key]]
    recorded = checkpoint.state.get("data", data)
    changed += [f"the {key} of the training images: {recorded.get(key)} -> {data[key]}" for key in data
                if recorded.get(key) != data[key]]  # fmt: skip
    if changed and not resume_anyway:
        raise UsageError(
            f"the checkpoint of step {checkpoint.step} in {output} was made with other settings or images "
            f"({'; '.join(changed)}); restore them, pass another output, or --resume-anyway to continue with these"
        )
    return changed


def fingerprint(batches: TrainingBatches) -> dict[str, Any]:
    """What identifies the training images: their number, classes and labels, and the names of files in folders."""
    classes = hashlib.sha256("\0".join(batches.classes).encode()).hexdigest()[:16]
    found = {
        "number": len(batches.source),
        "classes": f"{len(batches.classes)} ({classes})",
        "labels": hashlib.sha256(batches.labels.numpy().tobytes()).hexdigest()[:16],
    }
    path, root = getattr(batches.source, "path", None), getattr(batches.source, "root", None)
    if path is not None and root is not None:
        names = hashlib.sha256()
        for index in range(len(batches.source)):
            names.update(os.fsencode(os.path.relpath(path(index), root)) + b"\0")
        found["file names"] = names.hexdigest()[:16]
    return found


@contextmanager
def locked(output: Path, ranks: Ranks) -> Iterator[None]:
    """Locks the folder against other runs during the block, including leftover workers of a killed torchrun.

    Creates the folder if necessary, and removes it again if the block leaves it empty. The operating system releases
    the lock when the first process ends, for any reason. File systems without locks are not protected.

    Raises:
        UsageError: Another run uses the folder.
    """
    with ExitStack() as stack:

        def lock() -> None:
            for made in [folder for folder in (*reversed(output.parents), output) if not folder.exists()]:
                made.mkdir(exist_ok=True)
                stack.callback(_remove_if_empty, made)
            try:
                stack.enter_context(locked_folder(output))
            except BlockingIOError as error:
                raise UsageError(
                    f"another process is training in {output}; wait for it, stop it, or pass another output"
                ) from error

        ranks.from_first(lock)
        yield


def _remove_if_empty(folder: Path) -> None:
    """Removes a folder if it is empty."""
    with suppress(OSError):
        folder.rmdir()


def evaluation_images(run: Path, folder: Path) -> ImageSource:
    """The images in a folder. If a run trained on them, those that it held out; if it held out none, the name says so.

    Args:
        run: Output folder of the run.
        folder: One folder of images per class.

    Raises:
        UsageError: The folder contains no images.
        AlphaNetError: The run's config cannot be read.
    """
    images, data = FolderSource(folder), stored_config(run).data
    if data.root is None or folder.resolve() != (Path(data.root) / data.train).resolve():
        return images
    if data.hold_out:
        return split_hold_out(images, data.hold_out)[1]
    return subset(images, np.arange(len(images)), f"{images.name} (images that the network was trained on)")


def stored_config(output: Path) -> TrainConfig:
    """Reads the config of the run in a folder.

    Raises:
        AlphaNetError: The file cannot be read or is not valid.
    """
    path = output / "config.yaml"
    tree = read_yaml(path)
    try:
        return TrainConfig.model_validate(tree)
    except ValueError as error:
        raise AlphaNetError(f"{path} is not a valid config of this version: {error}; pass another output") from error


def store_config(output: Path, config: TrainConfig) -> None:
    """Writes ``config.yaml``."""
    with replacing(output / "config.yaml") as temporary:
        temporary.write_text(config.to_yaml(), "utf-8")


def digits_folder(config: TrainConfig) -> Path:
    """The folder that a run on the digits writes them to: ``<output>-data``."""
    output = Path(config.output)
    return output.with_name(f"{output.name}-data")


def save_results(output: Path, run: RunState) -> Path:
    """Writes the results of a finished run; returns the path of the first file.

    These are ``final/model.safetensors``; with ``optim.ema_decay``, ``final/ema.safetensors``; and for a static net
    ``final/arch.json``, its arch as ``alphanet export --arch`` reads it. The contents do not depend on path, host, time
    or restarts.
    """
    model = output / "final" / "model.safetensors"
    save_net(run.net, model)
    if not run.net.supernet:
        with replacing(model.with_name("arch.json")) as temporary:
            temporary.write_text(json.dumps(run.net.arch.to_dict(), indent=1) + "\n", "utf-8")
    if run.average is not None:
        save_net(run.averaged_net(), model.with_name("ema.safetensors"))
    return model
