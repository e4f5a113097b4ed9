"""What a subnet is trained to minimise: alpha-divergences, their rivals, and the loss against labels.

Every loss takes the student's logits first and returns the mean over the batch. Half and bfloat16 logits are computed
in float32, also inside autocast, and everything stays finite for float32 logits up to 1e30.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NEAR = 1e-3
"""An alpha this near to 0 or 1 takes the limit's formula."""

Loss = Callable[[Tensor, Tensor], Tensor]


def _full_precision(logits: Tensor) -> Tensor:
    """Logits in float32, or in float64 where they are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _checked_smoothing(smoothing: float) -> float:
    """Label smoothing in its domain."""
    if not 0.0 <= smoothing < 1.0:
        raise ValueError(f"label smoothing is {smoothing}; give a value from 0 to under 1")
    return smoothing


def _log_probabilities(student_logits: Tensor, teacher_logits: Tensor) -> tuple[Tensor, Tensor]:
    """Log-softmax of student (with gradient) and teacher (without), after checking their shapes."""
    if student_logits.shape != teacher_logits.shape or student_logits.dim() != 2:
        raise ValueError(
            f"student logits are {tuple(student_logits.shape)} and teacher logits {tuple(teacher_logits.shape)}; "
            "give two tensors of one shape (N, classes)"
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
        alpha: Any real number. Towards -1 it punishes the student for over-estimating the teacher's uncertainty,
            towards +1 for under-estimating it; at 1 it is KL(teacher, student). 0 and 1 are limits.
        clip: Bound (beta) of the powered importance ratio; ``math.inf`` gives the true divergence.

    Returns:
        ``(divergence, surrogate)``, each ``(N,)``, the divergence without gradient. The surrogate may be negative.

    Raises:
        ValueError: The shapes differ, ``alpha`` is not finite, or ``clip`` is not positive.

    Source: docs/specification.md, section 5; Wang et al., 2021, arXiv:2102.07954, equations 3 to 6.
    """
    if not math.isfinite(alpha) or not clip > 0:
        raise ValueError(f"alpha is {alpha} and clip {clip}; give a finite alpha and a positive clip")
    with torch.autocast(student_logits.device.type, enabled=False):
        student, teacher = _log_probabilities(student_logits, teacher_logits)
        return _divergence(student, teacher, alpha, clip)


def _divergence(student: Tensor, teacher: Tensor, alpha: float, clip: float) -> tuple[Tensor, Tensor]:
    """`alpha_divergence` of log-probabilities ``(N, classes)``, in log space so that no ratio overflows."""
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
    """What the adaptive loss chooses from, per sample: ``(N,)`` each.

    ``chose_min`` says where alpha_min's divergence was the larger; ``surrogate`` is the chosen one's, with gradient.
    """

    divergence_min: Tensor
    divergence_max: Tensor
    chose_min: Tensor
    surrogate: Tensor


class AdaptiveAlphaDivergence(nn.Module):
    """The adaptive alpha-divergence: per sample the surrogate of the end whose divergence is larger.

    Args:
        alpha_min: The end that punishes over-estimated uncertainty.
        alpha_max: The end that punishes under-estimated uncertainty; it takes ties.
        clip: Bound of the powered importance ratio.

    Source: docs/specification.md, section 5; Wang et al., 2021, arXiv:2102.07954, equation 8.
    """

    def __init__(self, alpha_min: float = -1.0, alpha_max: float = 1.0, clip: float = 5.0) -> None:
        """Checks the ends."""
        super().__init__()
        if not alpha_min < alpha_max:
            raise ValueError(f"alpha_min is {alpha_min} and alpha_max {alpha_max}; give the smaller first")
        self.alpha_min, self.alpha_max, self.clip = alpha_min, alpha_max, clip

    def terms(self, student_logits: Tensor, teacher_logits: Tensor) -> AdaptiveTerms:
        """Both divergences and the choice, for logging; arguments as `forward`."""
        low, low_surrogate = alpha_divergence(student_logits, teacher_logits, self.alpha_min, self.clip)
        high, high_surrogate = alpha_divergence(student_logits, teacher_logits, self.alpha_max, self.clip)
        chose_min = low > high
        return AdaptiveTerms(low, high, chose_min, torch.where(chose_min, low_surrogate, high_surrogate))

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The mean surrogate, a scalar, of logits ``(N, classes)`` each; the teacher's are detached."""
        return self.terms(student_logits, teacher_logits).surrogate.mean()


class AlphaDivergence(nn.Module):
    """The surrogate of one fixed alpha.

    Args:
        alpha: As in `alpha_divergence`.
        clip: Bound of the powered importance ratio.
    """

    def __init__(self, alpha: float, clip: float = 5.0) -> None:
        """Keeps the figures."""
        super().__init__()
        self.alpha, self.clip = alpha, clip

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The mean surrogate, a scalar, of logits ``(N, classes)`` each; the teacher's are detached."""
        return alpha_divergence(student_logits, teacher_logits, self.alpha, self.clip)[1].mean()


class KLDistillation(nn.Module):
    """Cross-entropy with the teacher's probabilities: KL(teacher, student) up to the teacher's entropy.

    Source: Hinton et al., 2015, arXiv:1503.02531, at temperature 1; the loss of BigNAS and AttentiveNAS.
    """

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The mean, a scalar, of logits ``(N, classes)`` each; the teacher's are detached."""
        with torch.autocast(student_logits.device.type, enabled=False):
            student, teacher = _log_probabilities(student_logits, teacher_logits)
            return -(teacher.exp() * student).sum(1).mean()


def per_label(logits: Tensor) -> Tensor:
    """Logits ``(N, labels)`` of independent labels as ``(N x labels, 2)``: the outcomes yes and no of each."""
    return torch.stack((logits, torch.zeros_like(logits)), dim=-1).flatten(0, 1)


class PerLabel(nn.Module):
    """A distillation loss between distributions, applied to every label on its own: for several labels an image.

    With `KLDistillation` it is the binary cross-entropy against the teacher's probabilities.

    Args:
        loss: ``(student logits, teacher logits) -> scalar`` over classes that exclude each other.
    """

    def __init__(self, loss: Loss) -> None:
        """Keeps the loss."""
        super().__init__()
        self.loss = loss

    def forward(self, student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
        """The mean over images and labels, a scalar, of logits ``(N, labels)`` each; the teacher's are detached."""
        return self.loss(per_label(student_logits), per_label(teacher_logits))


class BinaryCrossEntropy(nn.Module):
    """Binary cross-entropy of each label, for several labels an image.

    Args:
        smoothing: Every target moves by half of this towards one half.
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
    """Cross-entropy against labels, smoothed.

    Args:
        smoothing: Probability spread evenly over all classes, the label's included.

    Source: docs/specification.md, section 6; Szegedy et al., 2016, arXiv:1512.00567.
    """

    def __init__(self, smoothing: float = 0.1) -> None:
        """Checks the smoothing."""
        super().__init__()
        self.smoothing = _checked_smoothing(smoothing)

    def forward(self, student_logits: Tensor, target: Tensor) -> Tensor:
        """The mean, a scalar, of logits ``(N, classes)`` and labels ``(N,)`` from 0, int64."""
        with torch.autocast(student_logits.device.type, enabled=False):
            log_probabilities = F.log_softmax(_full_precision(student_logits), dim=1)
            right = log_probabilities.gather(1, target[:, None]).squeeze(1)
            return -((1.0 - self.smoothing) * right + self.smoothing * log_probabilities.mean(1)).mean()
