"""Several subnets of a slimmable network with one copy of its weights."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.network import SlimNet
from alphanet_zoo.slim.supernet import Slimmable

if TYPE_CHECKING:
    from alphanet_export.switchable import SwitchableFile


class Switchable:
    """Subnets that share the weights of a supernet, each with batch-norm statistics of its own.

    The weights of a subnet are views of the supernet's: switching selects another network and copies nothing. Weights
    that follow a concatenation keep channels that are not adjacent, so each subnet has a copy of those
    (`copied_bytes`). The supernet must stay on its device; weights that it learns later change all subnets.

    Args:
        supernet: The network, from `alphanet_zoo.slim.supernet.slimmable`.
        archs: The archs by name, or a list of archs, which are then named ``"0"``, ``"1"``, ...

    Attributes:
        archs: The archs by name.
        active: Name of the arch that `__call__` runs, the first one at the start.
        copied_bytes: Size of the weights that are copies, over all archs.

    Raises:
        UsageError: ``archs`` is empty, or ``supernet`` is not a slimmable network.
        ValueError: The space does not contain an arch.
    """

    def __init__(self, supernet: Slimmable, archs: Mapping[str, SlimArch] | Sequence[SlimArch]) -> None:
        """Prepares the subnets."""
        if not isinstance(supernet, Slimmable):
            raise UsageError(f"supernet is a {type(supernet).__name__}; pass what az.slimmable(net) returns")
        named = dict(archs) if isinstance(archs, Mapping) else {str(i): arch for i, arch in enumerate(archs)}
        if not named:
            raise UsageError("archs is empty; pass at least one arch, such as supernet.space.at(0.5)")
        self.supernet, self.archs = supernet, named
        self._nets = {name: supernet.view(arch) for name, arch in named.items()}
        self._active = next(iter(named))
        shared = {tensor.untyped_storage().data_ptr() for tensor in supernet.net.parameters()}
        self.copied_bytes = sum(
            parameter.nbytes
            for net in self._nets.values()
            for parameter in net.parameters()
            if parameter.untyped_storage().data_ptr() not in shared
        )

    def __repr__(self) -> str:
        """A summary."""
        return f"<Switchable {self.supernet.space.name}: {', '.join(self.archs)}; active: {self.active}>"

    @property
    def active(self) -> str:
        """Name of the arch that `__call__` runs."""
        return self._active

    def switch(self, name: str) -> None:
        """Selects the arch to run.

        Raises:
            UsageError: The arch is not one of those of this network.
        """
        if name not in self._nets:
            raise UsageError(f"no arch is called {name!r}; the archs are {', '.join(self._nets)}")
        self._active = name

    def calibrate(self, batches: Iterable[Tensor]) -> None:
        """Sets the statistics of every arch to their average over some batches of training images.

        Args:
            batches: Normalised images ``(N, 3, H, W)`` each; see `alphanet_zoo.nn.calibration.calibrate`.
        """
        kept = list(batches)
        for net in self._nets.values():
            if net.has_statistics:
                calibrate(net, kept)

    def take_statistics(self, net: SlimNet, name: str | None = None) -> None:
        """Copies the statistics of a calibrated subnet, such as one of a search or an evaluation.

        Args:
            net: A calibrated subnet of the same supernet.
            name: The arch that gets them; None: the one of ``net``.

        Raises:
            UsageError: No arch is that of ``net``, or it is not calibrated.
        """
        name = next((key for key, arch in self.archs.items() if arch == net.arch), None) if name is None else name
        if name not in self.archs or self.archs[name] != net.arch:
            raise UsageError(f"no arch called {name} is {net.arch}; the archs are {', '.join(self.archs)}")
        if net.calibration in (None, "sliced"):
            raise UsageError("the subnet has no batch-norm statistics of its own; calibrate it first")
        target = self._nets[name]
        own, given = dict(target.named_buffers()), dict(net.named_buffers())
        for key in (key for key, module in target.named_modules() if isinstance(module, _BatchNorm)):
            for buffer in ("running_mean", "running_var", "num_batches_tracked"):
                own[f"{key}.{buffer}"].copy_(given[f"{key}.{buffer}"])
        target.calibration = net.calibration

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``(N, classes)`` of normalised images ``(N, 3, H, W)`` at the active arch.

        Raises:
            UsageError: The arch has no statistics.
        """
        net = self._nets[self._active]
        self._check_calibrated(self._active, net)
        logits: Tensor = net(images)
        return logits

    def subnet(self, name: str) -> SlimNet:
        """The subnet of an arch. Its weights are views; `SlimNet.subnet` of it is a copy of its own.

        Raises:
            UsageError: The arch is not one of those of this network.
        """
        if name not in self._nets:
            raise UsageError(f"no arch is called {name!r}; the archs are {', '.join(self._nets)}")
        return self._nets[name]

    def export(self, path: str | os.PathLike[str], *, dynamic_batch: bool = False) -> SwitchableFile:
        """Writes one ONNX file with shared weights and an integer input that selects the arch.

        The file has the inputs ``pixel_values`` ``(1, 3, S, S)``, where S is the largest resolution of the archs, and
        ``arch``, an int64 scalar: the position of the arch in `archs`. The outputs of every arch are compared with
        PyTorch before the file is written.

        Args:
            path: The file.
            dynamic_batch: Accept any number of images; otherwise one.

        Raises:
            UsageError: An arch has no statistics.
            ParityError: The file does not compute what PyTorch computes; it is not written.
        """
        from alphanet_export.switchable import export_switchable

        for name, net in self._nets.items():
            self._check_calibrated(name, net)
        cuts = {name: self.supernet.cuts(arch) for name, arch in self.archs.items()}
        shared = {f"net.{name}": tensor.detach() for name, tensor in self.supernet.net.named_parameters()}
        return export_switchable(self._nets, shared, cuts, Path(path), dynamic_batch=dynamic_batch)

    def _check_calibrated(self, name: str, net: nn.Module) -> None:
        """Raises UsageError if an arch has no statistics."""
        if self._nets[name].calibration in (None, "sliced"):
            raise UsageError(f"the arch {name} has no batch-norm statistics; call calibrate(batches) first")
