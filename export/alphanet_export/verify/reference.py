"""The PyTorch network that an exported file is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from alphanet_export.build import open_net, tensors_sha256, weights_file
from alphanet_export.onnx_model import OnnxModel
from alphanet_export.verify.report.report import Reference
from alphanet_zoo.data.calibration import calibration_batches
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.errors import UsageError
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.presets import ALPHANET, FAMILIES
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.registry import create_model


def open_reference(
    name: str, model: OnnxModel, weights: str | None = None, calib_data: ImageSource | None = None
) -> tuple[AlphaNet, Reference]:
    """The network in eval mode, and what it is.

    Args:
        name: A model's name; or a ``.safetensors`` file, a ``save_pretrained`` folder or the published checkpoint,
            with a static net or with a supernet that contains the file's arch.
        model: The exported file that it is to be compared with.
        weights: With a model's name: 'random', a file, a folder or a Hub repository; None is the published weights.
        calib_data: The images that the file was calibrated on, to calibrate the network alike.

    Raises:
        UsageError: No such name or file; another arch or number of classes; or the file was calibrated at export
            and the network was not, without the images or with others.
        AlphaNetError: The weights cannot be had or read.
    """
    path = Path(name)
    is_path = path.exists() or bool(path.suffix) or len(path.parts) > 1
    if weights is not None and is_path:
        raise UsageError(f"--weights goes with a model's name; {name!r} is a file that has its own")
    if is_path:
        net = open_net(path)
    else:
        classes = model.num_classes if weights == "random" else None
        net = create_model(name, pretrained=weights is None, weights=weights, num_classes=classes)
    digest = _digest(Path(weights or name), net)
    check_classes(net.num_classes, model)
    net = _calibrated(_at_arch(net, model, name), model, name, calib_data).eval()
    return net, Reference(name, weights, digest, net.calibration)


def check_classes(num_classes: int, model: OnnxModel) -> None:
    """Checks that a reference has as many classes as the file.

    Raises:
        UsageError: It has not.
    """
    if num_classes != model.num_classes:
        raise UsageError(
            f"the reference has {num_classes} classes and {model.path} has {model.num_classes}; "
            "give the network that it was exported from"
        )


def _at_arch(net: AlphaNet, model: OnnxModel, name: str) -> AlphaNet:
    """The reference itself, or its slice at the file's arch."""
    if net.space == model.space and net.arch == model.arch and not net.supernet:
        return net
    if net.space != model.space or not (net.supernet and net.contains(model.arch)):
        theirs, ours = _named(net.arch, net.space), _named(model.arch, model.space)
        raise UsageError(
            f"{name} holds {theirs}{', a supernet' if net.supernet else ''}, which does not hold what "
            f"{model.path} computes, {ours}; give the network that it was exported from"
        )
    return net.extract(model.arch)


def _named(arch: ArchSpec, space: SearchSpace) -> str:
    """An arch by its model's name where it has one, else by its space; and its cost."""
    members = (member for family in FAMILIES.values() for member in family)
    names = [member.name for member in members if (member.arch, member.space) == (arch, space)]
    macs = f"{count_macs(arch, space) / 1e6:.1f} M MACs with 1000 classes"
    return f"{names[0] if names else f'an arch of the space {space.name}'} ({macs}, {arch.resolution} pixels)"


def _calibrated(net: AlphaNet, model: OnnxModel, name: str, calib_data: ImageSource | None) -> AlphaNet:
    """The reference with the batch-norm statistics that the file was given at export."""
    record = model.metadata.get("calibration")
    if not isinstance(record, Mapping) or net.calibration == record:
        return net
    if calib_data is None:
        raise UsageError(
            f"{model.path} was calibrated at export on {record['images']} images, and {name} was not; "
            "give the same images with --calib-data FOLDER, or leave --reference out"
        )
    varied = net.space == ALPHANET  # As alphanet-export decides where it is not told.
    for augment in (varied, not varied):
        calibrate(net, calibration_batches(calib_data, model.preprocessing, images=record["images"], augment=augment))
        if net.calibration == record:
            return net
    raise UsageError(
        f"the images in {calib_data.name} are not those that {model.path} was calibrated on (their digest differs; "
        "only exports with --seed 0 can be calibrated alike); give the same ones, or leave --reference out"
    )


def _digest(source: Path, net: AlphaNet) -> str:
    """SHA-256 of the weights, as an export records it: of their file, or of the tensors where there is none."""
    file = weights_file(source) if source.is_dir() else source
    return sha256_of(file) if file.is_file() else tensors_sha256(net)
