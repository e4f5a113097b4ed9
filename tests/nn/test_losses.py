"""The losses: golden figures, hand-derived values, and arithmetic that stays finite."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alphanet_zoo.nn.losses import (
    AdaptiveAlphaDivergence,
    AlphaDivergence,
    KLDistillation,
    LabelSmoothedCrossEntropy,
    alpha_divergence,
)

GOLDEN = np.load(Path(__file__).parents[1] / "fixtures/golden/losses.npz")
BOUND = 1e-5
ALPHAS = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)


def relative_error(ours: torch.Tensor, name: str) -> float:
    expected = torch.from_numpy(np.asarray(GOLDEN[f"s3.0/{name}"])).double()
    return float((ours.detach().double() - expected).abs().max() / expected.abs().max())


def logits() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(GOLDEN["s3.0/q"]).requires_grad_(), torch.from_numpy(GOLDEN["s3.0/p"])


def gradient_of(loss: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, student)[0]


@pytest.mark.parametrize("alpha", ALPHAS)
def test_fixed_alpha_is_golden(alpha: float) -> None:
    student, teacher = logits()
    divergence, surrogate = alpha_divergence(student, teacher, alpha, 5.0)
    assert divergence.shape == surrogate.shape == (16,)
    assert not divergence.requires_grad
    assert relative_error(divergence, f"f{alpha}/value") < BOUND
    assert relative_error(surrogate, f"f{alpha}/surrogate") < BOUND
    assert relative_error(gradient_of(surrogate.mean(), student), f"f{alpha}/grad") < BOUND
    module_loss = AlphaDivergence(alpha)(student, teacher)
    assert torch.equal(module_loss, surrogate.mean())


@pytest.mark.parametrize(("low", "high"), [(-1.0, 1.0), (-2.0, 2.0), (-0.5, 0.5)])
def test_adaptive_is_golden(low: float, high: float) -> None:
    student, teacher = logits()
    loss = AdaptiveAlphaDivergence(low, high)(student, teacher)
    assert relative_error(loss, f"adaptive{low},{high}/value") < BOUND
    assert relative_error(gradient_of(loss, student), f"adaptive{low},{high}/grad") < BOUND


def test_rivals_are_golden() -> None:
    student, teacher = logits()
    kl = KLDistillation()(student, teacher)
    assert relative_error(kl, "kl/value") < BOUND
    assert relative_error(gradient_of(kl, student), "kl/grad") < BOUND
    ce = LabelSmoothedCrossEntropy(0.1)(student, torch.from_numpy(GOLDEN["s3.0/ce/target"]))
    assert relative_error(ce, "ce/value") < BOUND
    assert relative_error(gradient_of(ce, student), "ce/grad") < BOUND


def test_label_smoothing_is_pytorchs() -> None:
    student, _ = logits()
    target = torch.from_numpy(GOLDEN["s3.0/ce/target"])
    for smoothing in (0.0, 0.1, 0.3):
        expected = torch.nn.functional.cross_entropy(student, target, label_smoothing=smoothing)
        torch.testing.assert_close(LabelSmoothedCrossEntropy(smoothing)(student, target), expected)


def test_two_classes_by_hand() -> None:
    student = torch.log(torch.tensor([[0.25, 0.75]], dtype=torch.float64))
    teacher = torch.log(torch.tensor([[0.5, 0.5]], dtype=torch.float64))
    # w = (2, 2/3); alpha = 2: f = (w^2 - 1) / 2 = (1.5, -5/18); sum q f = 0.375 - 5/24 = 1/6
    divergence, _ = alpha_divergence(student, teacher, 2.0, math.inf)
    assert divergence.item() == pytest.approx(1 / 6)
    # clipped at 3: v = (3, 4/9), f = (1, -5/18), sum q f = 0.25 - 5/24 = 1/24
    divergence, _ = alpha_divergence(student, teacher, 2.0, 3.0)
    assert divergence.item() == pytest.approx(1 / 24)
    # alpha = 1 is KL(teacher, student)
    divergence, _ = alpha_divergence(student, teacher, 1.0, 5.0)
    assert divergence.item() == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))


def test_limits_take_over_within_a_thousandth() -> None:
    student, teacher = logits()
    for limit in (0.0, 1.0):
        at_limit = alpha_divergence(student, teacher, limit, 5.0)[0]
        assert torch.equal(alpha_divergence(student, teacher, limit + 0.9e-3, 5.0)[0], at_limit)
        assert not torch.equal(alpha_divergence(student, teacher, limit + 1.1e-3, 5.0)[0], at_limit)


@pytest.mark.parametrize("alpha", ALPHAS)
def test_unclipped_surrogate_has_the_gradient_of_the_divergence(alpha: float) -> None:
    generator = torch.Generator().manual_seed(0)
    student = torch.randn(4, 6, generator=generator, dtype=torch.float64).requires_grad_()
    teacher = torch.randn(4, 6, generator=generator, dtype=torch.float64)
    surrogate = alpha_divergence(student, teacher, alpha, math.inf)[1].sum()
    q, p = student.softmax(1), teacher.softmax(1)
    ratio = p / q
    if alpha == 0.0:
        f = -ratio.log()
    elif alpha == 1.0:
        f = ratio * ratio.log()
    else:
        f = (ratio**alpha - 1) / (alpha * (alpha - 1))
    expected = gradient_of((q * f).sum(), student)
    torch.testing.assert_close(gradient_of(surrogate, student), expected)


def test_adaptive_chooses_the_larger_and_gives_ties_to_alpha_max() -> None:
    student, teacher = logits()
    loss = AdaptiveAlphaDivergence()
    terms = loss.terms(student, teacher)
    assert torch.equal(terms.chose_min, terms.divergence_min > terms.divergence_max)
    assert 0 < int(terms.chose_min.sum()) < 16
    same = loss.terms(teacher, teacher)
    assert not same.chose_min.any()
    expected = alpha_divergence(teacher, teacher, 1.0, 5.0)[1]
    assert torch.equal(same.surrogate, expected)


def test_alpha_of_zero_is_a_value() -> None:
    student, teacher = logits()
    terms = AdaptiveAlphaDivergence(-1.0, 0.0).terms(student, teacher)
    assert torch.equal(terms.divergence_max, alpha_divergence(student, teacher, 0.0, 5.0)[0])


@settings(max_examples=60, deadline=None)
@given(
    scale=st.sampled_from([1e-30, 1.0, 1e2, 1e4, 1e10, 1e20, 1e30]),
    teacher_scale=st.sampled_from([1e-30, 1.0, 1e2, 1e10, 1e30]),
    alpha=st.sampled_from(ALPHAS),
    seed=st.integers(0, 1000),
)
def test_finite_up_to_1e30(scale: float, teacher_scale: float, alpha: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student = (torch.rand(3, 7, generator=generator) * 2 - 1).mul(scale).requires_grad_()
    teacher = (torch.rand(3, 7, generator=generator) * 2 - 1) * teacher_scale
    target = torch.tensor([0, 3, 6])
    losses = [
        AlphaDivergence(alpha)(student, teacher),
        AdaptiveAlphaDivergence()(student, teacher),
        KLDistillation()(student, teacher),
        LabelSmoothedCrossEntropy()(student, target),
    ]
    for loss in losses:
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient_of(loss, student)).all()
    assert torch.isfinite(alpha_divergence(student, teacher, alpha, 5.0)[0]).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32_inside_autocast(dtype: torch.dtype) -> None:
    student, teacher = (t.detach().to(dtype) for t in logits())
    expected = AdaptiveAlphaDivergence()(student.float(), teacher.float())
    with torch.autocast("cpu", torch.bfloat16):
        for loss, reference in [
            (AdaptiveAlphaDivergence()(student, teacher), expected),
            (KLDistillation()(student, teacher), KLDistillation()(student.float(), teacher.float())),
        ]:
            assert loss.dtype == torch.float32
            assert torch.equal(loss, reference)


def test_nothing_flows_into_the_teacher() -> None:
    student, teacher = (t.detach().clone().requires_grad_() for t in logits())
    for loss in (AdaptiveAlphaDivergence(), AlphaDivergence(0.5), KLDistillation()):
        student.grad = None
        loss(student, teacher).backward()
        assert student.grad is not None and teacher.grad is None


def test_bad_arguments_are_refused() -> None:
    student, teacher = logits()
    with pytest.raises(ValueError, match=r"student logits are \(16, 50\) and teacher logits \(16, 49\)"):
        alpha_divergence(student, teacher[:, :49], 1.0, 5.0)
    for alpha, clip in ((math.nan, 5.0), (1.0, 0.0), (math.inf, 5.0), (1.0, math.nan)):
        with pytest.raises(ValueError, match="pass a finite alpha and a positive clip"):
            alpha_divergence(student, teacher, alpha, clip)
    with pytest.raises(ValueError, match="alpha_min must be the smaller"):
        AdaptiveAlphaDivergence(1.0, -1.0)
    with pytest.raises(ValueError, match="label smoothing is 1.0"):
        LabelSmoothedCrossEntropy(1.0)
