"""The network: one class for the supernet, for its slices and for a static subnet."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alphanet_zoo.nn.config import Calibration, as_calibration, default_cfg, plain_cfg, restored_cfg
from alphanet_zoo.nn.layers import MBConv, conv, norm_swish, resize_to
from alphanet_zoo.nn.slicing import slice_to
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.shapes import NetShape, net_shape, shortcut_varies
from alphanet_zoo.space.space import SearchSpace


class AlphaNet(nn.Module):
    """An image classifier of one arch, which in training also runs at every smaller arch it contains.

    Args:
        arch: The arch it is built at.
        space: The search space ``arch`` comes from.
        num_classes: Outputs of the classifier; 0 gives the features before it.
        supernet: Keep what other subnets need (shortcut convolutions), and no running statistics in training.
        drop_rate: Dropout before the classifier, in training at the net's own arch only.
        drop_path_rate: Drop-connect, in training at the net's own arch only: block i of the space's n drops its
            residual branch with ``drop_path_rate * i / n``, in the last two stages, on blocks of stride 1 that keep
            their number of channels.

    Attributes:
        calibration: Where the running statistics come from; see `alphanet_zoo.nn.config.Calibration`.
        pretrained_cfg: How images reach the net and where its weights come from, under timm's keys.
        num_features: Channels of `forward_features`.
        head_hidden_size: Channels before the classifier.

    Raises:
        ValueError: ``arch`` is not in ``space``, or an argument is out of its domain.

    Source: docs/specification.md, section 3; Wang et al., 2021, arXiv:2102.07954.
    """

    classifier: nn.Linear | nn.Identity

    def __init__(
        self,
        arch: ArchSpec,
        space: SearchSpace = ALPHANET,
        num_classes: int = 1000,
        *,
        supernet: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        """Builds the net with PyTorch's initialisation, the last batch norm of every block at weight 0."""
        super().__init__()
        for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} is {rate}; give a value from 0 to under 1")
        shape = net_shape(space, arch)
        self.arch, self.space, self.supernet = arch, space, supernet
        self.drop_rate, self.drop_path_rate = drop_rate, drop_path_rate
        self.calibration: Calibration = None
        self._warned = False
        last = shape.last_block.out_channels
        self.conv_stem = nn.Conv2d(3, shape.stem_channels, 3, shape.stem_stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.stem_channels)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                MBConv(b, has_shortcut=b.projects_shortcut or (supernet and i == 0 and shortcut_varies(space, b.stage)))
                for i, b in enumerate(stage)
            )
            for stage in shape.stages
        )
        self.conv_final = nn.Conv2d(last, shape.num_features, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(shape.num_features)
        self.conv_head = nn.Conv2d(shape.num_features, shape.head_channels, 1, bias=False)
        self.num_features, self.head_hidden_size = shape.num_features, shape.head_channels
        self.reset_classifier(num_classes)
        self.pretrained_cfg: dict[str, Any] = default_cfg(arch, num_classes)

    def forward(self, x: Tensor, arch: ArchSpec | None = None, *, resize: bool = True) -> Tensor:
        """Logits ``(N, num_classes)`` of normalised images ``(N, 3, H, W)`` of any size.

        Args:
            x: Images; another size than the arch's resolution is resized inside (bicubic).
            arch: A smaller arch to run at, in training mode only. None: the net's own.
            resize: Resize the images to the arch's resolution; False runs at the size they have.

        Raises:
            ValueError: ``x`` is no batch of colour images in floating point, the net does not contain ``arch``, or it
                is in eval mode and ``arch`` is not its own.
        """
        return self.forward_head(self.forward_features(x, arch, resize=resize), arch=arch)

    def forward_features(self, x: Tensor, arch: ArchSpec | None = None, *, resize: bool = True) -> Tensor:
        """The map before the global pooling, ``(N, num_features, H / 32, W / 32)`` in the ImageNet space.

        ``resize=False`` keeps the images' size, which need not be square. Other arguments and errors as `forward`.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(f"images are floats of shape (N, 3, H, W), not {x.dtype} of shape {tuple(x.shape)}")
        shape, track = self._shape_of(arch), self._tracks(arch)
        if resize:
            x = resize_to(x, shape.resolution)
        x = self._stem(x, shape, track=track)
        for index in range(len(self.blocks)):
            x = self._stage(x, index, shape, arch)
        x = conv(self.conv_final, x, shape.num_features)
        return norm_swish(self.bn2, x, track=track)

    def forward_head(self, x: Tensor, pre_logits: bool = False, *, arch: ArchSpec | None = None) -> Tensor:
        """From the map of `forward_features` to logits ``(N, num_classes)``.

        ``pre_logits=True`` stops before the classifier, at ``(N, head_hidden_size)``.
        """
        x = conv(self.conv_head, F.adaptive_avg_pool2d(x, 1), self._shape_of(arch).head_channels)
        x = F.silu(x).flatten(1)
        if self._is_own(arch):
            x = F.dropout(x, self.drop_rate, self.training)
        if pre_logits or isinstance(self.classifier, nn.Identity):
            return x
        weight = slice_to(self.classifier.weight, (self.num_classes, x.shape[1]))
        return F.linear(x, weight, self.classifier.bias)

    def contains(self, arch: ArchSpec) -> bool:
        """Whether this net holds all weights of ``arch`` (the resolution takes none)."""
        if arch not in self.space:
            return False
        if any(own < other for own, other in zip(self.arch.scalars[1:], arch.scalars[1:], strict=True)):
            return False
        shape = net_shape(self.space, arch)
        return all(
            self._block(b.stage, i).shortcut is not None
            for stage in shape.stages
            for i, b in enumerate(stage)
            if b.projects_shortcut
        )

    def extract(self, arch: ArchSpec) -> AlphaNet:
        """A static net of ``arch`` with a copy of its slice of the weights, in this net's mode.

        Running statistics are sliced like any tensor, and are wrong for the subnet until it is calibrated: its
        `calibration` is 'sliced' (None where this net's is None; unchanged where the arch is this net's own).

        Raises:
            ValueError: This net does not contain ``arch``.

        Source: docs/specification.md, section 3, "Slices".
        """
        self._check_contains(arch)
        with torch.device("meta"):
            static = AlphaNet(
                arch,
                self.space,
                self.num_classes,
                drop_rate=self.drop_rate,
                drop_path_rate=self.drop_path_rate,
            )
        weights = self.state_dict()
        sliced = {name: slice_to(weights[name], t.shape) for name, t in static.state_dict().items()}
        static.load_state_dict(
            {name: t.clone(memory_format=torch.contiguous_format) for name, t in sliced.items()}, assign=True
        )
        static.pretrained_cfg = {**self.pretrained_cfg}
        whole = arch.scalars[1:] == self.arch.scalars[1:]
        static.calibration = copy.copy(self.calibration) if whole or self.calibration is None else "sliced"
        return static.train(self.training)

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """The feature pyramid, the last stage at each reduction, under timm's keys.

        ``num_chs`` are its channels, ``reduction`` the input pixels a side for one of its own, ``module`` its name.
        """
        levels: dict[int, dict[str, Any]] = {}
        reduction = self.space.stem_stride
        for index, stage in enumerate(net_shape(self.space, self.arch).stages):
            reduction *= stage[0].stride
            levels[reduction] = {"num_chs": stage[-1].out_channels, "reduction": reduction, "module": f"blocks.{index}"}
        return list(levels.values())

    def get_classifier(self) -> nn.Module:
        """The last linear layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A new, freshly initialised classifier; ``num_classes=0`` gives the features before it.

        Args:
            num_classes: Its outputs.
            global_pool: timm's argument; only 'avg' exists here.

        Raises:
            ValueError: A negative ``num_classes``, or another ``global_pool``.
        """
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
            raise ValueError(f"num_classes is {num_classes!r}; give an integer of at least 0")
        if global_pool not in (None, "avg"):
            raise ValueError(f"global_pool is {global_pool!r}; AlphaNet has only 'avg'")
        like = self.conv_head.weight
        self.num_classes = num_classes
        self.classifier = (
            nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)
            if num_classes
            else nn.Identity()
        )
        if hasattr(self, "pretrained_cfg"):
            self.pretrained_cfg |= {"num_classes": num_classes, "label_names": None}

    def config(self) -> dict[str, Any]:
        """What `from_config` builds this net from (without its weights), ready for JSON."""
        return {
            "model_type": "alphanet",
            "space": self.space.to_dict(),
            "arch": self.arch.to_dict(),
            "num_classes": self.num_classes,
            "supernet": self.supernet,
            "calibration": copy.copy(self.calibration),
            "pretrained_cfg": plain_cfg(self.pretrained_cfg),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **rates: float) -> AlphaNet:
        """A freshly initialised net from what `config` gave; ``rates`` are ``drop_rate``, ``drop_path_rate``.

        Raises:
            ValueError: The config is not one, or its values are out of their domain.
        """
        if not isinstance(config, Mapping) or config.get("model_type") != "alphanet":
            raise ValueError("not the config of an AlphaNet: its model_type must be 'alphanet'")
        missing = {"space", "arch", "num_classes", "supernet", "calibration", "pretrained_cfg"} - set(config)
        if missing:
            raise ValueError(f"the config of an AlphaNet lacks {', '.join(sorted(missing))}")
        space, arch = SearchSpace.from_dict(config["space"]), ArchSpec.from_dict(config["arch"])
        net = cls(arch, space, config["num_classes"], supernet=bool(config["supernet"]), **rates)
        net.calibration = as_calibration(config["calibration"])
        net.pretrained_cfg = restored_cfg(config["pretrained_cfg"])
        return net

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> str | None:
        """Writes ``config.json`` and ``model.safetensors``; see `alphanet_zoo.zoo.hub.save_pretrained`."""
        from alphanet_zoo.zoo import hub

        return hub.save_pretrained(self, save_directory, **kwargs)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> AlphaNet:
        """Loads a Hub repository or a folder, strictly; see `alphanet_zoo.zoo.hub.from_pretrained`."""
        from alphanet_zoo.zoo import hub

        return hub.from_pretrained(pretrained_model_name_or_path, **kwargs)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> str:
        """Uploads ``config.json`` and ``model.safetensors``; see `alphanet_zoo.zoo.hub.push_to_hub`."""
        from alphanet_zoo.zoo import hub

        return hub.push_to_hub(self, repo_id, **kwargs)

    def _is_own(self, arch: ArchSpec | None) -> bool:
        """Whether a forward at ``arch`` is one of the whole net."""
        return arch is None or arch == self.arch

    def _tracks(self, arch: ArchSpec | None) -> bool:
        """Whether training at ``arch`` keeps running statistics: a static net at its own arch does."""
        return not self.supernet and self._is_own(arch)

    def _check_contains(self, arch: ArchSpec) -> None:
        """Raises where this net does not hold ``arch``."""
        self.space.validate(arch)
        if not self.contains(arch):
            raise ValueError(f"the net of {self.arch} does not contain {arch}; build_supernet gives one that does")

    def _shape_of(self, arch: ArchSpec | None) -> NetShape:
        """The shapes to run at."""
        if not self._is_own(arch):
            assert arch is not None
            if not self.training:
                raise ValueError(
                    f"in eval mode a net runs at its own arch only, not at {arch}: its statistics are those of "
                    f"{self.arch}; extract the subnet and calibrate it first"
                )
            self._check_contains(arch)
        derive = net_shape.__wrapped__ if torch.compiler.is_compiling() else net_shape  # Dynamo warns of a cache.
        return derive(self.space, arch or self.arch)

    def _block(self, stage: int, index: int) -> MBConv:
        """Block ``index`` of a stage."""
        blocks = self.blocks[stage]
        assert isinstance(blocks, nn.ModuleList)
        block = blocks[index]
        assert isinstance(block, MBConv)
        return block

    def _stem(self, x: Tensor, shape: NetShape, *, track: bool) -> Tensor:
        """Images to the stem's map."""
        self._note_statistics(track)
        x = conv(self.conv_stem, x, shape.stem_channels, kernel_size=3, stride=shape.stem_stride)
        return norm_swish(self.bn1, x, track=track)

    def _stage(self, x: Tensor, index: int, shape: NetShape, arch: ArchSpec | None) -> Tensor:
        """Runs the blocks of one stage."""
        track = self._tracks(arch)
        for i, block in enumerate(shape.stages[index]):
            drops = block.stage >= len(shape.stages) - 2 and block.stride == 1 and not block.projects_shortcut
            share = block.index / sum(stage.depth[-1] for stage in self.space.stages)
            rate = self.drop_path_rate * share if drops and self._is_own(arch) else 0.0
            x = self._block(index, i)(x, block, track=track, drop_path_rate=rate)
        return x

    def _note_statistics(self, track: bool) -> None:
        """Keeps `calibration` true in training, and warns once of statistics from nowhere in eval mode."""
        if self.training:
            if track:
                self.calibration = "training"
        elif self.calibration is None and not self.bn1.training and not self._warned:
            self._warned = True
            warnings.warn(
                "this net's batch-norm statistics come from nowhere, so its outputs mean nothing: "
                "calibrate(net, batches) sets them",
                stacklevel=4,
            )


def build_supernet(space: SearchSpace = ALPHANET, num_classes: int = 1000) -> AlphaNet:
    """The net of ``space.largest`` that also keeps what other subnets need, with fresh weights.

    In training it uses the batch's statistics and keeps none. ``drop_rate`` and ``drop_path_rate`` are attributes.

    Source: docs/specification.md, section 3.
    """
    return AlphaNet(space.largest, space, num_classes, supernet=True)
