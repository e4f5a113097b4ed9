"""Whether int8 costs accuracy, judged on the same images as float32."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from alphanet_export.onnx_model import FloatArray
from alphanet_export.verify.measure.mcnemar import compare_right
from alphanet_zoo.evaluate.statistics import paired_difference_interval, wilson_interval


@dataclass(frozen=True)
class Judgement:
    """What int8 costs on the held-out images.

    Args:
        images: How many.
        agreement: Percent of them on which int8 names the class that float32 names.
        float_top1: Top-1 of float32 in percent; None without labels.
        top1: Top-1 of int8; None likewise.
        only_float: Images that only float32 has right; None likewise.
        only_int8: Images that only int8 has right; None likewise.
        p_value: Of McNemar's exact test of the two; None likewise.
        drop: Points of top-1 lost: those of float32 less those of int8. Without labels, the percent of the images on
            which they differ, which no loss of accuracy on these images can exceed.
        drop_interval: Its 95 % interval: Bonett and Price's for paired shares, Wilson's without labels.
        max_drop: The largest allowed.
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

    @property
    def within(self) -> bool:
        """Whether the drop is within what is allowed."""
        return self.drop <= self.max_drop

    @property
    def sure(self) -> bool:
        """Whether the whole interval is."""
        return self.drop_interval[1] <= self.max_drop

    def __str__(self) -> str:
        """For a person."""
        low, high = self.drop_interval
        interval = f"95 % interval {low:.2f} to {high:.2f}, {self.images} images"
        if self.p_value is None:
            return f"{self.agreement:.2f} % of the classes as in float32, {self.drop:.2f} % not ({interval}; no labels)"
        return (
            f"top-1 {self.top1:.2f} % after {self.float_top1:.2f} % in float32, drop {self.drop:.2f} points "
            f"({interval}), McNemar p {self.p_value:.3g}, {self.agreement:.2f} % of the classes as in float32"
        )


def judge(
    float_logits: FloatArray, int8_logits: FloatArray, classes: npt.NDArray[np.int64] | None, max_drop: float
) -> Judgement:
    """Compares the logits ``(N, classes)`` of the same images.

    Args:
        float_logits: Of float32.
        int8_logits: Of int8.
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
    )
