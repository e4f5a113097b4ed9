"""Losses: alpha-divergences, KL distillation, and losses against labels.

Every loss takes the student's logits first and returns the mean over the batch. Losses of float16 and bfloat16 logits
are computed in float32, also under autocast. All results are finite for float32 logits up to 1e30.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEAR = 1e-3
"""The limit formulas for alpha 0 and 1 apply if alpha differs by less than this."""

Loss = Callable[[Tensor, Tensor], Tensor]


def _full_precision(logits: Tensor) -> Tensor:
    """Converts logits to float32; float64 is left as it is."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _checked_smoothing(smoothing: float) -> float:
    """Returns ``smoothing`` if it is in [0, 1)."""
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"label smoothing is {smoothing}; pass a value of at least 0 and less than 1")
    return smoothing


def _log_probabilities(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-softmax of student (with gradient) and teacher (detached); checks their shapes."""
    if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
        raise ValueError(
            f"student logits are {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)}; "
            "pass two tensors of the same shape (N, classes)"
        )
    student = F.log_softmax(_full_precision(student_logits), dim=1)
    return student, F.log_softmax(_full_precision(teacher_logits.detach()), dim=1)


def alpha_divergence(
    student_logits: Tensor, teacher_logits: Tensor, alpha: float, clip: float
) -> tuple[Tensor, Tensor]:
    """The alpha-divergence of the student from the teacher, and the surrogate whose gradient trains the student.

    Args:
        student_logits: ``(N, classes)``; gradients flow through their log-softmax only.
        teacher_logits: ``(N, classes)``; detached.
        alpha: Any real number. Negative values penalise a student that over-estimates the teacher's uncertainty,
            positive values one that under-estimates it. 1 is KL(teacher, student). At 0 and 1 the limits are used.
        clip: Upper bound (beta) of the importance ratio raised to alpha; ``math.inf`` disables clipping.

    Returns:
        ``(divergence, surrogate)``, each ``(N,)``, the divergence without gradient. The surrogate may be negative.

    Raises:
        ValueError: The shapes differ, ``alpha`` is not finite, or ``clip`` is not positive.

    Source: docs/specification.md, section 5; Wang et al., 2021, arXiv:2102.07954, equations 3 to 6.
    """
    if not math.isfinite(alpha) or not clip > 0:
        raise ValueError(f"alpha is {alpha} and clip {clip}; pass a finite alpha and a positive clip")
    with torch.autocast(student_logits.device.type, enabled=False):
        student, teacher = _log_probabilities(student_logits, teacher_logits)
        return _divergence(student, teacher, alpha, clip)


def _divergence(student: Tensor, teacher: Tensor, alpha: float, clip: float) -> tuple[Tensor, Tensor]:
    """`alpha_divergence` of log-probabilities ``(N, classes)``; works in log space to avoid overflow."""
    log_q = student.detach()
    q, log_ratio = log_q.exp(), teacher - log_q
    if abs(alpha - 1.0) < NEAR:
        q_f, q_rho = teacher.exp() * log_ratio, teacher.exp()
    elif abs(alpha) < NEAR:
        log_ratio = log_ratio.clamp(max=math.log(clip))
        q_f, q_rho = -q * log_ratio, q * (log_ratio - 1.0)
    else:
        largest = min(clip, torch.finfo(q.dtype).max)
        power = (alpha * log_ratio).clamp(max=math.log(largest)).exp().clamp(max=largest)
        scale = alpha * (alpha - 1.0)
        q_f, q_rho = q * ((power - 1.0) / scale), q * (power / alpha + 1.0 / scale)
    return q_f.sum(1), -(q_rho * student).sum(1)


class AdaptiveTerms(NamedTuple):
    """The terms of the adaptive loss per sample, ``(N,)`` each.

    Attributes:
        divergence_min: Divergence at ``alpha_min``, detached.
        divergence_max: Divergence at ``alpha_max``, detached.
        chose_min: Whether the divergence at ``alpha_min`` is the larger one.
        surrogate: Surrogate of the larger divergence, with gradient.
    """

    divergence_min: Tensor
    divergence_max: Tensor
    chose_min: Tensor
    surrogate: Tensor


class AdaptiveAlphaDivergence(nn.Module):
    """Adaptive alpha-divergence: for each sample the surrogate of the larger of two divergences.

    Args:
        alpha_min: Lower alpha; penalises over-estimated uncertainty.
        alpha_max: Upper alpha; penalises under-estimated uncertainty. Used if the divergences are equal.
        clip: Upper bound of the importance ratio raised to alpha.

    Raises:
        ValueError: ``alpha_min`` is not less than ``alpha_max``.

    Source: docs/specification.md, section 5; Wang et al., 2021, arXiv:2102.07954, equation 8.
    """

    def __init__(self, alpha_min: float = -1.0, alpha_max: float = 1.0, clip: float = 5.0) -> None:
        """Checks the alphas."""
        super().__init__()
        if not alpha_min < alpha_max:
            raise ValueError(f"alpha_min is {alpha_min} and alpha_max {alpha_max}; alpha_min must be the smaller")
        self.alpha_min, self.alpha_max, self.clip = alpha_min, alpha_max, clip

    def terms(self, student_logits: Tensor, teacher_logits: Tensor) -> AdaptiveTerms:
        """Both divergences and the choice, for logging. Arguments as `forward`."""
        low, low_surrogate = alpha_divergence(student_logits, teacher_logits, self.alpha_min, self.clip)
        high, high_surrogate = alpha_divergence(student_logits, teacher_logits, self.alpha_max, self.clip)
        chose_min = low > high
        return AdaptiveTerms(low, high, chose_min, torch.where(chose_min, low_surrogate, high_surrogate))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The mean surrogate, a scalar, of logits ``(N, classes)`` each; the teacher's are detached."""
        return self.terms(student_logits, teacher_logits).surrogate.mean()


class AlphaDivergence(nn.Module):
    """The surrogate of the alpha-divergence at a fixed alpha.

    Args:
        alpha: As in `alpha_divergence`.
        clip: Upper bound of the importance ratio raised to alpha.
    """

    def __init__(self, alpha: float, clip: float = 5.0) -> None:
        """Stores the arguments."""
        super().__init__()
        self.alpha, self.clip = alpha, clip

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The mean surrogate, a scalar, of logits ``(N, classes)`` each; the teacher's are detached."""
        return alpha_divergence(student_logits, teacher_logits, self.alpha, self.clip)[1].mean()


class KLDistillation(nn.Module):
    """Cross-entropy with the teacher's probabilities, which is KL(teacher, student) plus the teacher's entropy.

    Source: Hinton et al., 2015, arXiv:1503.02531, at temperature 1; the loss of BigNAS and AttentiveNAS.
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The mean, a scalar, of logits ``(N, classes)`` each; the teacher's are detached."""
        with torch.autocast(student_logits.device.type, enabled=False):
            student, teacher = _log_probabilities(student_logits, teacher_logits)
            return -(teacher.exp() * student).sum(1).mean()


def per_label(logits: Tensor) -> Tensor:
    """Converts logits ``(N, labels)`` of independent labels to ``(N x labels, 2)``: yes and no for each label."""
    return torch.stack((logits, torch.zeros_like(logits)), dim=-1).flatten(0, 1)


class PerLabel(nn.Module):
    """Applies a distillation loss to every label separately, for multi-label images.

    With `KLDistillation` it is the binary cross-entropy against the teacher's probabilities.

    Args:
        loss: Loss ``(student logits, teacher logits) -> scalar`` over mutually exclusive classes.
    """

    def __init__(self, loss: Loss) -> None:
        """Stores the loss."""
        super().__init__()
        self.loss = loss

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The mean over images and labels, a scalar, of logits ``(N, labels)`` each; the teacher's are detached."""
        return self.loss(per_label(student_logits), per_label(teacher_logits))


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy against the labels, for multi-label images.

    Args:
        smoothing: Label smoothing; moves every target towards 0.5 by half of this value.
    """

    def __init__(self, smoothing: float = 0.0) -> None:
        """Checks the smoothing."""
        super().__init__()
        self.smoothing = _checked_smoothing(smoothing)

    def forward(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean over images and labels, a scalar, of logits and targets (0 or 1), ``(N, labels)`` each."""
        with torch.autocast(student_logits.device.type, enabled=False):
            logits = _full_precision(student_logits)
            smoothed = (1.0 - self.smoothing) * target.to(logits.dtype) + 0.5 * self.smoothing
            return F.binary_cross_entropy_with_logits(logits, smoothed)


class LabelSmoothedCrossEntropy(nn.Module):
    """Cross-entropy against the labels, with label smoothing.

    Args:
        smoothing: Probability that is distributed evenly over all classes, including the class of the label.

    Source: docs/specification.md, section 6; Szegedy et al., 2016, arXiv:1512.00567.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        """Checks the smoothing."""
        super().__init__()
        self.smoothing = _checked_smoothing(smoothing)

    def forward(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean, a scalar, of logits ``(N, classes)`` and class indices ``(N,)``, int64."""
        with torch.autocast(student_logits.device.type, enabled=False):
            return F.cross_entropy(_full_precision(student_logits), target, label_smoothing=self.smoothing)
