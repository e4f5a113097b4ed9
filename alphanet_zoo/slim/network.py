"""What the supernet of a slimmable network and its static subnets have in common, and the static subnets."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.config import default_cfg
from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.layers import resize_to
from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.choices import FAMILY, Tie
from alphanet_zoo.slim.kernels import FasterConvs
from alphanet_zoo.slim.space import SlimSpace
from alphanet_zoo.zoo.hub_mixin import HubMixin

_DROP_PATHS = {"DropPath": "drop_prob", "StochasticDepth": "p"}
"""Classes of stochastic depth in timm and torchvision, and the attribute with their rate."""


@dataclass(frozen=True)
class Options:
    """The arguments of `alphanet_zoo.slim.supernet.slimmable` that define the space."""

    input_size: tuple[int, int, int]
    widths: tuple[float, ...]
    divisor: int
    tie: Tie | None
    depth: bool
    resolutions: tuple[int, ...]
    keep: tuple[str, ...] = ()


class SlimNetwork(HubMixin, Network):
    """A network of any class with the description of its search space.

    Attributes:
        net: The network of the user's class.
        options: The arguments from which the space was derived.
        origin: Name from which the network can be built again, such as ``timm/resnet18``, see
            `alphanet_zoo.slim.named.named_slimmable`; None if it was passed as a module.
    """

    net: nn.Module
    arch: SlimArch
    space: SlimSpace

    def __init__(self, net: nn.Module, space: SlimSpace, arch: SlimArch, options: Options, origin: str | None) -> None:
        """Holds ``net`` itself, not a copy."""
        super().__init__()
        self.net, self.space, self.arch, self.options, self.origin = net, space, arch, options, origin
        self.in_chans, self.top1 = options.input_size[0], None
        self.pretrained_cfg = default_cfg(arch, space.num_classes) | {
            "architecture": space.name, "input_size": (self.in_chans, arch.resolution, arch.resolution),
            "first_conv": None, "classifier": None,
        }  # fmt: skip
        self._names = frozenset(self.state_dict())
        self._drop_rate = self._drop_path_rate = 0.0

    @property
    def num_classes(self) -> int:
        """Outputs of the network."""
        return self.space.num_classes

    @property
    def drop_rate(self) -> float:
        """Dropout before the classifier at the network's own arch, in addition to any dropout of the network."""
        return self._drop_rate

    @drop_rate.setter
    def drop_rate(self, rate: float) -> None:
        if rate and self._classifier() is None:
            raise UsageError(
                f"drop_rate is {rate}, but {self.space.name} has no linear classifier; pass 0 (sandwich.drop_rate=0)"
            )
        self._drop_rate = rate

    @property
    def drop_path_rate(self) -> float:
        """Stochastic depth of the block with the greatest rate, at the network's own arch; 0 keeps the network's."""
        return self._drop_path_rate

    @drop_path_rate.setter
    def drop_path_rate(self, rate: float) -> None:
        paths = self._drop_paths()
        greatest = max((getattr(module, key) for module, key in paths), default=0.0)
        if rate and not greatest:
            raise UsageError(
                f"drop_path_rate is {rate}, but {self.space.name} has no stochastic depth; pass 0 "
                "(sandwich.drop_path_rate=0)"
            )
        if rate:
            for module, key in paths:
                setattr(module, key, getattr(module, key) * rate / greatest)
        self._drop_path_rate = rate

    def config(self) -> dict[str, Any]:
        """The description from which `alphanet_zoo.slim.named.from_config` builds this network, ready for JSON.

        Raises:
            ValueError: The network was passed as a module.
        """
        if self.origin is None:
            raise ValueError(
                "the network was passed as a module, so a file cannot describe how to build it; make the supernet with "
                "alphanet_zoo.slim.named.named_slimmable('module:function'), or save net.state_dict()"
            )
        return {
            "model_type": FAMILY,
            "network": self.origin,
            "options": {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self.options).items()},
            **self.described(),
        }

    def described_tensors(self) -> set[str]:
        """The names of the tensors that the network had when it was made."""
        return set(self._names)

    def contains(self, arch: SlimArch) -> bool:
        """Whether this network has all weights of ``arch``."""
        return arch in self.space if self.supernet else arch == self.arch

    def _computing(self, x: Tensor) -> contextlib.AbstractContextManager[object]:
        """Applies `kernels` for the duration of the context; on a GPU, avoids cuDNN's plans for each width."""
        replaced = self.training and (x.is_cuda or self.kernels == "compiled")
        return FasterConvs() if replaced else contextlib.nullcontext()

    @contextlib.contextmanager
    def _dropping(self) -> Iterator[None]:
        """Applies `drop_rate` for the duration of the context."""
        classifier = self._classifier() if self._drop_rate and self.training else None
        if classifier is None:
            yield
            return
        with classifier.register_forward_pre_hook(lambda _, inputs: F.dropout(inputs[0], self._drop_rate)):
            yield

    def _classifier(self) -> nn.Linear | None:
        """The last linear layer with an output for each class; None if there is none."""
        layers = [m for m in self.net.modules() if isinstance(m, nn.Linear) and m.out_features == self.num_classes]
        return layers[-1] if layers else None

    def _drop_paths(self) -> list[tuple[nn.Module, str]]:
        """The modules of stochastic depth, with the attribute of their rate."""
        kinds = ((module, _DROP_PATHS.get(type(module).__name__)) for module in self.net.modules())
        return [(module, key) for module, key in kinds if key is not None]


class SlimNet(SlimNetwork):
    """A static subnet: a network of the user's class at one arch, with its calibration record and preprocessing.

    Made by `alphanet_zoo.slim.supernet.Slimmable.subnet`. `net` is an ordinary module, as ``extract`` returns it.
    """

    supernet = False

    def __init__(self, net: nn.Module, space: SlimSpace, arch: SlimArch, options: Options, origin: str | None) -> None:
        """See `SlimNetwork`."""
        super().__init__(net, space, arch, options, origin)
        self.has_statistics = any(isinstance(module, _BatchNorm) for module in net.modules())
        self.calibration = "sliced" if self.has_statistics else "training"

    def forward(self, x: Tensor, arch: SlimArch | None = None, *, resize: bool = True) -> Tensor:
        """Logits ``(N, num_classes)`` of normalised images ``(N, C, H, W)``.

        Args:
            x: Images; those of another size than the arch's resolution are resized (bicubic).
            arch: None, or the network's own arch.
            resize: Resize the images to the arch's resolution; False runs at the size they have.

        Raises:
            ValueError: ``arch`` is another arch.
        """
        if arch is not None and arch != self.arch:
            raise ValueError(f"the network is of {self.arch}, not of {arch}; take that subnet from the supernet")
        if resize:
            x = resize_to(x, self.arch.resolution)
        with self._dropping(), self._computing(x):
            logits: Tensor = self.net(x)
        return logits

    def subnet(self, arch: SlimArch) -> SlimNet:
        """A copy of this network, if ``arch`` is its own.

        Raises:
            ValueError: It is not.
        """
        if arch != self.arch:
            raise ValueError(f"the network is of {self.arch}, not of {arch}; take that subnet from the supernet")
        return copy.deepcopy(self)
