"""How an int8 file was made, and how it compares with float32 in accuracy and speed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np

from alphanet_export.onnx_model import FloatArray
from alphanet_export.quantize.judge import Judgement
from alphanet_export.verify.environment import cpu_name
from alphanet_export.verify.measure.ab import CPU_TIME, interleave
from alphanet_zoo.evaluate.statistics import median_ratio_interval

TIMING_ROUNDS = 30
TIMING_SECONDS = 2.0


@dataclass(frozen=True)
class Speed:
    """int8 against float32, timed in turns on one thread by CPU time, one image at a time.

    Args:
        ratio: Median time of int8 divided by that of float32; below 1, int8 is faster.
        ratio_interval: 95 % bootstrap interval of the ratio.
        median_ms: Median time of int8 in milliseconds.
        float_median_ms: Median time of float32 in milliseconds.
        rounds: Number of rounds; each runs both once.
        cpu: Name of the processor.
    """

    ratio: float
    ratio_interval: tuple[float, float]
    median_ms: float
    float_median_ms: float
    rounds: int
    cpu: str

    @property
    def slower(self) -> bool:
        """Whether the whole interval is above 1."""
        return self.ratio_interval[0] > 1


def measure_speed(
    int8: Callable[[FloatArray], object], float32: Callable[[FloatArray], object], image: FloatArray
) -> Speed:
    """Times both on ``image``, ``(1, 3, S, S)``, in turns, for at least `TIMING_ROUNDS` rounds and `TIMING_SECONDS`."""
    runs = {"int8": partial(int8, image), "float32": partial(float32, image)}
    times = interleave(runs, rounds=TIMING_ROUNDS, seconds=TIMING_SECONDS, clock=CPU_TIME)
    median, float_median = float(np.median(times["int8"])), float(np.median(times["float32"]))
    return Speed(
        ratio=median / float_median,
        ratio_interval=median_ratio_interval(times["int8"], times["float32"]),
        median_ms=median,
        float_median_ms=float_median,
        rounds=len(times["int8"]),
        cpu=cpu_name(),
    )


@dataclass(frozen=True)
class QuantizationLog:
    """How an int8 file was made.

    Args:
        toolchain: Name and version of what quantised it.
        reduced_range: Whether weights use 7 of 8 bits, see `alphanet_export.quantize.onnx_qdq.saturates`.
        calibration_images: Number of images used for calibration.
        held_out_images: Number of other images, on which the drop was judged.
        why_unlabelled: Why accuracy was not judged with labels; empty if it was.
        verdict: Accuracy of the file.
        float_layers: Layers that stay in float32, besides squeeze-and-excite.
        int8_share: Share of the layers' multiply-accumulates in int8, from 0 to 1.
        speed: Time compared with float32; None if not measured.
        drops: Drop with 0, 1, 2, ... layers back in float32; empty for NNCF.
        sensitivity_db: Signal-to-noise ratio of the logits in decibels with one layer alone in int8, by layer. Empty
            for NNCF, and if all layers in int8 keep the accuracy.
    """

    toolchain: str
    reduced_range: bool
    calibration_images: int
    held_out_images: int
    why_unlabelled: str
    verdict: Judgement
    float_layers: tuple[str, ...]
    int8_share: float
    speed: Speed | None
    drops: tuple[float, ...] = ()
    sensitivity_db: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """The part that goes into the file's metadata as ``alphanet.quantization``."""
        slower = self.speed is not None and self.speed.slower
        kept = {key: value for key, value in self.to_dict().items() if key not in ("drops", "sensitivity_db")}
        fixed = {"precision": "int8", "activations": "uint8", "weights": "int8, one scale per output channel"}
        return {**fixed, **kept, "slower_than_float32": slower}

    def notes(self) -> list[str]:
        """Notes for the user of the file."""
        verdict = self.verdict
        notes = [f"int8 ({100 * self.int8_share:.1f} % of the MACs): {verdict}"]
        if verdict.top1 is not None:
            notes.append("the network may have been trained on these images of --calib-data; alphanet verify FILE "
                         "--data FOLDER measures the accuracy on others")  # fmt: skip
        if verdict.suspicion:
            notes.append(f"SUSPICIOUS: {verdict.suspicion}")
        if self.why_unlabelled:
            notes.append(f"{self.why_unlabelled}, so int8 is judged by its agreement with float32, not by accuracy")
        if not verdict.sure:
            notes.append(f"{verdict.images} images do not rule out a drop above {verdict.max_drop:g} points")
        if self.float_layers:
            notes.append(f"kept in float32: {', '.join(self.float_layers)}")
        if self.reduced_range:
            notes.append("weights have 7 bits, because 8-bit kernels without VNNI saturate (--no-reduce-range: 8 bits)")
        if self.speed is not None:
            low, high = self.speed.ratio_interval
            word = "SLOWER than" if self.speed.slower else "as fast as" if high > 1 else "faster than"
            notes.append(f"on this machine int8 is {word} float32: it takes {self.speed.ratio:.2f}x as long (95 % "
                         f"interval {low:.2f}x to {high:.2f}x, one thread)")  # fmt: skip
        return notes
