"""What users of timm call on a model, after the habits of timm's own tests."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import alphanet_zoo as az
from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.features import FeatureExtractor
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY


def images(channels: int = 3, size: int = 16) -> Tensor:
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))


def live_net(**arguments: object) -> az.AlphaNet:
    return fill_live(az.AlphaNet(TINY.largest, TINY, 7, **arguments)).eval()  # type: ignore[arg-type]


def test_the_attributes_agree_with_what_the_net_computes() -> None:
    net = live_net()
    cfg = net.default_cfg
    assert cfg is net.pretrained_cfg and cfg["num_classes"] == net.num_classes == 7
    features = net.forward_features(torch.randn(1, *cfg["input_size"]))
    assert features.shape == (1, net.num_features, *cfg["pool_size"])
    hidden = net.forward_head(features, pre_logits=True)
    assert hidden.shape == (1, net.head_hidden_size)
    assert f"{cfg['classifier']}.weight" in net.state_dict() and f"{cfg['first_conv']}.weight" in net.state_dict()
    assert net.get_submodule(cfg["classifier"]) is net.get_classifier() and net.no_weight_decay() == set()
    net.reset_classifier(0)
    assert torch.equal(net.forward_head(features), hidden)
    net.reset_classifier(0, "")
    unpooled = net.forward_head(features)
    assert unpooled.shape == (1, net.head_hidden_size, *cfg["pool_size"]) and net.global_pool == ""
    with pytest.raises(ValueError, match="without pooling, pass num_classes=0"):
        net.reset_classifier(3)
    net.reset_classifier(3, "avg")
    assert net.forward_head(features).shape == (1, 3)


def test_pooling_and_channels_survive_copies_and_configs() -> None:
    net = fill_live(az.AlphaNet(TINY.largest, TINY, 0, in_chans=4, global_pool=""))
    for other in (net.extract(TINY.smallest), az.AlphaNet.from_config(net.config()), copy.deepcopy(net)):
        assert (other.in_chans, other.global_pool, other.num_classes) == (4, "", 0)
        assert other.pretrained_cfg["input_size"][0] == len(other.pretrained_cfg["mean"]) == 4
        assert other(images(4)).dim() == 4
    plain = az.AlphaNet(TINY.largest, TINY, 7).config()
    assert not {"in_chans", "global_pool", "top1"} & set(plain)


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_other_channels_adapt_the_first_convolution(channels: int) -> None:
    net = live_net()
    weight, x = net.conv_stem.weight.detach().clone(), images(channels)
    net.set_in_chans(channels)
    assert net.conv_stem.in_channels == net.in_chans == net.pretrained_cfg["input_size"][0] == channels
    summed = weight.sum(1, keepdim=True)
    repeated = torch.cat([weight, weight, weight], 1)[:, :channels] * 3 / channels
    torch.testing.assert_close(net.conv_stem.weight.detach(), summed if channels == 1 else repeated)
    with pytest.raises(ValueError, match=rf"images are floats of shape \(N, {channels}, H, W\)"):
        net(images())
    az.calibrate(net, [x])
    assert net(x).shape == (2, 7) and FeatureExtractor(net)(x)[0].shape[0] == 2
    with pytest.raises(ValueError, match=rf"pass image tensors of shape \(N, {channels}, H, W\)"):
        az.calibrate(net, [images()])


def test_the_input_size_is_the_archs_own() -> None:
    supernet = az.build_supernet(TINY, 7)
    small = supernet.extract(TINY.smallest)
    assert supernet.pretrained_cfg["input_size"] == (3, 16, 16) and supernet.pretrained_cfg["pool_size"] == (4, 4)
    assert small.pretrained_cfg["input_size"] == (3, 12, 12) and small.pretrained_cfg["pool_size"] == (3, 3)
    stale = small.config()
    stale["pretrained_cfg"]["input_size"] = [3, 16, 16]
    assert az.AlphaNet.from_config(stale).pretrained_cfg["input_size"] == (3, 12, 12)


@pytest.mark.parametrize("kind", ["static", "supernet"])
def test_intermediates_are_the_maps_of_the_forward_pass(kind: str) -> None:
    net = live_net() if kind == "static" else fill_live(az.build_supernet(TINY, 7)).eval()
    seen: dict[str, Tensor] = {}
    for level in net.feature_info:
        net.get_submodule(level["module"]).register_forward_hook(
            lambda _m, _i, out, name=level["module"]: seen.__setitem__(name, out)
        )
    x = images(size=20)
    last, maps = net.forward_intermediates(x)
    assert torch.equal(last, net.forward_features(x)) and torch.equal(net.forward_head(last), net(x))
    assert all(torch.equal(m, seen[level["module"]]) for m, level in zip(maps, net.feature_info, strict=True))
    _, maps = net.forward_intermediates(x, resize=False)
    for found, level in zip(maps, net.feature_info, strict=True):
        assert found.shape == (2, level["num_chs"], *(math.ceil(20 / level["reduction"]),) * 2)
    assert len(net.forward_intermediates(x, indices=2, intermediates_only=True)) == 2
    early, maps = net.forward_intermediates(x, indices=(0, -2), stop_early=True)
    assert torch.equal(early, maps[1]) and len(maps) == 2
    whole, _ = net.forward_intermediates(x, indices=3, stop_early=True)
    assert torch.equal(whole, last)
    for bad in ((3,), (-4,), (), 0, 4):
        with pytest.raises(ValueError, match="pass indices of the 3 levels"):
            net.forward_intermediates(x, indices=bad)
    with pytest.raises(ValueError, match="only 'NCHW'"):
        net.forward_intermediates(x, output_fmt="NHWC")


def test_a_pyramid_of_ones_own_network() -> None:
    net = fill_live(az.build_supernet(TINY, 7)).extract(TINY.smallest).eval()
    pyramid, x = az.FeatureExtractor(net, out_indices=(0, -1)), images(size=20)
    expected = net.forward_intermediates(x, indices=(0, -1), intermediates_only=True, resize=False)
    assert all(torch.equal(a, b) for a, b in zip(pyramid(x), expected, strict=True))
    assert len(az.FeatureExtractor(net, out_indices=2).feature_info) == 2
    assert pyramid.default_cfg["input_size"] == (3, 12, 12) and "num_classes" not in pyramid.default_cfg


@pytest.mark.parametrize("kind", ["static", "supernet", "pyramid"])
def test_gradient_checkpointing_changes_memory_only(kind: str) -> None:
    plain = fill_live(az.build_supernet(TINY, 7) if kind == "supernet" else az.AlphaNet(TINY.largest, TINY, 7)).train()
    saving = copy.deepcopy(plain)
    saving.set_grad_checkpointing()
    assert saving.grad_checkpointing and not plain.grad_checkpointing
    stored = []
    for net in (plain, saving):
        net.drop_path_rate = 0.3
        model: nn.Module = FeatureExtractor(net) if kind == "pyramid" else net
        counted: list[int] = []
        torch.manual_seed(0)
        with torch.autograd.graph.saved_tensors_hooks(lambda t, c=counted: (c.append(t.numel()), t)[1], lambda t: t):
            output = model(images())
        (sum(o.square().sum() for o in output) if kind == "pyramid" else output.square().sum()).backward()
        stored.append(sum(counted))
    assert stored[1] < 0.7 * stored[0]
    for (name, a), (_, b) in zip(plain.named_parameters(), saving.named_parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None:
            torch.testing.assert_close(b.grad, a.grad, msg=name)
    assert all(torch.equal(b, dict(saving.named_buffers())[name]) for name, b in plain.named_buffers())
    saving.set_grad_checkpointing(False)
    assert not saving.grad_checkpointing


def test_the_accuracy_belongs_to_weights_classes_and_arch() -> None:
    net = live_net()
    net.calibration, net.top1 = "checkpoint", 91.5
    assert az.AlphaNet.from_config(net.config()).top1 == 91.5 and net.extract(net.arch).top1 == 91.5
    assert net.extract(TINY.smallest).top1 is None
    trained, grey, other = (copy.deepcopy(net) for _ in range(3))
    trained.train()(images())
    grey.set_in_chans(1)
    other.reset_classifier(3)
    assert trained.top1 is None and grey.top1 is None and other.top1 is None and net.top1 == 91.5


def test_a_net_of_other_channels_is_not_exported() -> None:
    from alphanet_export.freeze import freeze

    with pytest.raises(UsageError, match="takes images of 1 channels; only networks of 3 can be exported"):
        freeze(live_net(in_chans=1))
