"""Calibration: plain averages, by hand."""

from __future__ import annotations

import pytest
import torch

import alphanet_zoo as az
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.space.presets import ALPHANET_TINY


def static_net() -> az.AlphaNet:
    return fill_live(az.AlphaNet(ALPHANET_TINY.largest, ALPHANET_TINY, 10))


def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 3, 16, 16, generator=generator) * scale for n, scale in ((2, 1.0), (5, 2.0), (1, 0.5))]


def test_statistics_are_the_plain_average_of_the_batches() -> None:
    net = az.calibrate(static_net(), batches())
    stems = [torch.nn.functional.conv2d(b, net.conv_stem.weight, padding=1) for b in batches()]
    mean = torch.stack([s.mean((0, 2, 3)) for s in stems]).mean(0)
    variance = torch.stack([s.transpose(0, 1).flatten(1).var(1, unbiased=True) for s in stems]).mean(0)
    torch.testing.assert_close(net.bn1.running_mean, mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(net.bn1.running_var, variance, rtol=1e-4, atol=1e-6)


def test_record_and_mode() -> None:
    net = static_net().train()
    momentum = net.bn1.momentum
    assert az.calibrate(net, iter(batches())) is net
    assert not net.training and not any(module.training for module in net.modules())
    assert net.bn1.momentum == momentum
    assert isinstance(net.calibration, dict)
    assert net.calibration["images"] == 8 and net.calibration["batches"] == 3
    again = az.calibrate(static_net(), batches())
    assert again.calibration == net.calibration
    other = az.calibrate(static_net(), batches()[::-1])
    assert isinstance(other.calibration, dict) and other.calibration["digest"] != net.calibration["digest"]


def test_dropout_is_off_and_weights_stay() -> None:
    net = static_net()
    before = {name: p.clone() for name, p in net.named_parameters()}
    reference = az.calibrate(static_net(), batches())
    net.drop_rate = net.drop_path_rate = 0.9
    az.calibrate(net, batches())
    assert torch.equal(net.bn2.running_var, reference.bn2.running_var)
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())


def test_earlier_statistics_leave_no_trace() -> None:
    net = az.calibrate(static_net(), [b + 3 for b in batches()])
    again = az.calibrate(net, batches())
    assert torch.equal(again.bn2.running_mean, az.calibrate(static_net(), batches()).bn2.running_mean)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="extract a subnet"):
        az.calibrate(az.build_supernet(ALPHANET_TINY, 10), batches())
    net = static_net()
    with pytest.raises(ValueError, match="no calibration batches"):
        az.calibrate(net, [])
    assert net.calibration is None
    with pytest.raises(ValueError, match=r"\(16, 16\)"):
        az.calibrate(net, [torch.randn(16, 16)])
    with pytest.raises(ValueError, match="tuple"):
        az.calibrate(net, [(batches()[0], 1)])  # type: ignore[list-item]
    assert not net.training and net.bn1.momentum is not None
