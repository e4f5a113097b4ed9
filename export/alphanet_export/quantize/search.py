"""The search for an int8 model that keeps the accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from alphanet_export.onnx_model import FloatArray
from alphanet_export.quantize.images import QuantImages, spread
from alphanet_export.quantize.judge import judge
from alphanet_export.quantize.layers import share_of_macs
from alphanet_export.quantize.log import QuantizationLog, Sensitivity, Speed, Step, Trial
from alphanet_export.quantize.toolchain import Toolchain
from alphanet_export.verify.environment import cpu_name
from alphanet_export.verify.measure.ab import CPU_TIME, interleave
from alphanet_export.verify.measure.parity import sqnr_db
from alphanet_zoo.errors import AccuracyError
from alphanet_zoo.evaluate.statistics import median_ratio_interval

PROBE_IMAGES = 64
"""Held-out images that methods and layers are compared on."""
LEAST_INT8 = 0.5
"""Share of the multiply-accumulates that must stay int8 for a file to be called so."""
TIMING_ROUNDS = 30
TIMING_SECONDS = 2.0


def find_int8(
    toolchain: Toolchain, images: QuantImages, *, max_drop: float = 0.5, time_it: bool = True
) -> tuple[Any, QuantizationLog]:
    """Chooses how to find ranges, then takes layers back to float until the accuracy is kept.

    The method is the one with the most signal to noise of the logits. Layers are ranked by the same figure where each
    alone is int8, and go back to float, the worst first, until the drop in top-1 on the held-out images is at most
    ``max_drop`` points (see `alphanet_export.quantize.judge.Judgement`).

    Args:
        toolchain: Of one float32 graph.
        images: In two parts.
        max_drop: Points of top-1 that may be lost.
        time_it: Also time it against float32.

    Returns:
        The toolchain's model, and the log of the search.

    Raises:
        AccuracyError: The drop is too large even with half of the multiply-accumulates in float.
    """
    expected = toolchain.runner(None)(images.held_out)
    method, trials, sensitivity = _sensitivities(toolchain, spread(images.held_out, PROBE_IMAGES))
    worst_first = [entry.layer for entry in sorted(sensitivity, key=lambda entry: entry.sqnr_db)]
    steps: list[Step] = []
    for in_float in (worst_first[:count] for count in range(len(worst_first) + 1)):
        kept = [layer.name for layer in toolchain.layers if layer.name not in in_float]
        share = share_of_macs(toolchain.layers, kept)
        if share < LEAST_INT8:
            break
        model = toolchain.build(method, kept)
        verdict = judge(expected, toolchain.runner(model)(images.held_out), images.classes, max_drop)
        steps.append(Step(in_float[-1] if in_float else None, verdict))
        if verdict.within:
            return model, QuantizationLog(
                toolchain=toolchain.title, method=method, reduced_range=toolchain.reduced,
                calibration_images=len(images.calibration), held_out_images=len(images.held_out),
                why_unlabelled=images.why_unlabelled, trials=trials, sensitivity=sensitivity, steps=tuple(steps),
                float_layers=tuple(layer.name for layer in toolchain.layers if layer.name in in_float),
                int8_share=share, speed=measure_speed(toolchain, model, images.held_out[:1]) if time_it else None,
            )  # fmt: skip
    best = min((step.judgement for step in steps), key=lambda verdict: verdict.drop)
    raise AccuracyError(
        f"int8 loses more than {max_drop:g} points even with {len(steps) - 1} of {len(worst_first)} layers in float32 "
        f"({best}); raise --max-drop, give more images with --calib-data, or export float32"
    )


def _sensitivities(toolchain: Toolchain, probe: FloatArray) -> tuple[str, tuple[Trial, ...], tuple[Sensitivity, ...]]:
    """The method with the least noise on the images ``probe``, all methods, and with that one each layer alone."""
    expected = toolchain.runner(None)(probe)

    def noise(method: str, names: Sequence[str]) -> float:
        return sqnr_db(expected, toolchain.runner(toolchain.build(method, names))(probe))

    everything = [layer.name for layer in toolchain.layers]
    trials = tuple(Trial(method, noise(method, everything)) for method in toolchain.methods)
    method = max(trials, key=lambda trial: trial.sqnr_db).method
    alone = (Sensitivity(layer.name, layer.macs, noise(method, [layer.name])) for layer in toolchain.layers)
    return method, trials, tuple(alone)


def measure_speed(toolchain: Toolchain, model: Any, image: FloatArray, rounds: int = TIMING_ROUNDS) -> Speed:
    """Times a model and the float32 one in turns, on one thread, by CPU time.

    Args:
        toolchain: Of both.
        model: The int8 one.
        image: ``(1, 3, S, S)``.
        rounds: Rounds at least; they go on for `TIMING_SECONDS`.
    """

    def of(each: Any) -> Callable[[], object]:
        run = toolchain.runner(each, threads=1)
        return lambda: run(image)

    times = interleave({"int8": of(model), "float": of(None)}, rounds=rounds, seconds=TIMING_SECONDS, clock=CPU_TIME)
    median, float_median = float(np.median(times["int8"])), float(np.median(times["float"]))
    return Speed(
        ratio=median / float_median,
        ratio_interval=median_ratio_interval(times["int8"], times["float"]),
        median_ms=median,
        float_median_ms=float_median,
        rounds=len(times["int8"]),
        cpu=cpu_name(),
    )
