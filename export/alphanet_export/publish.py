"""``alphanet publish``: from a supernet or a network to folders that load by name, on this machine or from the Hub."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphanet_export.build import Source
from alphanet_export.export import export_source
from alphanet_export.metadata import label_names
from alphanet_zoo.data.calibration import PUBLISHED_IMAGES
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.evaluate.evaluator import Evaluator
from alphanet_zoo.files import replacing_folder
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.family import Arch
from alphanet_zoo.zoo.files import WEIGHTS_NAME, save_net
from alphanet_zoo.zoo.hub import save_pretrained
from alphanet_zoo.zoo.hub_config import names_code
from alphanet_zoo.zoo.local import MANIFEST, LocalModel, published_folder, write_manifest

TOLERANCE = 0.2
"""Points of top-1 that a measured accuracy may differ from the published one."""


@dataclass(frozen=True)
class Item:
    """One model to publish.

    Args:
        name: Its name.
        arch: Arch of the subnet; None publishes the network itself, without ONNX if it is a supernet.
        published_top1: Its published top-1 in percent; None if it is unknown.
    """

    name: str
    arch: Arch | None = None
    published_top1: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How the models are made.

    Args:
        source: Name of the file or run that the network is from.
        sha256: SHA-256 of its weights, or None.
        calibration: Training images; None if the statistics of the network are kept.
        validation: Labelled images for top-1; None measures none.
        images: Maximum number of calibration images.
        seeds: Seeds of the calibration. The model has the statistics of the first; the others show the spread.
        labels_by_position: Match the classes of the images to outputs by position.
        onnx: Whether ONNX files are written.
    """

    source: str
    sha256: str | None
    calibration: ImageSource | None
    validation: ImageSource | None
    images: int = PUBLISHED_IMAGES
    seeds: Sequence[int] = (0, 1, 2)
    labels_by_position: bool = False
    onnx: bool = True

    def facts(self, item: Item) -> dict[str, Any]:
        """What determines a model's folder, as plain values. A folder with equal facts is not made again."""
        return {
            "source": self.source,
            "source_sha256": self.sha256,
            "arch": None if item.arch is None else item.arch.to_dict(),
            "calibration": _described(self.calibration),
            "calibration_images": self.images,
            "validation": _described(self.validation),
            "seeds": list(self.seeds),
            "onnx": self.onnx,
        }


@dataclass(frozen=True)
class Published:
    """A model's folder.

    Attributes:
        model: The folder.
        resumed: Whether it was complete before.
        top1: Top-1 of each seed in percent; empty if it was not measured.
        published_top1: The published top-1; None if it is unknown.
    """

    model: LocalModel
    resumed: bool
    top1: tuple[float, ...] = ()
    published_top1: float | None = field(default=None)

    def __str__(self) -> str:
        """One line: the accuracy beside the published one."""
        text = f"{self.model.name}: {'already published' if self.resumed else 'written'}, {self.model.folder}"
        if self.top1:
            spread = f" (seeds: {min(self.top1):.2f} to {max(self.top1):.2f})" if len(self.top1) > 1 else ""
            text += f", top-1 {self.top1[0]:.2f} %{spread}"
        if self.top1 and self.published_top1 is not None:
            difference = self.top1[0] - self.published_top1
            state = "within" if abs(difference) <= TOLERANCE else "NOT within"
            text += f", published {self.published_top1:.2f} %: {state} {TOLERANCE} points ({difference:+.2f})"
        return text


def publish(
    net: Network, items: Sequence[Item], recipe: Recipe, target: Path, *, say: Callable[[str], object] = str
) -> list[Published]:
    """Writes one folder per model; a model whose folder is complete is skipped, so that a stopped call can be repeated.

    A folder has ``model.safetensors``; ``config.json`` and a model card, unless the network is a slimmable one of
    ``module:function``; ONNX files with their verification; and ``manifest.json``, written last, with the SHA-256 of
    all of them.

    Args:
        net: A supernet, or a static network.
        items: The models.
        recipe: How they are made.
        target: The folder that their folders are in.
        say: Called with a line about each model.

    Raises:
        UsageError: A model must be calibrated and no images were passed, the validation images have other classes than
            the network, or a folder was not written by this function.
        AlphaNetError: Images or files cannot be read or written.
    """
    published = []
    evaluator = Evaluator(recipe.validation, labels_by_position=recipe.labels_by_position)
    if recipe.validation is not None:  # Before anything is written.
        evaluator.outputs(net.num_classes, label_names(net))
    for item in items:
        folder, facts = target / item.name, recipe.facts(item)
        found = published_folder(folder)
        if found is not None and {key: found.facts.get(key) for key in facts} == facts and not found.damaged():
            published.append(Published(found, True, tuple(found.facts["top1"]), item.published_top1))
            say(str(published[-1]))
            continue
        if found is None and folder.exists() and any(folder.iterdir()):
            raise UsageError(f"{folder} exists and has no {MANIFEST} of alphanet publish; pass another folder")
        static, top1 = _made(net, item, recipe, evaluator)
        with replacing_folder(folder) as draft:
            _write(static, item, recipe, draft, top1)
            write_manifest(draft, facts | {"top1": list(top1)})
        model = published_folder(folder)
        assert model is not None
        published.append(Published(model, False, top1, item.published_top1))
        say(str(published[-1]))
    return published


def _made(net: Network, item: Item, recipe: Recipe, evaluator: Evaluator) -> tuple[Network, tuple[float, ...]]:
    """The network of a model, and its top-1 with the statistics of each seed."""
    if item.arch is None and net.supernet:
        return net, ()
    subnet = net if item.arch is None or item.arch == net.arch and not net.supernet else None
    if subnet is not None and recipe.calibration is None:
        return net, _top1s([net], evaluator)
    if recipe.calibration is None:
        raise UsageError(
            f"{item.name} is a subnet and requires calibration; pass training images (--calib-data FOLDER)"
        )
    seeds = recipe.seeds if evaluator.validation is not None else recipe.seeds[:1]
    nets = (
        Evaluator(None, recipe.calibration, images=recipe.images, seed=seed).calibrated(net, item.arch)
        for seed in seeds
    )
    first: Network | None = None
    top1: list[float] = []
    for each in nets:
        first = each if first is None else first
        top1 += _top1s([each], evaluator)
    assert first is not None
    return first, tuple(top1)


def _top1s(nets: Sequence[Network], evaluator: Evaluator) -> tuple[float, ...]:
    """Top-1 of networks in percent; none without validation images."""
    if evaluator.validation is None:
        return ()
    return tuple(100.0 * evaluator.answers_of(net).hits.accuracy for net in nets)


def _write(net: Network, item: Item, recipe: Recipe, folder: Path, top1: tuple[float, ...]) -> None:
    """Writes the files of a model, without the manifest."""
    net.pretrained_cfg["architecture"] = item.name
    net.top1 = round(top1[0], 3) if top1 else None
    if names_code(net.config()):
        save_net(net, folder / WEIGHTS_NAME)  # A config.json must not choose code.
    else:
        save_pretrained(net, folder)
    if net.supernet or not recipe.onnx:
        return
    source = Source(net, item.name, recipe.source, recipe.sha256, published_top1=item.published_top1)
    export_source(source, {"onnx": folder / f"{item.name}.onnx"})


def _described(source: ImageSource | None) -> dict[str, Any] | None:
    """An image source as plain values."""
    return None if source is None else {"name": Path(source.name).name, "images": len(source)}


def upload(published: Sequence[Published], organisation: str, *, say: Callable[[str], object] = str) -> list[str]:
    """Uploads folders to the Hub, each as ``organisation/name``; returns the lines of the pins to commit.

    Args:
        published: The result of `publish`.
        organisation: The organisation or user.
        say: Called with a line about each repository.

    Raises:
        AlphaNetError: A file is damaged, or the Hub rejects an upload.
    """
    from huggingface_hub import HfApi

    from alphanet_zoo.zoo.hub_download import hub_errors

    api, pins = HfApi(), []
    for each in published:
        model = each.model.check()
        repository = f"{organisation}/{model.name}"
        with hub_errors(repository, "upload to"):
            api.create_repo(repository, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository, folder_path=model.folder, commit_message=f"Publish {model.name}"
            )
        if not commit.oid:
            raise AlphaNetError(f"the Hub returned no commit for {repository}; look at the repository")
        say(f"uploaded {commit.commit_url}")
        pins.append(f'    "{model.name}": HubPin("{repository}", "{commit.oid}", "{model.sha256[WEIGHTS_NAME]}"),')
    return pins
