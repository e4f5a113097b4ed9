"""Whether int8 costs accuracy, judged on the same images as float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from alphanet_export.onnx_model import FloatArray
from alphanet_export.verify.measure.mcnemar import compare_right
from alphanet_zoo.errors import AccuracyError
from alphanet_zoo.evaluate.evaluator import Hits
from alphanet_zoo.evaluate.statistics import paired_difference_interval, wilson_interval

LEAST_INT8 = 0.5
"""Smallest share of the multiply-accumulates in int8, from 0 to 1, at which a file counts as int8."""


@dataclass(frozen=True)
class Judgement:
    """What int8 costs on the held-out images.

    Args:
        images: Number of images.
        agreement: Percentage of images for which int8 predicts the class that float32 predicts.
        float_top1: Top-1 of float32 in percent; None without labels.
        top1: Top-1 of int8 in percent; None without labels.
        only_float: Number of images that only float32 classifies correctly; None without labels.
        only_int8: Number of images that only int8 classifies correctly; None without labels.
        p_value: p-value of McNemar's exact test of int8 against float32; None without labels.
        drop: Top-1 of float32 minus that of int8, in points. Without labels: the percentage of images for which the two
            predict different classes, which no loss of accuracy on these images can exceed.
        drop_interval: 95 % interval of the drop: Bonett and Price's for paired shares; without labels Wilson's.
        max_drop: Largest drop allowed, in points.
        num_classes: Number of classes.
    """

    images: int
    agreement: float
    float_top1: float | None
    top1: float | None
    only_float: int | None
    only_int8: int | None
    p_value: float | None
    drop: float
    drop_interval: tuple[float, float]
    max_drop: float
    num_classes: int

    @property
    def suspicion(self) -> str | None:
        """What to check if top-1 of int8 is near chance; None if it is not, or without labels."""
        if self.top1 is None:
            return None
        return Hits(round(self.top1 * self.images / 100), self.images).suspicion(self.num_classes)

    @property
    def within(self) -> bool:
        """Whether the drop is at most the allowed one."""
        return self.drop <= self.max_drop

    @property
    def sure(self) -> bool:
        """Whether the whole interval of the drop is at most the allowed one."""
        return self.drop_interval[1] <= self.max_drop

    def __str__(self) -> str:
        """One line for a person."""
        low, high = self.drop_interval
        interval = f"95 % interval {low:.2f} to {high:.2f}, {self.images} images"
        if self.p_value is None:
            return f"same class as float32 for {self.agreement:.2f} %, another for {self.drop:.2f} % ({interval})"
        return (
            f"top-1: int8 {self.top1:.2f} %, float32 {self.float_top1:.2f} %, drop {self.drop:.2f} points "
            f"({interval}), McNemar p {self.p_value:.3g}, same class as float32 for {self.agreement:.2f} %"
        )


def judge(
    float_logits: FloatArray, int8_logits: FloatArray, classes: npt.NDArray[np.int64] | None, max_drop: float
) -> Judgement:
    """Compares the logits ``(N, classes)`` of the same images.

    Args:
        float_logits: Logits of float32.
        int8_logits: Logits of int8.
        classes: The true classes ``(N,)``, or None.
        max_drop: Points of top-1 that may be lost.
    """
    reference, ours = float_logits.argmax(axis=1), int8_logits.argmax(axis=1)
    images, same = len(reference), int((reference == ours).sum())
    if classes is None:
        lost, won = images - same, 0
    else:
        test = compare_right(torch.from_numpy(reference == classes), torch.from_numpy(ours == classes))
        lost, won = test.only_reference, test.only_file
    low, high = wilson_interval(lost, images) if classes is None else paired_difference_interval(lost, won, images)
    return Judgement(
        images=images,
        agreement=100 * same / images,
        float_top1=None if classes is None else 100 * float((reference == classes).mean()),
        top1=None if classes is None else 100 * float((ours == classes).mean()),
        only_float=None if classes is None else lost,
        only_int8=None if classes is None else won,
        p_value=None if classes is None else test.p_value,
        drop=100 * (lost - won) / images,
        drop_interval=(100 * low, 100 * high),
        max_drop=max_drop,
        num_classes=float_logits.shape[1],
    )


def accuracy_lost(verdict: Judgement) -> AccuracyError:
    """The error for a network that int8 cannot keep accurate, with the best verdict reached."""
    return AccuracyError(
        f"int8 loses more than {verdict.max_drop:g} points unless more than {100 * (1 - LEAST_INT8):.0f} % of the "
        f"multiply-accumulates stay in float32 ({verdict}); raise --max-drop, pass more images with --calib-data, or "
        "export float32"
    )
