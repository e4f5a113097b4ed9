import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.losses import KLDistillation, LabelSmoothedCrossEntropy
from alphanet_zoo.nn.model import AlphaNet, build_supernet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY
from alphanet_zoo.train.config import OptimConfig, SandwichConfig
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.gradients import Gradients
from alphanet_zoo.train.optim import WeightAverage, make_optimizer
from alphanet_zoo.train.sandwich import (
    Losses,
    SandwichStep,
    compile_recurring,
    distillation_loss,
    draw_archs,
    label_loss_of,
    mean_metrics,
    subnet_metrics,
)
from alphanet_zoo.zoo.convert import load_upstream

DATA = Path(__file__).parents[1] / "fixtures"


def relative_error(ours, golden):
    return np.abs(np.asarray(ours) - golden).max() / np.abs(golden).max()


def tiny_supernet(seed=0, **rates):
    torch.manual_seed(seed)
    return AlphaNet(TINY.largest, TINY, 10, supernet=True, **rates).train()


def tiny_batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(16, 3, 16, 16, generator=generator), torch.arange(16) % 10


def sandwich_step(
    net,
    images,
    labels,
    archs,
    optimizer,
    *,
    label_loss,
    distillation,
    clip_value=None,
    compiled=None,
    **losses,
):
    step = SandwichStep(
        net, optimizer, Gradients(net), Losses(label_loss, distillation, **losses), Ranks(0, 1, torch.device("cpu")),
        clip_value, compiled=compiled or {},
    )  # fmt: skip
    return step([(images, labels)], archs).micro_batches[0]


def plain_sgd(net, lr=0.1):
    return torch.optim.SGD(net.parameters(), lr=lr, fused=True)


@pytest.mark.parametrize("kernels", ["torch", "compiled"])
def test_the_published_step_is_reproduced(tmp_path, kernels):
    checkpoint = tmp_path / "published.pth.tar"
    script = DATA / "upstream" / "make_checkpoint.py"
    subprocess.run([sys.executable, str(script), str(checkpoint)], check=True, capture_output=True)
    net = load_upstream(checkpoint).train()
    net.kernels = kernels
    golden = np.load(DATA / "golden" / "train_step.npz")
    specs = json.loads((DATA / "golden" / "archs.json").read_text())
    archs = {name: ArchSpec.from_dict(specs[name]["spec"]) for name in ("largest", "r0", "r1", "smallest")}
    images = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 3, 224, 224)).astype("f4"))
    config = SandwichConfig()
    outcomes = sandwich_step(
        net, images, torch.tensor([1, 2, 3, 4]), archs, plain_sgd(net),
        label_loss=label_loss_of(config), distillation=distillation_loss(config), clip_value=1.0,
    )  # fmt: skip
    assert [outcome.name for outcome in outcomes] == ["largest", "r0", "r1", "smallest"]
    for outcome in outcomes:
        assert relative_error(outcome.logits, golden[f"train_logits/{outcome.name}"]) < 1e-4
        assert relative_error(outcome.loss, golden[f"loss/{outcome.name}"]) < 1e-4


def test_the_archs_are_a_function_of_seed_and_step():
    archs = draw_archs(TINY, seed=3, step=17, random_subnets=3)
    assert list(archs) == ["largest", "random-1", "random-2", "random-3", "smallest"]
    assert archs["largest"] == TINY.largest and archs["smallest"] == TINY.smallest
    assert archs == draw_archs(TINY, seed=3, step=17, random_subnets=3)
    assert archs != draw_archs(TINY, seed=3, step=18, random_subnets=3)
    assert archs != draw_archs(TINY, seed=4, step=17, random_subnets=3)
    assert list(draw_archs(TINY, 0, 0, random_subnets=0)) == ["largest", "smallest"]


def test_gradients_are_added_over_the_subnets_and_clipped_once():
    archs = draw_archs(TINY, 0, 0)
    images, labels = tiny_batch()
    loss = LabelSmoothedCrossEntropy(0.1)

    def update(clip_value):
        net = fill_live(tiny_supernet())
        before = {name: p.detach().clone() for name, p in net.named_parameters()}
        sandwich_step(net, images, labels, archs, plain_sgd(net, 1.0), label_loss=loss,
                      distillation=None, clip_value=clip_value)  # fmt: skip
        return {name: before[name] - p.detach() for name, p in net.named_parameters()}

    net = fill_live(tiny_supernet())
    sum(loss(net(images, arch), labels) for arch in archs.values()).backward()
    expected = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in net.named_parameters()}
    assert max(float(gradient.abs().max()) for gradient in expected.values()) > 0.02
    for name, gradient in update(None).items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)
    for name, gradient in update(0.01).items():
        torch.testing.assert_close(gradient, expected[name].clamp(-0.01, 0.01), rtol=1e-3, atol=1e-5)


def test_students_learn_from_the_teacher_and_not_the_teacher_from_them():
    images, labels = tiny_batch()

    def teacher_gradient(distillation):
        net = fill_live(tiny_supernet())
        archs = {"largest": TINY.largest, "smallest": TINY.smallest}
        sandwich_step(net, images, labels, archs, plain_sgd(net, 0.0), label_loss=LabelSmoothedCrossEntropy(0.1),
                      distillation=distillation)  # fmt: skip
        return net.classifier.weight.grad[:, TINY.smallest.width[-1] :]

    # The last columns of the classifier belong to the largest subnet alone.
    torch.testing.assert_close(teacher_gradient(KLDistillation()), teacher_gradient(lambda s, t: s.sum() * 0 + t.sum()))
    assert teacher_gradient(KLDistillation()).abs().max() > 0


@pytest.mark.parametrize("loss", ["adaptive_alpha", "fixed_alpha", "kl", "none"])
def test_each_loss_trains_the_smallest_subnet(loss):
    config = SandwichConfig(loss=loss, label_smoothing=0.0, random_subnets=0)
    net, (images, labels) = fill_live(tiny_supernet()), tiny_batch()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
    losses = []
    for step in range(20):
        outcomes = sandwich_step(
            net, images, labels, draw_archs(TINY, 0, step, 0), optimizer, label_loss=label_loss_of(config),
            distillation=distillation_loss(config), clip_value=1.0,
        )  # fmt: skip
        losses.append(float(F.cross_entropy(outcomes[-1].logits, labels)))
    assert outcomes[-1].name == "smallest" and losses[-1] < 1.0 < losses[0]


def test_the_losses_are_those_of_the_config():
    student, teacher = torch.randn(4, 10), torch.randn(4, 10)
    kl = -(F.softmax(teacher, 1) * F.log_softmax(student, 1)).sum(1).mean()
    torch.testing.assert_close(distillation_loss(SandwichConfig(loss="kl"))(student, teacher), kl)
    fixed = distillation_loss(SandwichConfig(loss="fixed_alpha", alpha_max=1.0))
    torch.testing.assert_close(fixed(student, teacher), kl)
    assert distillation_loss(SandwichConfig(loss="none")) is None


READS = {"aten::_local_scalar_dense", "aten::item", "aten::is_nonzero", "aten::nonzero", "aten::equal"}
"""Operators that wait for a GPU to copy a value to the host."""


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_step_reads_no_value_from_the_device(ema):
    net, (images, labels), config = fill_live(tiny_supernet()), tiny_batch(), SandwichConfig()
    optimizer = make_optimizer(net, OptimConfig(lr=0.1, epochs=1))
    step = SandwichStep(
        net, optimizer, Gradients(net), Losses(label_loss_of(config), distillation_loss(config)),
        Ranks(0, 1, torch.device("cpu")), 1.0, average=None if ema is None else WeightAverage(net, ema),
    )  # fmt: skip
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        outcome = step([(images, labels)], draw_archs(TINY, 0, 0))
    operators = {event.key for event in profiler.key_averages()}
    assert not operators & READS and "aten::convolution" in operators
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        metrics = mean_metrics([subnet_metrics(outcome.micro_batches[0], labels, config)], step.ranks)
    assert not {event.key for event in profiler.key_averages()} & READS and metrics["largest"]["loss"] > 0.0


@pytest.mark.parametrize("bad_step", [0, 1])
def test_a_step_that_is_not_finite_changes_neither_momentum_nor_average_nor_statistics(bad_step):
    net, (images, labels) = fill_live(AlphaNet(TINY.smallest, TINY, 10)).train(), tiny_batch()
    optimizer = make_optimizer(net, OptimConfig(lr=0.1, epochs=1))
    optimizer.param_groups[0]["lr"] = 0.1
    average = WeightAverage(net, 0.5)
    step = SandwichStep(net, optimizer, Gradients(net), Losses(label_loss_of(SandwichConfig())),
                        Ranks(0, 1, torch.device("cpu")), 1.0, average=average)  # fmt: skip

    def state():
        momentum = {i: entry["momentum_buffer"] for i, entry in optimizer.state_dict()["state"].items()}
        tensors = [*net.state_dict().values(), *average.module.state_dict().values(), *momentum.values()]
        return [tensor.clone() for tensor in tensors]

    for number in range(3):
        before = state()
        bad = number == bad_step
        outcome = step([(images * float("nan") if bad else images, labels)], {"subnet": net.arch})
        assert outcome.finite is not bad
        assert all(map(torch.equal, before, state())) is bad
    assert all(tensor.isfinite().all() for tensor in state())


def test_metrics_give_divergences_that_are_no_surrogates():
    net, (images, labels) = fill_live(tiny_supernet()), tiny_batch()
    config = SandwichConfig()
    outcomes = sandwich_step(net, images, labels, draw_archs(TINY, 0, 0), plain_sgd(net),
                             label_loss=label_loss_of(config), distillation=distillation_loss(config))  # fmt: skip
    metrics = subnet_metrics(outcomes, labels, config)
    assert set(metrics["largest"]) == {"loss", "accuracy"}
    for name in ("random-1", "random-2", "smallest"):
        figures = metrics[name]
        teacher, student = (
            F.log_softmax(o.logits, 1) for o in (outcomes[0], next(o for o in outcomes if o.name == name))
        )
        true_kl = float((teacher.exp() * (teacher - student)).sum(1).mean())
        assert figures["divergence_alpha_max"] == pytest.approx(true_kl, rel=1e-4)
        assert figures["divergence_alpha_min"] > 0 and 0 <= figures["chose_alpha_min"] <= 1


def test_dropout_touches_the_largest_subnet_only():
    images, _ = tiny_batch()
    net = fill_live(tiny_supernet(drop_rate=0.5, drop_path_rate=0.5))
    assert not torch.equal(net(images, TINY.largest), net(images, TINY.largest))
    assert torch.equal(net(images, TINY.smallest), net(images, TINY.smallest))


def test_a_step_keeps_no_statistics():
    net, (images, labels) = build_supernet(TINY, 10).train(), tiny_batch()
    sandwich_step(net, images, labels, draw_archs(TINY, 0, 0), plain_sgd(net),
                  label_loss=LabelSmoothedCrossEntropy(0.1), distillation=KLDistillation())  # fmt: skip
    assert torch.equal(net.bn1.running_mean, torch.zeros(16)) and torch.equal(net.bn1.running_var, torch.ones(16))
    assert net.calibration is None


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`", "ignore::DeprecationWarning")
@pytest.mark.parametrize("kernels", ["torch", "compiled"])
def test_compiled_subnets_learn_the_same(kernels):
    images, labels = tiny_batch()
    archs = {"largest": TINY.largest, "smallest": TINY.smallest}
    outcomes, weights = [], []
    for compiles in (False, True):
        net = tiny_supernet()
        net.kernels = kernels
        compiled = compile_recurring(net) if compiles else None
        outcomes.append(sandwich_step(
            net, images, labels, archs, plain_sgd(net), label_loss=LabelSmoothedCrossEntropy(0.1),
            distillation=KLDistillation(), compiled=compiled,
        ))  # fmt: skip
        weights.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
    for eager, compiled in zip(*outcomes, strict=True):
        torch.testing.assert_close(compiled.logits, eager.logits, rtol=1e-5, atol=1e-5)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-5, atol=1e-5, msg=name)
