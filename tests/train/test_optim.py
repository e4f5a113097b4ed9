from pathlib import Path

import numpy as np
import pytest
import torch

from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY
from alphanet_zoo.train.config import OptimConfig
from alphanet_zoo.train.optim import WeightAverage, learning_rate, make_optimizer, peak_learning_rate

GOLDEN = Path(__file__).parents[1] / "fixtures" / "golden" / "train_step.npz"


def test_the_schedule_is_the_published_one():
    golden = np.load(GOLDEN)["lr"]
    ours = [learning_rate(step, peak=0.8, total_steps=2000, warmup_steps=200) for step in range(2000)]
    np.testing.assert_allclose(ours, golden, rtol=0, atol=1e-9)


def test_the_schedule_without_warmup_starts_at_its_peak_and_ends_at_nothing():
    assert learning_rate(0, peak=0.5, total_steps=10, warmup_steps=0) == 0.5
    straight = [learning_rate(step, peak=0.5, total_steps=10, warmup_steps=0, linear=True) for step in (0, 4, 10, 99)]
    assert straight == pytest.approx([0.5, 0.3, 0, 0])
    assert learning_rate(10, peak=0.5, total_steps=10, warmup_steps=0) == pytest.approx(0, abs=1e-15)
    assert learning_rate(99, peak=0.5, total_steps=10, warmup_steps=0) == pytest.approx(0, abs=1e-15)


def test_the_peak_scales_with_the_batch_as_stated():
    scaled = OptimConfig(lr=0.1, lr_batch=256, epochs=1)
    assert peak_learning_rate(scaled, 2048) == pytest.approx(0.8)
    assert peak_learning_rate(scaled, 64) == pytest.approx(0.025)
    assert peak_learning_rate(OptimConfig(lr=0.1, epochs=1), 2048) == 0.1


def test_weight_decay_spares_batch_norms_and_biases():
    net = build_supernet(ALPHANET_TINY, 10)
    optimizer = make_optimizer(net, OptimConfig(lr=0.1, epochs=1, weight_decay=1e-5))
    names = {id(p): name for name, p in net.named_parameters()}
    decayed = {names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]}
    spared = {names[id(p)] for g in optimizer.param_groups if not g["weight_decay"] for p in g["params"]}
    assert decayed | spared == set(names.values()) and not decayed & spared
    assert {name.rsplit(".", 2)[-2] for name in spared} <= {
        "bn1",
        "bn2",
        "bn3",
        "conv_reduce",
        "conv_expand",
        "classifier",
    }
    assert "classifier.bias" in spared and "classifier.weight" in decayed
    assert all(g["nesterov"] and g["momentum"] == 0.9 for g in optimizer.param_groups)


def test_the_update_is_nesterov_momentum_with_decay():
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(net.weight)
    optimizer = make_optimizer(net, OptimConfig(lr=0.1, epochs=1, weight_decay=0.1))
    weight, velocity = 1.0, 0.0
    for _ in range(3):
        optimizer.param_groups[0]["lr"] = 0.5
        net.weight.grad = torch.full((1, 1), 2.0)
        optimizer.step()
        gradient = 2.0 + 0.1 * weight
        velocity = 0.9 * velocity + gradient
        weight -= 0.5 * (gradient + 0.9 * velocity)
    assert net.weight.item() == pytest.approx(weight, rel=1e-6)


def test_the_moving_average_starts_at_the_weights_and_copies_counts():
    net = torch.nn.BatchNorm1d(1)
    torch.nn.init.constant_(net.weight, 4.0)
    average = WeightAverage(net, 0.75)
    expected = 4.0
    for value in (8.0, 2.0, 1.0):
        torch.nn.init.constant_(net.weight, value)
        net.running_mean.fill_(value)
        net.num_batches_tracked += 1
        average.update(net)
        average.update(net, 0.0)
        expected = 0.75 * expected + 0.25 * value
    assert average.module.weight.item() == pytest.approx(expected)
    assert average.module.running_mean.item() == pytest.approx(0.75**2 * 2.0 + 0.75 * 0.5 + 0.25)
    assert average.module.num_batches_tracked.item() == 3 and net.weight.item() == 1.0
