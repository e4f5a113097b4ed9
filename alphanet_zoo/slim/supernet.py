"""Any convolutional classifier as a supernet whose subnets are narrower."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.layers import resize_to
from alphanet_zoo.slim.analysis import Analysis, analyse, cost_terms
from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.checks import check_arguments, check_importance, check_names, check_network, copied
from alphanet_zoo.slim.choices import GroupSpec, Tie, width_choices
from alphanet_zoo.slim.cost import cost_of
from alphanet_zoo.slim.labels import Conflict
from alphanet_zoo.slim.narrow import Bound, Cut, Plan, bound, extracted, narrowed, plan, replaced
from alphanet_zoo.slim.network import Options, SlimNet, SlimNetwork
from alphanet_zoo.slim.order import Importance, Measure, chosen_measures, reorder
from alphanet_zoo.slim.report import Report, report_of
from alphanet_zoo.slim.settle import choices, settle
from alphanet_zoo.slim.space import SlimSpace
from alphanet_zoo.slim.trace import BATCH, Trace

_KEPT_PLANS = 64


class Slimmable(SlimNetwork):
    """A network of any class with all of its subnets. Made by `slimmable`.

    In training mode it runs at any arch with the statistics of the batch, and keeps none. In evaluation it runs at full
    width only, with the statistics that the network came with; extract other archs and calibrate them.

    Attributes:
        net: The network at full width, with the shared weights.
        space: The search space.
        arch: The largest arch.
        options: The arguments from which the space was derived.
        report: What can be slimmed, and the reasons for what cannot.
        num_classes: Outputs of the network.
    """

    supernet = True

    def __init__(
        self, net: nn.Module, analysis: Analysis, space: SlimSpace, options: Options, report: Report,
        tracked: Sequence[str], origin: str | None,
    ) -> None:  # fmt: skip
        """Use `slimmable`."""
        super().__init__(net, space, space.largest, options, origin)
        self.report, self._analysis = report, analysis
        self._tracked = frozenset(tracked)
        self._bound: OrderedDict[tuple[SlimArch, torch.device], Bound] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        """The state to copy or pickle; prepared plans refer to this network's own modules."""
        return {**vars(self), "_bound": OrderedDict()}

    def forward(self, x: Tensor, arch: SlimArch | None = None, *, resize: bool = True) -> Tensor:
        """Logits ``(N, num_classes)`` of normalised images ``(N, C, H, W)``.

        Args:
            x: Images; those of another size than the arch's resolution are resized (bicubic).
            arch: The arch to run at. None: the largest.
            resize: Resize the images to the arch's resolution; False runs at the size they have.

        Raises:
            ValueError: The space does not contain ``arch``; or the network is in evaluation and ``arch`` is not the
                full width.
        """
        arch = self.arch if arch is None else arch
        if resize:
            x = resize_to(x, arch.resolution)
        own = arch.width == self.arch.width and arch.depth == self.arch.depth
        if own and self.options.widths[-1] >= 1:
            self.space.validate(arch)
            with self._dropping(), self._computing(x):
                full: Tensor = self.net(x)
            return full
        if not self.training:
            raise ValueError(
                f"in evaluation the network runs at its full width only, not at {arch}: extract and calibrate it"
            )
        drops = self._drop_path_rate and not own
        paths = [(vars(module), key, 0.0) for module, key in self._drop_paths()] if drops else []
        dropping = self._dropping() if own else contextlib.nullcontext()
        with narrowed(self._prepared(arch)), replaced(paths), dropping, self._computing(x):
            logits: Tensor = self.net(x)
        return logits

    def extract(self, arch: SlimArch) -> nn.Module:
        """A network of the class of `net` with smaller layers and a copy of their weights, in this network's mode.

        It is an ordinary module without a reference to this one. Running statistics are sliced like any tensor, and
        are wrong for the subnet until it is calibrated. It takes images of any size that its class takes; it does not
        resize them.

        Raises:
            ValueError: The space does not contain ``arch``.
        """
        return self._extracted(arch, share=False)

    def subnet(self, arch: SlimArch) -> SlimNet:
        """`extract` as a network that resizes its images and keeps a record of its statistics, in this one's mode.

        Raises:
            ValueError: The space does not contain ``arch``.
        """
        static = SlimNet(self.extract(arch), self.space, arch, self.options, self.origin)
        static.pretrained_cfg = self.pretrained_cfg | {"input_size": static.pretrained_cfg["input_size"]}
        return static.train(self.training)

    def view(self, arch: SlimArch) -> SlimNet:
        """As `subnet`, in evaluation, but its parameters share this network's memory and require no gradients.

        Parameters that keep channels that are not adjacent, after a concatenation, are copies.
        """
        static = SlimNet(self._extracted(arch, share=True), self.space, arch, self.options, self.origin)
        static.pretrained_cfg = self.pretrained_cfg | {"input_size": static.pretrained_cfg["input_size"]}
        return static.eval()

    def cuts(self, arch: SlimArch) -> dict[str, tuple[Cut, ...]]:
        """The kept indices of each tensor of `net` that is smaller in ``arch``, by name."""
        return self._plan(arch).cuts

    def reorder(self, by: Importance | Sequence[Measure] = "norm", images: Tensor | None = None) -> list[str]:
        """Sorts the channels of every group by importance, the most important first; the full network stays the same.

        Args:
            by: 'norm': absolute weights of the batch norms; 'l1': L1 norms of the weights that compute the channels;
                'data': for each group the one of `choose_measures`; or a measure for each group.
            images: ``(N, C, H, W)``, on which the outputs must stay the same; None is random images. For 'data',
                normalised training images.

        Returns:
            Names of the groups that were left as they are, because their order matters.
        """
        check_importance(by, images)
        if images is not None and by == "data":
            measures: Sequence[Measure] = self.choose_measures(images)
        else:
            measures = [cast(Measure, by)] * len(self.space.groups) if isinstance(by, str) else by
        if images is None:
            parameter = next(self.net.parameters())
            shape = (BATCH, self.options.input_size[0], *(2 * [self.options.resolutions[-1]]))
            images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(parameter)
        return reorder(self.net, self._analysis, measures, resize_to(images, self.arch.resolution))

    def choose_measures(self, images: Tensor) -> tuple[Measure, ...]:
        """For each group, the measure ('norm' or 'l1') that keeps the more important channels, judged by data.

        Half of the channels of the group are removed by each measure. The one that changes the predictions less is
        chosen (KL divergence, batch norms with the statistics of ``images``). Takes two forward passes per group.

        Args:
            images: ``(N, C, H, W)``, normalised training images.
        """
        return chosen_measures(self.net, self._analysis, resize_to(images, self.arch.resolution))

    def _plan(self, arch: SlimArch) -> Plan:
        """What an arch keeps."""
        kept = self._analysis.kept(self.space.kept_atoms(arch))
        return plan(self.net, self._analysis, kept, self.space.dropped_blocks(arch))

    def _extracted(self, arch: SlimArch, *, share: bool) -> nn.Module:
        """A network of the class of `net`, whose batch norms track statistics as the original's did."""
        static = extracted(self.net, self._plan(arch), share=share)
        for name, module in static.named_modules():
            if name in self._tracked and isinstance(module, _NormBase):
                module.track_running_stats = True
        return static

    def _prepared(self, arch: SlimArch) -> Bound:
        """The plan of an arch for this network; the most recent ones are kept."""
        key = (arch, next(self.net.parameters()).device)
        if key not in self._bound:
            self._bound[key] = bound(self.net, self._plan(arch))
            if len(self._bound) > _KEPT_PLANS:
                self._bound.popitem(last=False)
        self._bound.move_to_end(key)
        return self._bound[key]


def slimmable(
    net: nn.Module,
    input_size: Sequence[int] = (3, 96, 96),
    widths: Sequence[float] = (0.25, 1.0),
    divisor: int = 8,
    tie: Tie | None = "uniform",
    depth: bool = False,
    *,
    resolutions: Sequence[int] | None = None,
    keep: Sequence[str] = (),
    importance: Importance | None = "norm",
    images: Tensor | None = None,
    name: str | None = None,
    origin: str | None = None,
) -> Slimmable:
    """Makes a supernet of any convolutional classifier; its subnets keep the leading channels of every layer.

    The network is run once with labelled channels, which shows what has to be cut together. Several narrowed networks
    are then compared with it. What cannot be narrowed keeps its size, and ``supernet.report`` states the reason.

    Args:
        net: The network; it is copied. Its weights become the shared weights.
        input_size: Channels, height and width of the images; a square.
        widths: Least and greatest share of the channels; or one share, or three and more, as the choices of a tied
            width.
        divisor: Channels are kept in multiples of this.
        tie: 'uniform': one width for the whole network; 'stage': one per stage; None: each group of channels has its
            own.
        depth: Whether residual blocks that keep the shape of their input can be dropped, up to half of each stage.
        resolutions: Choices of the side of the input; None is that of ``input_size`` alone.
        keep: Names of layers that keep all of their output channels, and those of the layers that are added to them. A
            container, such as a stage, stands for its layers.
        importance: Order of the channels before training, the most important first: by the weights of the batch norms
            ('norm'), the L1 norms of the weights ('l1'), or for each group of channels the one of the two that
            changes the predictions on ``images`` less ('data'). None keeps the order of ``net``.
        images: ``(N, C, H, W)``, normalised training images for ``importance='data'``; 64 or more.
        name: Name of the space; None is the name of the class.
        origin: Name from which ``net`` can be built again; `alphanet_zoo.slim.named.named_slimmable` sets it.

    Raises:
        UsageError: (a ValueError) The network or an argument is not suitable; the message names the module.

    Source: Yu & Huang, 2019, arXiv:1903.05134 (universally slimmable networks).
    """
    check_arguments(input_size, widths, divisor, tie, () if resolutions is None else resolutions)
    sides = (input_size[-1],) if resolutions is None else tuple(resolutions)
    check_importance(importance, images)
    check_network(net)
    check_names(net, keep)
    twin = copied(net)
    parameter = next(twin.parameters())
    tracked = [n for n, m in twin.named_modules() if isinstance(m, _NormBase) and m.track_running_stats]
    for module_name in tracked:
        twin.get_submodule(module_name).track_running_stats = False  # type: ignore[assignment]
    draws = torch.Generator().manual_seed(0)
    noise = [torch.randn(BATCH, input_size[0], side, side, generator=draws).to(parameter) for side in sides]
    analysis = _analysed(twin, noise, keep)
    settle(twin, analysis, noise[-1], widths[0], widths[-1], divisor, depth)
    if not analysis.groups and not analysis.chains and len(sides) == 1:
        raise UsageError(
            f"nothing of the network ({type(net).__name__}) can be removed: no layer has channels that may be left out"
        )
    options = Options(
        (int(input_size[0]), int(input_size[1]), int(input_size[2])), tuple(widths), divisor, tie, depth, sides,
        tuple(keep),
    )  # fmt: skip
    space = _space(twin, analysis, options, name or type(net).__name__)
    report = report_of(twin, analysis, space)
    analysis.evaluation, analysis.training, analysis.products = Trace(), Trace(), []
    supernet = Slimmable(twin, analysis, space, options, report, tracked, origin)
    if importance is not None:
        supernet.reorder(importance, images)
    return supernet


def _analysed(net: nn.Module, images: Sequence[Tensor], keep: Sequence[str]) -> Analysis:
    """The analysis of a network.

    Raises:
        UsageError: It fails, or is not a classifier.
    """
    try:
        analysis = analyse(net, images, keep)
    except Conflict as failure:
        shapes = " or ".join(str(tuple(each.shape)) for each in images)
        raise UsageError(f"the network fails on images of shape {shapes}: {failure}") from failure
    for mode, record in (("evaluation", analysis.evaluation), ("training", analysis.training)):
        result = record.result
        if not isinstance(result, Tensor) or result.dim() != 2:
            found = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise UsageError(
                f"the network ({type(net).__name__}) returns {found} in {mode}; a classifier must return logits "
                f"(N, classes), without auxiliary outputs"
            )
    return analysis


def _space(net: nn.Module, analysis: Analysis, options: Options, name: str) -> SlimSpace:
    """The search space of an analysis."""
    low, high, divisor = options.widths[0], options.widths[-1], options.divisor
    groups = tuple(
        GroupSpec(g.name, g.channels, g.unit, g.stage, tuple(c * g.unit for c in choices(g, low, high, divisor)))
        for g in analysis.groups
    )
    macs, params = cost_terms(net, analysis)
    blocks = sum(len(chain.blocks) for chain in analysis.chains)
    return SlimSpace(
        name=name,
        tie=options.tie,
        resolution=options.resolutions,
        widths=width_choices(options.widths),
        divisor=divisor,
        groups=groups,
        chains=tuple(analysis.chains),
        num_classes=int(analysis.evaluation.result.shape[1]),
        macs=tuple(cost_of(terms, len(groups), blocks) for terms in macs),
        params=cost_of(params, len(groups), blocks),
    )
