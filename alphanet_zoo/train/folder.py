"""The folder of a run: whose it is, and what it holds at the end."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch
import yaml

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.train.checkpoint import latest_checkpoint
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.state import RunState
from alphanet_zoo.zoo.files import load_net, save_net


def claim(output: Path, config: TrainConfig, *, resume_anyway: bool = False) -> list[str]:
    """Checks that the run in a folder, if there is one, is this config's.

    Returns:
        The settings that differ, where ``resume_anyway`` accepts that.

    Raises:
        UsageError: They differ; shows how. Or the folder is a file.
        AlphaNetError: The folder's config cannot be read.
    """
    path, changed = output / "config.yaml", list[str]()
    if output.exists() and not output.is_dir():
        raise UsageError(f"output is {output}, a file; give a folder, or the name of one to make")
    if path.exists():
        changed = stored_config(output).differences(config)
        if changed and not resume_anyway:
            raise UsageError(
                f"{output} holds a run of another config ({'; '.join(changed)}); give another output, "
                "or --resume-anyway to go on with these settings"
            )
    return changed


@contextmanager
def held(output: Path, ranks: Ranks) -> Iterator[None]:
    """Keeps a second run out of the folder while the block lasts, also one of a torchrun whose workers live on.

    The folder is made where there is none, and taken away again where the block leaves nothing in it. The system lets
    go of it when the first process ends, however it ends. Where the disk knows no locks, there is none.

    Raises:
        UsageError: Another run is at work in the folder.
    """
    with ExitStack() as stack:

        def take() -> None:
            for made in [folder for folder in (*reversed(output.parents), output) if not folder.exists()]:
                made.mkdir(exist_ok=True)
                stack.callback(_remove_if_empty, made)
            handle = os.open(output, os.O_RDONLY)
            stack.callback(os.close, handle)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    f"another process trains in {output}; wait for it, end it, or give another output"
                ) from error
            except OSError:
                return

        ranks.from_first(take)
        yield


def _remove_if_empty(folder: Path) -> None:
    """Removes a folder unless something is in it."""
    with suppress(OSError):
        folder.rmdir()


def stored_config(output: Path) -> TrainConfig:
    """The config of the run in a folder.

    Raises:
        AlphaNetError: It cannot be read.
    """
    path = output / "config.yaml"
    try:
        return TrainConfig.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise AlphaNetError(f"{path} is no config of this version: {error}; give another output") from error


def store_config(output: Path, config: TrainConfig) -> None:
    """Writes ``config.yaml``."""
    with replacing(output / "config.yaml") as temporary:
        temporary.write_text(config.to_yaml(), "utf-8")


def save_results(output: Path, run: RunState) -> Path:
    """Writes ``final/model.safetensors`` and, where there is a mean of the weights, ``final/ema.safetensors``.

    They hold nothing that depends on path, host, time or restarts. Gives the path of the first.
    """
    model = output / "final" / "model.safetensors"
    save_net(run.net, model)
    if run.average is not None:
        save_net(run.average.as_net(run.net), model.with_name("ema.safetensors"))
    return model


def read_net(output: Path, *, ema: bool = False) -> tuple[AlphaNet, int | None]:
    """The net of a run, and the step it is from: its final one (None), or that of its newest whole checkpoint.

    Args:
        output: The run's folder.
        ema: Take the mean of the weights.

    Raises:
        UsageError: The folder holds no run, or the run keeps no mean.
        AlphaNetError: Its files are damaged.
    """
    if not (output / "config.yaml").exists():
        raise UsageError(f"{output} is no run: it has no config.yaml; give the output folder of alphanet-train")
    final = output / "final" / ("ema.safetensors" if ema else "model.safetensors")
    if final.exists():
        return load_net(final), None
    checkpoint = latest_checkpoint(output / "checkpoints")
    if checkpoint is None:
        raise UsageError(f"the run in {output} has no checkpoint yet; wait for its first")
    prefix = "ema/" if ema else "model/"
    tensors = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    if not tensors:
        raise UsageError(f"the run in {output} keeps no mean of its weights (optim.ema_decay is null); leave out --ema")
    with torch.device("meta"):
        net = AlphaNet.from_config(checkpoint.state["net"])
    net.load_state_dict(tensors, assign=True)
    return net, checkpoint.step
