"""The network: one class for the supernet, for its slices and for a static subnet."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from alphanet_zoo.nn.config import channel_cfg, default_cfg
from alphanet_zoo.nn.configured import Configured
from alphanet_zoo.nn.layers import (
    MBConv,
    SlicedBatchNorm2d,
    SlicedConv2d,
    SlicedLinear,
    Stage,
    resize_to,
    run_conv,
    run_norm,
    sliced_linear,
    use_compiled,
)
from alphanet_zoo.nn.plain import is_plain, slice_of
from alphanet_zoo.nn.timm_api import check_in_chans, level_indices
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET
from alphanet_zoo.space.shapes import BlockShape, NetShape, net_shape, shortcut_varies
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.zoo.hub_mixin import HubMixin


class AlphaNet(HubMixin, Configured):
    """An image classifier of one arch, which in training also runs at every smaller arch it contains.

    A static net is a tree of torch's own layers, and a forward pass at its own arch calls every one of them, the
    `classifier` included, whatever module that is. A supernet's layers are those of `alphanet_zoo.nn.layers`.

    Args:
        arch: The arch that the net is built at.
        space: The search space of ``arch``.
        num_classes: Outputs of the classifier; 0 gives the features before it.
        supernet: Keep what other subnets need (shortcut convolutions), and track no running statistics.
        drop_rate: Dropout before the classifier, in training at the net's own arch only.
        drop_path_rate: Drop-connect, in training at the net's own arch only: block i of the space's n drops its
            residual branch with ``drop_path_rate * i / n``, in the last two stages, on blocks of stride 1 that keep
            their number of channels.
        in_chans: Channels of the images.
        global_pool: 'avg', or '' for no pooling, which requires ``num_classes=0``.

    Attributes:
        calibration: Where the running statistics come from; see `alphanet_zoo.nn.config.Calibration`.
        classifier: The last layer; any module may take its place. Label names then have to be set anew.
        pretrained_cfg: Preprocessing of images and origin of the weights, under timm's keys. ``input_size`` is the
            arch's resolution; an exported file and timm's transforms use the same size.
        top1: Top-1 accuracy of the weights in percent, published or measured with them; None if unknown.

    Raises:
        ValueError: ``arch`` is not in ``space``, or an argument is out of its domain.

    Source: docs/specification.md, section 3; Wang et al., 2021, arXiv:2102.07954.
    """

    followed_by: ClassVar[Mapping[str, str]] = {
        "conv_stem": "bn1", "conv_final": "bn2", "conv_pw": "bn1", "conv_dw": "bn2", "conv_pwl": "bn3",
    }  # fmt: skip

    def __init__(
        self,
        arch: ArchSpec,
        space: SearchSpace = ALPHANET,
        num_classes: int = 1000,
        *,
        supernet: bool = False,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        in_chans: int = 3,
        global_pool: str = "avg",
    ) -> None:
        """Builds the net with PyTorch's initialisation, the last batch norm of every block at weight 0."""
        super().__init__()
        check_in_chans(in_chans)
        for name, rate in (("drop_rate", drop_rate), ("drop_path_rate", drop_path_rate)):
            if not 0.0 <= rate < 1.0:
                raise ValueError(f"{name} is {rate}; pass a value from 0 to under 1")
        shape = net_shape(space, arch)
        self.arch, self.space, self.supernet, self.in_chans = arch, space, supernet, in_chans
        conv, norm = (SlicedConv2d, SlicedBatchNorm2d) if supernet else (nn.Conv2d, nn.BatchNorm2d)
        self.conv_stem = conv(in_chans, shape.stem_channels, 3, shape.stem_stride, 1, bias=False)
        self.bn1 = norm(shape.stem_channels)
        self.blocks = nn.Sequential(*(Stage(*map(self._new_block, stage, range(len(stage)))) for stage in shape.stages))
        self.conv_final = conv(shape.last_block.out_channels, shape.num_features, 1, bias=False)
        self.bn2 = norm(shape.num_features)
        self.conv_head = conv(shape.num_features, shape.head_channels, 1, bias=False)
        self.num_features, self.head_hidden_size = shape.num_features, shape.head_channels
        self.drop_rate, self.drop_path_rate = drop_rate, drop_path_rate
        self.global_pool, self.top1 = global_pool, None
        self.reset_classifier(num_classes)
        cfg = default_cfg(arch, num_classes)
        self.pretrained_cfg = cfg | self._input_cfg() | channel_cfg(cfg, in_chans)

    def _new_block(self, shape: BlockShape, number: int) -> MBConv:
        """A block of this net; ``number`` is its place in its stage."""
        varies = self.supernet and number == 0 and shortcut_varies(self.space, shape.stage)
        return MBConv(shape, has_shortcut=shape.projects_shortcut or varies, sliced=self.supernet)

    def __setattr__(self, name: str, value: Any) -> None:
        """Setting another classifier unsets the label names and the accuracy, which were those of the one before."""
        super().__setattr__(name, value)
        if name == "classifier" and "pretrained_cfg" in self.__dict__:
            self.pretrained_cfg |= {"num_classes": self.num_classes, "label_names": None}
            self.top1 = None

    def forward(self, x: Tensor, arch: ArchSpec | None = None, *, resize: bool = True) -> Tensor:
        """Logits ``(N, num_classes)`` of normalised images ``(N, 3, H, W)`` of any size.

        Args:
            x: Images; those of another size than the arch's resolution are resized inside (bicubic).
            arch: A smaller arch to run at, in training mode only. None: the net's own.
            resize: Resize the images to the arch's resolution; False runs at the size they have.

        Raises:
            ValueError: ``x`` is not a batch of colour images in floating point, the net does not contain ``arch``, or
                it is in eval mode and ``arch`` is not its own.
        """
        return self.forward_head(self.forward_features(x, arch, resize=resize), arch=arch)

    def forward_features(self, x: Tensor, arch: ArchSpec | None = None, *, resize: bool = True) -> Tensor:
        """The map before the global pooling, ``(N, num_features, H / 32, W / 32)`` in the ImageNet space.

        ``resize=False`` keeps the images' size, which need not be square. Other arguments and errors as `forward`.
        """
        shape = self._sizes(arch)
        x = self._stem(x, shape, resize=resize)
        if shape is None:
            x = self.blocks(x)
        else:
            for stage, shapes in zip(self.blocks, shape.stages, strict=True):
                x = stage(x, shapes, drop=self._is_own(arch))
        return self._last_map(x, shape)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        *,
        resize: bool = True,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The map of `forward_features` and the maps of the levels of `feature_info`.

        Args:
            x: Images.
            indices: Levels to return; negative ones count from the end, an integer n means the last n, None all.
            norm: Accepted for compatibility with timm; the maps have no separate normalisation.
            stop_early: Stop after the last of these levels, whose map is then returned instead of the last one.
            output_fmt: Only 'NCHW'.
            intermediates_only: Return only the list of maps.
            resize: As for `forward`. False returns maps of the size of the images divided by ``reduction``.

        Raises:
            ValueError: An argument is out of its domain.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt is {output_fmt!r}; only 'NCHW' is supported")
        levels = [int(level["module"].removeprefix("blocks.")) for level in self.feature_info]
        wanted = {levels[i] for i in level_indices(len(levels), indices)}
        shape, maps = self._sizes(None), []
        x, last = self._stem(x, shape, resize=resize), max(wanted)
        for index, stage in enumerate(self.blocks):
            if stop_early and index > last:
                break
            x = stage(x) if shape is None else stage(x, shape.stages[index])
            if index in wanted:
                maps.append(x)
        if intermediates_only:
            return maps
        return x if stop_early and last < len(self.blocks) - 1 else self._last_map(x, shape), maps

    def forward_head(self, x: Tensor, pre_logits: bool = False, *, arch: ArchSpec | None = None) -> Tensor:
        """From the map of `forward_features` to logits ``(N, num_classes)``.

        ``pre_logits=True`` stops before the classifier, at ``(N, head_hidden_size)``. If `global_pool` is '', the map
        is not pooled and the result is ``(N, head_hidden_size, H, W)``.
        """
        shape = self._sizes(arch)
        if self.global_pool:
            x = F.adaptive_avg_pool2d(x, 1)
        x = F.silu(run_conv(self.conv_head, x, None if shape is None else shape.head_channels))
        if self.global_pool:
            x = x.flatten(1)
        if self._is_own(arch):
            x = F.dropout(x, self.drop_rate, self.training)
        if pre_logits is True:
            return x
        logits: Tensor = self.classifier(x) if self._calls_classifier(arch) else self._sliced_classifier(x)
        return logits

    def contains(self, arch: ArchSpec) -> bool:
        """Whether this net has all weights of ``arch`` (the resolution takes none)."""
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

    @torch.no_grad()
    def extract(self, arch: ArchSpec) -> AlphaNet:
        """A static net of ``arch`` with a copy of its slice of the weights, in this net's mode.

        Its layers are torch's own. Pruned and parametrised weights are copied as they take effect. Running statistics
        are sliced like any tensor, and are wrong for the subnet until it is calibrated: its `calibration` is 'sliced'
        (None if this net's is None; unchanged if the arch is this net's own).

        Raises:
            ValueError: This net does not contain ``arch``, or a layer has been replaced by one that cannot be copied.

        Source: docs/specification.md, section 3, "Slices".
        """
        self._check_contains(arch)
        head, whole = self.classifier, arch.scalars[1:] == self.arch.scalars[1:]
        linear = isinstance(head, nn.Linear) and is_plain(head)
        if not (linear or whole or isinstance(head, nn.Identity)):
            raise ValueError(f"the classifier is a {type(head).__name__}, and only a Linear has slices")
        with torch.device("meta"):
            static = AlphaNet(
                arch, self.space, self.num_classes if linear else 0,
                in_chans=self.in_chans, global_pool=self.global_pool,
            )  # fmt: skip
            if isinstance(head, nn.Linear) and linear:
                static.classifier = nn.Linear(static.head_hidden_size, head.out_features, bias=head.bias is not None)
        tensors = {name: slice_of(self, name, tensor, whole=whole) for name, tensor in static.state_dict().items()}
        static.load_state_dict(tensors, assign=True)
        if not linear:
            static.classifier = copy.deepcopy(head)
        static.drop_rate, static.drop_path_rate = self.drop_rate, self.drop_path_rate
        static.pretrained_cfg = self.pretrained_cfg | static._input_cfg()
        static.top1 = self.top1 if whole else None
        static.calibration = copy.copy(self.calibration) if whole or self.calibration is None else "sliced"
        return static.train(self.training)

    def subnet(self, arch: ArchSpec) -> AlphaNet:
        """See `extract`."""
        return self.extract(arch)

    def _use_kernels(self) -> None:
        use_compiled(self, self.kernels == "compiled")

    def _check_contains(self, arch: ArchSpec) -> None:
        """Raises where this net does not hold ``arch``."""
        self.space.validate(arch)
        if not self.contains(arch):
            raise ValueError(f"the net of {self.arch} does not contain {arch}; build_supernet gives one that does")

    def _is_own(self, arch: ArchSpec | None) -> bool:
        """Whether a forward at ``arch`` is one at the net's own; a symbolic trace (torch.fx) is one."""
        return not isinstance(arch, ArchSpec) or arch == self.arch

    def _sizes(self, arch: ArchSpec | None) -> NetShape | None:
        """The sizes to run at; None: a static net's own, at which its layers are called as they are."""
        if arch is not None and not isinstance(arch, ArchSpec | Proxy):
            raise ValueError(f"arch is {arch!r}; pass an ArchSpec")
        if self._is_own(arch):
            if not self.supernet:
                return None
            arch = self.arch
        assert isinstance(arch, ArchSpec)
        if arch != self.arch:
            if not self.training:
                raise ValueError(
                    f"in eval mode a net runs at its own arch only, not at {arch}: its statistics are those of "
                    f"{self.arch}; extract the subnet and calibrate it first"
                )
            self._check_contains(arch)
        derive = net_shape.__wrapped__ if torch.compiler.is_compiling() else net_shape  # Dynamo warns of a cache.
        return derive(self.space, arch)

    def _stem(self, x: Tensor, shape: NetShape | None, *, resize: bool) -> Tensor:
        """Images to the stem's map; with ``resize``, images are first resized to the arch's resolution."""
        if not self.training and not self.bn1.training:
            self.warn_if_unset()
        _check_images(x, self.in_chans)
        if resize is not False:
            x = resize_to(x, self.arch.resolution if shape is None else shape.resolution)
        x = run_conv(self.conv_stem, x, None if shape is None else shape.stem_channels, 3)
        return run_norm(self.bn1, x, own=shape is None)

    def _last_map(self, x: Tensor, shape: NetShape | None) -> Tensor:
        """The map of the last stage to that of `forward_features`."""
        x = run_conv(self.conv_final, x, None if shape is None else shape.num_features)
        return run_norm(self.bn2, x, own=shape is None)

    def _calls_classifier(self, arch: ArchSpec | None) -> bool:
        """Whether the classifier takes the features of ``arch`` as they are."""
        return self._is_own(arch) or isinstance(self.classifier, SlicedLinear | nn.Identity)

    def _sliced_classifier(self, x: Tensor) -> Tensor:
        """Logits of features ``(N, C)`` that are fewer than the classifier's."""
        if isinstance(self.classifier, nn.Linear) and is_plain(self.classifier):
            return sliced_linear(self.classifier, x)
        raise ValueError(f"the classifier is a {type(self.classifier).__name__}, and only a Linear has slices")


def _check_images(x: Tensor, in_chans: int) -> None:
    """Checks that ``x`` is a batch of images; a symbolic trace (torch.fx) records no check.

    Raises:
        ValueError: It is not.
    """
    if isinstance(x, Tensor) and (x.ndim != 4 or x.shape[1] != in_chans or not x.is_floating_point()):
        raise ValueError(f"images are floats of shape (N, {in_chans}, H, W), not {x.dtype} of shape {tuple(x.shape)}")


def build_supernet(space: SearchSpace = ALPHANET, num_classes: int = 1000) -> AlphaNet:
    """The net of ``space.largest`` that also keeps what other subnets need, with fresh weights.

    In training it uses the batch's statistics and keeps none. ``drop_rate`` and ``drop_path_rate`` are attributes.

    Source: docs/specification.md, section 3.
    """
    return AlphaNet(space.largest, space, num_classes, supernet=True)
