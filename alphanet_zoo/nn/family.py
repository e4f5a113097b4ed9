"""What training, evaluation, export and verification require of a network, whatever its family."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.config import plain_cfg
from alphanet_zoo.nn.cpu_kernels import library
from alphanet_zoo.nn.provenance import Provenance
from alphanet_zoo.space.family import Space

KernelsName = Literal["torch", "compiled"]


class Network(Provenance):
    """A supernet, or a static network of one arch.

    `alphanet_zoo.nn.model.AlphaNet` and the networks of `alphanet_zoo.slim` have these attributes and methods; nothing
    outside of their packages depends on the class. The archs are those of the space, see
    `alphanet_zoo.space.family.Space`.

    Attributes:
        arch: The arch; of a supernet the largest one.
        space: The search space of ``arch``.
        in_chans: Channels of the images.
        top1: Top-1 accuracy of the weights in percent; None if unknown.
        drop_rate: Dropout before the classifier, in training at the network's own arch.
        drop_path_rate: Stochastic depth, in training at the network's own arch.
        has_statistics: Whether it has batch norms, whose statistics have to be calibrated.
        followed_by: The batch norm that follows each convolution, by their names in one module.
    """

    arch: Any
    space: Space[Any]
    in_chans: int
    top1: float | None
    drop_rate: float
    drop_path_rate: float
    has_statistics: bool = True
    followed_by: ClassVar[Mapping[str, str]] = {}
    forward: Callable[..., Any]
    _kernels: KernelsName = "torch"

    @property
    def kernels(self) -> KernelsName:
        """Implementation of training on the CPU in float32.

        'torch', or 'compiled': the operators of `alphanet_zoo.nn.cpu_kernels`, which are compiled for the machine when
        this is set. Evaluation, and networks extracted from this one, use torch.
        """
        return self._kernels

    @kernels.setter
    def kernels(self, name: KernelsName) -> None:
        if name not in ("torch", "compiled"):
            raise ValueError(f"kernels is {name!r}; pass 'torch' or 'compiled'")
        if name == "compiled":
            library.load()
        self._kernels = name
        self._use_kernels()

    def _use_kernels(self) -> None:
        """Tells the layers about a change of `kernels`."""

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Outputs of the network; 0 without a classifier."""

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The levels of `alphanet_zoo.nn.features.FeatureExtractor`, as in timm; empty if the family has none."""
        return []

    def adapt(self, num_classes: int | None = None, in_chans: int = 3, global_pool: str | None = None) -> None:
        """Gives the network another classifier, number of input channels or pooling, if they differ from its own.

        The arguments are those of `alphanet_zoo.zoo.registry.create_model`.

        Raises:
            ValueError: An argument is out of its domain.
            UsageError: The family cannot be adapted.
        """
        given = {"num_classes": (num_classes, None, self.num_classes), "in_chans": (in_chans, self.in_chans),
                 "global_pool": (global_pool, None, "avg")}  # fmt: skip
        changed = [name for name, (value, *kept) in given.items() if value not in kept]
        if changed:
            remedy = (
                f"pass in_chans={self.in_chans}" if changed == ["in_chans"] else f"leave {' and '.join(changed)} out"
            )
            raise UsageError(
                f"{self.space.name} keeps its {self.num_classes} classes, {self.in_chans} input channels and its "
                f"pooling; {remedy}"
            )

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The description of this network without its weights, ready for JSON.

        Raises:
            ValueError: It cannot be described.
        """

    def described(self) -> dict[str, Any]:
        """The entries that the `config` of every family has, ready for JSON."""
        return {
            "space": self.space.to_dict(),
            "arch": self.arch.to_dict(),
            "num_classes": self.num_classes,
            "supernet": self.supernet,
            "calibration": copy.copy(self.calibration),
            "pretrained_cfg": plain_cfg(self.pretrained_cfg),
        }

    @abstractmethod
    def described_tensors(self) -> set[str]:
        """The names of the tensors of the network that `config` describes."""

    @abstractmethod
    def contains(self, arch: Any) -> bool:
        """Whether this network has all weights of ``arch``."""

    @abstractmethod
    def subnet(self, arch: Any) -> Network:
        """A static network of ``arch`` with a copy of the weights, in this network's mode.

        Raises:
            ValueError: The network does not contain ``arch``.
        """
