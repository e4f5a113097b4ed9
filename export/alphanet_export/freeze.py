"""Turns a network into a fixed graph: extracts, calibrates, folds batch norms, traces."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn.utils.fusion import fuse_conv_bn_eval

from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.calibration import check_statistics
from alphanet_zoo.evaluate.evaluator import input_of
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.family import Arch


@dataclass(frozen=True, eq=False)
class FrozenNet:
    """A traced network, ready to be written to files.

    Args:
        net: The static net in eval mode, before folding; exported files must compute the same.
        program: Its traced graph, batch norms folded, for images ``(N, 3, S, S)``.
        preprocessing: Preprocessing of an image to the input; its ``input_size`` is S.
        dynamic_batch: Whether N is any number; otherwise it is 1.
    """

    net: Network
    program: ExportedProgram
    preprocessing: Preprocessing
    dynamic_batch: bool

    @property
    def resizes(self) -> bool:
        """Whether the graph resizes its input to the arch's resolution."""
        return bool(self.preprocessing.input_size != self.net.arch.resolution)


def freeze(
    net: Network,
    calib_batches: Iterable[Tensor] | None = None,
    *,
    arch: Arch | None = None,
    img_size: int | None = None,
    dynamic_batch: bool = False,
) -> FrozenNet:
    """Extracts, calibrates, folds and traces; ``net`` itself is not changed.

    Args:
        net: A static net, or a supernet that contains ``arch``.
        calib_batches: Normalised training images ``(N, 3, H, W)`` to calibrate with. None keeps the net's own
            statistics, which must be set.
        arch: The subnet to take from a supernet.
        img_size: Side of the exported input in pixels; a size other than the arch's resolution adds a resize to the
            graph. None: the resolution.
        dynamic_batch: The graph takes any number of images; otherwise 1.

    Raises:
        UsageError: The statistics are not set, or were sliced from another supernet than the published checkpoint's;
            or the network has no classifier or does not take colour images.
        ValueError: ``net`` is a supernet and ``arch`` is None or not in it, a layer has been replaced by one that
            cannot be copied, or ``img_size`` is not positive.
    """
    if img_size is not None and img_size < 1:
        raise ValueError(f"the image size is {img_size}; pass a positive number of pixels")
    if net.in_chans != 3:
        raise UsageError(f"the network takes images of {net.in_chans} channels; only networks of 3 can be exported")
    if not net.num_classes:
        raise UsageError("the net has no classifier; call reset_classifier(num_classes) and train it first")
    if calib_batches is None:
        check_statistics(net, arch)
    static = _extracted(net, arch)
    if calib_batches is not None and static.has_statistics:
        calibrate(static, calib_batches)
    size = img_size or static.arch.resolution
    return FrozenNet(static, _traced(static, size, dynamic_batch), input_of(static, size), dynamic_batch)


def fold_batch_norms(net: Network) -> Network:
    """A copy of a static net in eval mode whose batch norms are part of the convolutions before them."""
    folded = copy.deepcopy(net)
    for module in list(folded.modules()):
        for conv_name, norm_name in net.followed_by.items():
            conv, norm = getattr(module, conv_name, None), getattr(module, norm_name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
                setattr(module, norm_name, nn.Identity().eval())
    return folded


def _extracted(net: Network, arch: Arch | None) -> Network:
    """A static copy of plain layers in eval mode on the CPU."""
    if net.supernet and arch is None:
        raise ValueError("a supernet has many subnets; pass the arch to freeze")
    return net.subnet(net.arch if arch is None else arch).eval().cpu()


def _traced(net: Network, size: int, dynamic_batch: bool) -> ExportedProgram:
    """The graph of a folded copy, without references to source files."""
    example = torch.zeros(2 if dynamic_batch else 1, 3, size, size)
    shapes = ({0: Dim("batch")},) if dynamic_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(fold_batch_norms(net).requires_grad_(False), (example,), dynamic_shapes=shapes)
    for node in program.graph.nodes:
        for key in ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn"):
            node.meta.pop(key, None)
    return program
