"""The output folder of a run: config, lock, results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import yaml

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.locks import locked_folder
from alphanet_zoo.train.config import TrainConfig
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


def stored_config(output: Path) -> TrainConfig:
    """Reads the config of the run in a folder.

    Raises:
        AlphaNetError: The file cannot be read or is not valid.
    """
    path = output / "config.yaml"
    try:
        return TrainConfig.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
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
