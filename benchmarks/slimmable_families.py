"""What can be slimmed in the convolutional classifiers of torchvision and timm, and whether it is exact.

    python benchmarks/slimmable_families.py                      # all networks; over an hour on one core
    python benchmarks/slimmable_families.py timm/resnet18 ...    # some

Each network has random weights and random batch-norm statistics, 10 classes and small images. Columns:

- channels: share of the output channels of convolutions and linear layers that can be removed (the classes not counted)
- full: largest difference of the logits between the supernet at full width and the network (0.0 is exact)
- reordered: the same after the channels have been sorted by importance, relative to the largest logit, in float64
- extracted: largest difference between the sliced forward pass and the extracted network, relative, at three random
  archs and the smallest, in training mode
- MACs, parameters: whether the counts are those of `torch.utils.flop_counter` (divided by 2) and of PyTorch, at these
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from alphanet_zoo.slim.supernet import Slimmable, slimmable

TORCHVISION = (
    "alexnet convnext_tiny densenet121 efficientnet_b0 efficientnet_v2_s googlenet inception_v3 maxvit_t mnasnet0_5 "
    "mobilenet_v2 mobilenet_v3_small mobilenet_v3_large regnet_x_400mf regnet_y_400mf resnet18 resnet50 "
    "resnext50_32x4d shufflenet_v2_x0_5 shufflenet_v2_x1_0 squeezenet1_1 swin_t swin_v2_t vgg11 vgg11_bn vit_b_32 "
    "wide_resnet50_2"
)
TIMM = (
    "bat_resnext26ts botnet26t_256 caformer_s18 coatnet_pico_rw_224 convformer_s18 convmixer_768_32 convnext_atto "
    "convnextv2_atto cs3darknet_s cspdarknet53 cspresnet50 darknet53 densenet121 dla34 dla46_c dpn48b eca_nfnet_l0 "
    "ecaresnet26t edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientnet_es "
    "efficientnet_lite0 efficientvit_b0 efficientvit_m0 ese_vovnet19b_dw fasternet_t0 fastvit_t8 fbnetc_100 fbnetv3_b "
    "focalnet_tiny_srf gcresnext26ts gernet_s ghostnet_100 ghostnetv2_100 halonet26t hardcorenas_a hgnet_tiny "
    "hgnetv2_b0 hrnet_w18_small inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnet_050 "
    "legacy_xception levit_conv_128s mambaout_femto mixnet_s mnasnet_small mobilenetv1_100 mobilenetv2_050 "
    "mobilenetv3_small_050 mobilenetv4_conv_small mobileone_s0 mobilevit_xxs mobilevitv2_050 nf_regnet_b0 nf_resnet26 "
    "pit_ti_224 poolformer_s12 poolformerv2_s12 rdnet_tiny regnetv_040 regnetx_002 regnety_002 regnetz_b16 "
    "repghostnet_050 repvgg_a0 repvit_m0_9 res2net50_14w_8s resnest14d resnet18 resnetv2_50 resnext50_32x4d rexnet_100 "
    "sebotnet33ts_256 selecsls42b semnasnet_050 seresnext26t_32x4d skresnet18 spnasnet_100 starnet_s1 "
    "swin_tiny_patch4_window7_224 tf_efficientnet_b0 tf_efficientnetv2_b0 "
    "tinynet_e tresnet_m vgg11_bn visformer_tiny vit_tiny_patch16_224 "
    "vovnet39a xception41"
)
ALL = (*(f"torchvision/{n}" for n in TORCHVISION.split()), *(f"timm/{n}" for n in TIMM.split()))

_SIZES = {
    "torchvision/inception_v3": 128, "torchvision/maxvit_t": 224, "torchvision/vit_b_32": 224,
    "torchvision/alexnet": 96, "torchvision/swin_t": 64, "torchvision/swin_v2_t": 64, "timm/coatnet_pico_rw_224": 224,
    "timm/efficientformer_l1": 224, "timm/efficientformerv2_s0": 224, "timm/levit_conv_128s": 224,
    "timm/pit_ti_224": 224, "timm/swin_tiny_patch4_window7_224": 224, "timm/visformer_tiny": 224,
    "timm/vit_tiny_patch16_224": 224, "timm/efficientvit_m0": 224, "timm/botnet26t_256": 256, "timm/halonet26t": 256,
    "timm/sebotnet33ts_256": 256, "timm/bat_resnext26ts": 256, "timm/inception_v3": 128, "timm/inception_v4": 128,
    "timm/inception_resnet_v2": 128, "timm/legacy_xception": 96,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """Results for one network; the columns are described above."""

    name: str
    size: int
    groups: int
    share: float
    blocks: int
    full: float
    reordered: float
    extracted: float
    macs: bool
    params: bool
    seconds: float

    @property
    def exact(self) -> bool:
        """Whether everything is as it must be."""
        return self.full == 0.0 and self.reordered < 1e-8 and self.extracted < 1e-5 and self.macs and self.params


def build(name: str) -> nn.Module:
    """A network of 10 classes with random weights, batch-norm weights and statistics, from the global generator.

    Weights that are initialised to 0 are random as well.
    """
    package, _, short = name.partition("/")
    if package == "timm":
        import timm

        size = {"img_size": 224} if short in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224") else {}
        net: nn.Module = timm.create_model(short, num_classes=10, **size)
    else:
        import torchvision

        heads = {"aux_logits": False} if short in ("googlenet", "inception_v3") else {}
        net = torchvision.models.get_model(short, num_classes=10, weights=None, **heads)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.weight.copy_(0.5 + torch.rand_like(module.weight))
                module.running_mean.copy_(0.1 * torch.randn_like(module.weight))
                module.running_var.copy_(0.5 + torch.rand_like(module.weight))
        for parameter in net.parameters():
            if not parameter.any():
                parameter.normal_(0.0, 0.05)
    return net


def measure(name: str, *, explain: bool = False) -> Row:
    """Makes a network slimmable, each group with its own width and with droppable blocks, and checks it.

    If ``explain``, the layers that keep channels are printed with the reasons.
    """
    torch.manual_seed(0)
    size = _SIZES.get(name, 64)
    net = build(name).eval()
    start = time.process_time()
    supernet = slimmable(net, (3, size, size), tie=None, depth=True, importance=None, name=name)
    seconds = time.process_time() - start
    images = torch.randn(2, 3, size, size)
    supernet.eval()
    with torch.no_grad():
        wanted = net(images)
        full = float((supernet(images) - wanted).abs().max())
        exact = net.double()(images.double())
        supernet.double().reorder("norm", images.double())
        reordered = float((supernet(images.double()) - exact).abs().max() / exact.abs().max())
        supernet.float()
    rng = np.random.default_rng(0)
    space = supernet.space
    found = [_at(supernet, arch, images) for arch in (space.smallest, *(space.sample(rng) for _ in range(3)))]
    worst, macs, params = max(f[0] for f in found), all(f[1] for f in found), all(f[2] for f in found)
    report = supernet.report
    if explain:
        print(report)
    return Row(
        name, size, report.groups, report.share, len(report.droppable), full, reordered, worst, macs, params, seconds
    )


def _at(supernet: Slimmable, arch: Any, images: torch.Tensor) -> tuple[float, bool, bool]:
    """Checks one arch: difference of the extracted network, MACs, parameters."""
    static = supernet.train().extract(arch)
    with torch.no_grad():
        torch.manual_seed(0)
        sliced = supernet(images, arch)
        torch.manual_seed(0)
        apart = static(images)
        counter = FlopCounterMode(display=False)
        with counter, sdpa_kernel(SDPBackend.MATH):
            static.eval().requires_grad_(False)(images[:1])
    macs = counter.get_total_flops() // 2 == supernet.space.count_macs(arch)
    params = sum(p.numel() for p in static.parameters()) == supernet.space.count_params(arch)
    return float((sliced - apart).abs().max() / apart.abs().max()), macs, params


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description="Slimmable families of torchvision and timm")
    parser.add_argument("networks", nargs="*", default=list(ALL), help="torchvision/NAME or timm/NAME; default: all")
    parser.add_argument("--json", action="store_true", help="print one JSON object per network instead of a table")
    parser.add_argument("--report", action="store_true", help="also print what keeps its channels, and why")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    if not options.json:
        print(
            "| network | pixels | groups | channels | blocks | full | reordered | extracted | MACs | parameters | s |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in options.networks:
        try:
            row = measure(name, explain=options.report)
        except Exception as error:
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            continue
        if options.json:
            print(json.dumps(asdict(row)), flush=True)
        else:
            print(
                f"| {row.name} | {row.size} | {row.groups} | {100 * row.share:.1f} % | {row.blocks} | {row.full:.1e} "
                f"| {row.reordered:.1e} | {row.extracted:.1e} | {'equal' if row.macs else 'DIFFER'} "
                f"| {'equal' if row.params else 'DIFFER'} | {row.seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
