"""The PyTorch network that an exported file is compared with."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from alphanet_export.build import tensors_sha256
from alphanet_export.metadata import ExportedModel, network_facts
from alphanet_export.verify.report.figures import Reference
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.calibration import recalibrate
from alphanet_zoo.nn.config import as_calibration
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.cost import macs_text
from alphanet_zoo.space.family import Arch, Space
from alphanet_zoo.space.presets import FAMILIES
from alphanet_zoo.zoo.names import find_member, is_name
from alphanet_zoo.zoo.open import OpenedNet, open_net
from alphanet_zoo.zoo.registry import open_model


def open_reference(
    reference: str | Network,
    model: ExportedModel,
    weights: str | None = None,
    calib_data: ImageSource | None = None,
) -> tuple[Network, Reference]:
    """The network in eval mode, and its description for the report.

    Args:
        reference: A static network in eval mode; or a model's name, or what `alphanet_zoo.zoo.open.open_net` opens: a
            static network or a supernet that contains the file's arch.
        model: The exported file to compare it with.
        weights: For a model's name: 'random', a file, a folder, a Hub repository or a supernet that contains the model;
            None is the published weights.
        calib_data: The images that the file was calibrated on, to calibrate the network in the same way.

    Raises:
        UsageError: There is no such name or file; the arch or number of classes differs; or the file was calibrated at
            export and the network was not, and the images are missing or differ.
        AlphaNetError: The weights cannot be downloaded or read.
    """
    if isinstance(reference, Network):
        _check_classes(reference, model)
        digest = tensors_sha256(reference)
        return reference, Reference("network in memory", None, digest, reference.calibration)
    opened = _load(reference, weights, model.num_classes)
    net, digest = opened.net, opened.sha256 or tensors_sha256(opened.net)
    _check_classes(net, model)
    taken = _at_arch(net, model, reference)
    net = _calibrated(taken, model, reference, calib_data).eval()
    return net, Reference(reference, weights, digest, net.calibration, recalibrated=net is not taken)


def assumed_metadata(
    reference: str | Network | None, weights: str | None, preprocessing: Preprocessing | str | os.PathLike[str]
) -> dict[str, Any]:
    """The metadata to use for a file that has none: that of the reference, with a preprocessing.

    Args:
        reference: See `open_reference`. It must be a static network, because the file does not contain its arch.
        weights: See `open_reference`.
        preprocessing: A value, or a JSON file in the form of ``Preprocessing.to_dict``.

    Raises:
        UsageError: The reference is missing or a supernet, or the JSON file is missing or not a preprocessing.
        AlphaNetError: The weights cannot be downloaded or read.
    """
    if reference is None:
        raise UsageError("a preprocessing without a reference does not describe a file; pass --reference too")
    if not isinstance(preprocessing, Preprocessing):
        preprocessing = read_preprocessing(preprocessing)
    net = reference if isinstance(reference, Network) else _load(reference, weights, None).net
    if net.supernet:
        raise UsageError(f"{reference} is a supernet, and the file does not contain its arch; pass a static network")
    return network_facts(net, preprocessing)


def read_preprocessing(path: str | os.PathLike[str]) -> Preprocessing:
    """The preprocessing in a JSON file: input_size, resize_size, interpolation, mean, std.

    Raises:
        UsageError: The file does not exist, or it does not contain a preprocessing.
    """
    if not Path(path).is_file():
        raise UsageError(f"--preprocessing {path} is not a file; pass a JSON file with {', '.join(_FIELDS)}")
    try:
        spec = json.loads(Path(path).read_text("utf-8"))
        return Preprocessing.from_dict(spec)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"--preprocessing {path}: {error}; pass a JSON file with {', '.join(_FIELDS)}") from error


_FIELDS = ("input_size", "resize_size", "interpolation", "mean", "std")


def _load(reference: str, weights: str | None, num_classes: int | None) -> OpenedNet:
    """The network of a name or a path."""
    if is_name(reference) and not Path(reference).exists():
        if weights in (None, "random"):
            classes = num_classes if weights == "random" else None
            return open_model(reference, pretrained=weights is None, weights=weights, num_classes=classes)
        opened, member = open_net(weights), find_member(reference)
        if opened.net.supernet and opened.net.space == member.space and opened.net.contains(member.arch):
            return replace(opened, net=opened.net.subnet(member.arch))
        return open_model(reference, weights=weights)
    if weights is not None:
        raise UsageError(f"--weights requires a model's name, and {reference!r} is not one; remove --weights")
    return open_net(reference)


def _check_classes(net: Network, model: ExportedModel) -> None:
    """Raises UsageError unless the reference has as many classes as the file."""
    if net.num_classes != model.num_classes:
        raise UsageError(
            f"the reference has {net.num_classes} classes and {model.path} has {model.num_classes}; "
            "pass the network that it was exported from"
        )


def _at_arch(net: Network, model: ExportedModel, name: str) -> Network:
    """The reference itself, or the subnet of a supernet at the file's arch."""
    if net.space == model.space and net.arch == model.arch and not net.supernet:
        return net
    if net.space != model.space or not (net.supernet and net.contains(model.arch)):
        theirs, ours = (
            _named(arch, space, model.num_classes) for arch, space in ((net.arch, net.space), (model.arch, model.space))
        )
        raise UsageError(
            f"{name} contains {theirs}{', a supernet' if net.supernet else ''}, but {model.path} computes {ours}; "
            "pass the network that it was exported from"
        )
    return net.subnet(model.arch)


def _named(arch: Arch, space: Space[Any], classes: int) -> str:
    """The name of an arch, or of its space if it has none; and its cost."""
    members = (member for family in FAMILIES.values() for member in family)
    names = [member.name for member in members if (member.arch, member.space) == (arch, space)]
    macs = f"{macs_text(space.count_macs(arch, classes))} with {classes} classes"
    return f"{names[0] if names else f'an arch of the space {space.name}'} ({macs}, {arch.resolution} pixels)"


def _calibrated(net: Network, model: ExportedModel, name: str, calib_data: ImageSource | None) -> Network:
    """The reference with the batch-norm statistics that the file was given at export."""
    record = model.metadata.get("calibration")
    if not isinstance(record, Mapping) or net.calibration == record:
        return net
    if calib_data is None:
        raise UsageError(
            f"{model.path} was calibrated at export on {record['images']} images, and {name} was not; "
            "pass the same images with --calib-data FOLDER, or remove --reference"
        )
    return recalibrate(net, as_calibration(record), calib_data)
