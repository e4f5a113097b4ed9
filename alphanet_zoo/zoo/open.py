"""Opens a network by name, path or Hub repository, for all commands and loaders."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from alphanet_zoo.checkpoint import latest_checkpoint
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import EXPORTED_ENDINGS, sha256_of
from alphanet_zoo.nn.family import Network
from alphanet_zoo.zoo.built import built
from alphanet_zoo.zoo.convert import load_upstream
from alphanet_zoo.zoo.families import included_supernet, shipped_family_of
from alphanet_zoo.zoo.files import RUN_FINAL, WEIGHTS_NAME, is_run, load_net, weights_file
from alphanet_zoo.zoo.hub import from_pretrained
from alphanet_zoo.zoo.hub_download import CONFIG_NAME
from alphanet_zoo.zoo.local import LocalModel, local_model
from alphanet_zoo.zoo.names import find_member, is_name, unknown_network
from alphanet_zoo.zoo.pins import PINS
from alphanet_zoo.zoo.shipped import load_member

HUB_ORG_VARIABLE = "ALPHANET_HUB_ORG"
"""Environment variable: the Hub organisation that publishes the models by name."""

_PICKLES = (".pt", ".pth", ".tar")
_FILE_ENDINGS = (".safetensors", *_PICKLES, ".ckpt", ".bin", *EXPORTED_ENDINGS)

Kind = Literal["model", "file", "folder", "run", "repository", "checkpoint"]


@dataclass(frozen=True, eq=False)
class OpenedNet:
    """A network and where it was found.

    Attributes:
        net: The network, in eval mode (in training mode if it comes from the checkpoint of an unfinished run).
        kind: 'model' (a name with published, included or local weights), 'file' (safetensors), 'folder'
            (`save_pretrained`), 'run' (output of alphanet train), 'repository' (Hugging Face Hub) or 'checkpoint' (the
            published one).
        source: The name, path or repository that was opened.
        file: The file with the weights; None if they were downloaded or are included in the package.
        sha256: SHA-256 of ``file``; None if there is no file.
        step: Training step of the checkpoint, for an unfinished run; else None.
    """

    net: Network
    kind: Kind
    source: str
    file: Path | None = None
    sha256: str | None = None
    step: int | None = None

    def __str__(self) -> str:
        """A description for log lines."""
        what = "supernet" if self.net.supernet else f"{self.net.arch.resolution}-pixel network"
        origin = {
            "model": "model", "file": "safetensors file", "folder": "save_pretrained folder", "run": "training run",
            "repository": "Hub repository", "checkpoint": "published checkpoint",
        }[self.kind]  # fmt: skip
        at = "" if self.step is None else f", step {self.step}"
        return f"{what} of {self.net.num_classes} classes from the {origin} {self.source}{at}"


def open_net(
    source: str | os.PathLike[str],
    *,
    ema: bool = False,
    unfinished: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> OpenedNet:
    """Opens the network of a name, path or Hub repository.

    An existing path is opened by its type: a ``.safetensors`` file, a folder of ``save_pretrained``, the output
    folder of ``alphanet train``, or the published checkpoint. Otherwise ``source`` is a model's name, the included
    supernet (``cifar10_supernet``) or a Hub repository (``organisation/name``, or ``hf-hub:organisation/name`` if a
    local folder has the organisation's name).

    Args:
        source: What to open.
        ema: For a run, use the averaged weights (``optim.ema_decay``).
        unfinished: For an unfinished run, use the newest checkpoint.
        cache_dir: The Hub cache; None is the default of huggingface_hub.
        revision: Revision of the Hub repository; None is the pinned one, or ``main``.

    Raises:
        UsageError: ``source`` is none of these, or an option does not apply to it.
        AlphaNetError: It cannot be read or downloaded, or its digest differs.
    """
    if not os.fspath(source):
        raise UsageError(
            "The name or path of the network is empty. Pass a model's name, a file, a folder or a Hub repository."
        )
    included = included_supernet(source)
    if included is not None and revision is None:
        return OpenedNet(load_net(included), "model", os.fspath(source), included, sha256_of(included))
    path = Path(source)
    if path.exists() or not isinstance(source, str) or path.is_absolute() or path.suffix.lower() in _FILE_ENDINGS:
        if revision is not None:
            raise UsageError(f"revision={revision!r} requires a Hub repository; {path} is local")
        return _open_path(path, ema=ema, unfinished=unfinished)
    if is_name(source):
        return _open_name(source, cache_dir, revision)
    local = local_model(source)
    if local is not None and revision is None:
        return _open_local(local)
    if "/" not in source:
        raise UsageError(unknown_network(source))
    return _open_repository(source, cache_dir, revision)


def _open_path(path: Path, *, ema: bool, unfinished: bool) -> OpenedNet:
    """The network in a file or folder."""
    if is_run(path):
        return _open_run(path, ema=ema, unfinished=unfinished)
    if path.is_dir():
        file, net = weights_file(path), from_pretrained(path)
        return OpenedNet(net, "folder", str(path), file, sha256_of(file))
    if path.suffix.lower() in EXPORTED_ENDINGS and path.is_file():
        raise UsageError(
            f"{path} is an exported file. Pass the network that it was exported from, such as a .safetensors file."
        )
    pickled = path.suffix.lower() in _PICKLES
    net = load_upstream(path) if pickled else load_net(path)
    return OpenedNet(net, "checkpoint" if pickled else "file", str(path), path, sha256_of(path))


def _open_run(path: Path, *, ema: bool, unfinished: bool) -> OpenedNet:
    """The final network of a run or, if allowed, that of its newest checkpoint."""
    file = path / RUN_FINAL / ("ema.safetensors" if ema else WEIGHTS_NAME)
    if file.is_file():
        return OpenedNet(load_net(file), "run", str(path), file, sha256_of(file))
    if (path / RUN_FINAL / WEIGHTS_NAME).is_file():
        raise UsageError(_no_average(path))
    if not unfinished:
        weights_file(path)  # Raises: the run has not ended.
    checkpoint = latest_checkpoint(path / "checkpoints")
    if checkpoint is None:
        raise UsageError(f"The run in {path} has no checkpoint yet. Wait for the first one.")
    prefix = "ema/" if ema else "model/"
    tensors = {name.removeprefix(prefix): t for name, t in checkpoint.tensors.items() if name.startswith(prefix)}
    if not tensors:
        raise UsageError(_no_average(path))
    net = built(checkpoint.state["net"])
    net.load_state_dict(tensors, assign=True)
    return OpenedNet(net, "run", str(path), step=checkpoint.step)


def _no_average(path: Path) -> str:
    """The error message for a run without averaged weights."""
    return f"The run in {path} has no averaged weights (optim.ema_decay is null). Remove --ema."


def _open_name(name: str, cache_dir: str | os.PathLike[str] | None, revision: str | None) -> OpenedNet:
    """The network of a model's name: included in the package, or published on the Hub."""
    member = find_member(name)
    shipped = shipped_family_of(member)
    local = local_model(member.name) if revision is None and not os.environ.get(HUB_ORG_VARIABLE, "").strip() else None
    if shipped is None and local is not None:
        return _open_local(local)
    if shipped is None:
        repository = published_repository(member.name)
        opened = _open_repository(repository, cache_dir, revision)
        return OpenedNet(opened.net, "model", repository)
    if revision is not None:
        raise UsageError(
            f"revision={revision!r} requires weights on the Hub; those of {name} are included in the package"
        )
    return OpenedNet(load_member(shipped, member), "model", member.name)


def _open_local(local: LocalModel) -> OpenedNet:
    """The network of a model in the cache, whose files are compared with their digests first."""
    file = local.check().folder / WEIGHTS_NAME
    described = (local.folder / CONFIG_NAME).is_file()
    net = from_pretrained(local.folder, sha256=local.sha256[WEIGHTS_NAME]) if described else load_net(file)
    return OpenedNet(net, "model", local.name, file, local.sha256[WEIGHTS_NAME])


def _open_repository(source: str, cache_dir: str | os.PathLike[str] | None, revision: str | None) -> OpenedNet:
    """The network of a Hub repository."""
    return OpenedNet(from_pretrained(source, cache_dir=cache_dir, revision=revision), "repository", source)


def published_repository(name: str) -> str:
    """The Hub repository with the published weights of a model.

    Raises:
        AlphaNetError: They are not published.
    """
    organisation = os.environ.get(HUB_ORG_VARIABLE, "").strip()
    if organisation:
        return f"{organisation}/{name}"
    if name in PINS:
        return PINS[name].repository
    raise AlphaNetError(
        f"The weights of {name} are not published yet (no request was sent). Install them from the authors' checkpoint "
        "(docs/publish.md): alphanet publish --upstream alphanet_pretrained.pth.tar --calib-data TRAIN --to local "
        "--accept-license. Or pass a file or folder with weights, such as one that alphanet convert made: "
        "--weights PATH (weights=PATH; alphanet predict: --model PATH; alphanet train: finetune.weights=PATH); set "
        f"{HUB_ORG_VARIABLE} or pass weights='organisation/name' for a Hub repository; or, to measure latency, pass "
        "--weights random (weights='random') to alphanet export."
    )
