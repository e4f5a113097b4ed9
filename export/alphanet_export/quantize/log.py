"""What was tried to make an int8 file, and what came of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from alphanet_export.quantize.judge import Judgement


@dataclass(frozen=True)
class Trial:
    """A way to find ranges, with every layer int8.

    Args:
        method: Its name.
        sqnr_db: Signal to noise of the logits on held-out images, in decibels.
    """

    method: str
    sqnr_db: float


@dataclass(frozen=True)
class Sensitivity:
    """What int8 costs in one layer alone.

    Args:
        layer: Its name.
        macs: Its multiply-accumulates for one image.
        sqnr_db: Signal to noise of the logits where it alone is int8, in decibels.
    """

    layer: str
    macs: int
    sqnr_db: float


@dataclass(frozen=True)
class Step:
    """A verdict of the search.

    Args:
        back_to_float: The layer that went back to float before it; None at first, where all are int8.
        judgement: The verdict.
    """

    back_to_float: str | None
    judgement: Judgement


@dataclass(frozen=True)
class Speed:
    """int8 against float32, timed in turns on one thread by CPU time, one image at a time.

    Args:
        ratio: Median time of int8 over that of float32: below 1 int8 is faster.
        ratio_interval: Its 95 % bootstrap interval.
        median_ms: Of int8.
        float_median_ms: Of float32.
        rounds: How many rounds.
        cpu: The processor's name.
    """

    ratio: float
    ratio_interval: tuple[float, float]
    median_ms: float
    float_median_ms: float
    rounds: int
    cpu: str

    @property
    def slower(self) -> bool:
        """Whether int8 is slower here beyond doubt."""
        return self.ratio_interval[0] > 1


@dataclass(frozen=True)
class QuantizationLog:
    """The whole search.

    Args:
        toolchain: Name and version.
        method: How ranges were found, of `trials` the one with the most signal to noise.
        reduced_range: Whether weights have 7 of 8 bits, see `alphanet_export.quantize.onnx_qdq.saturates`.
        calibration_images: Images that ranges and biases come from.
        held_out_images: Others, that every choice and the verdict come from.
        why_unlabelled: Why accuracy is not judged by labels; empty where it is.
        trials: The methods.
        sensitivity: The layers in the order they run.
        steps: The verdicts in order; the last one is the file's.
        float_layers: Layers that went back to float.
        int8_share: Share of the layers' multiply-accumulates that are int8, 0 to 1.
        speed: Against float32; None where it was not timed.
    """

    toolchain: str
    method: str
    reduced_range: bool
    calibration_images: int
    held_out_images: int
    why_unlabelled: str
    trials: tuple[Trial, ...]
    sensitivity: tuple[Sensitivity, ...]
    steps: tuple[Step, ...]
    float_layers: tuple[str, ...]
    int8_share: float
    speed: Speed | None

    @property
    def verdict(self) -> Judgement:
        """The verdict on the file."""
        return self.steps[-1].judgement

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def summary(self) -> dict[str, Any]:
        """What of it goes into the file's metadata, as ``alphanet.quantization``."""
        slower = self.speed is not None and self.speed.slower
        kept = {key: value for key, value in self.to_dict().items() if key not in ("trials", "sensitivity", "steps")}
        fixed = {"precision": "int8", "activations": "uint8", "weights": "int8, a scale an output channel"}
        return {**fixed, **kept, "verdict": asdict(self.verdict), "slower_than_float32": slower}

    def notes(self) -> list[str]:
        """What a user of the file should know."""
        verdict, notes = (
            self.verdict,
            [f"int8 ({self.method}, {100 * self.int8_share:.1f} % of the MACs): {self.verdict}"],
        )
        if self.why_unlabelled:
            notes.append(f"{self.why_unlabelled}, so int8 is judged by its agreement with float32, not by accuracy")
        if not verdict.sure:
            notes.append(f"a drop above {verdict.max_drop:g} points is not ruled out by {verdict.images} images")
        if self.float_layers:
            notes.append(f"kept in float32: {', '.join(self.float_layers)}")
        if self.reduced_range:
            notes.append("weights have 7 bits, because 8-bit kernels without VNNI saturate (--no-reduce-range gives 8)")
        if self.speed is not None:
            low, high = self.speed.ratio_interval
            word = "SLOWER than" if self.speed.slower else "as fast as" if high > 1 else "faster than"
            notes.append(f"on this machine int8 is {word} float32: {self.speed.ratio:.3f} of its time (95 % interval "
                         f"{low:.3f} to {high:.3f}, one thread)")  # fmt: skip
        return notes
