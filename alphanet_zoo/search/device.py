"""The latency of a device: measured times of the blocks of a space, and the prediction for whole subnets.

Loads no torch. ``alphanet profile`` measures the times and writes ``device.json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.files import replacing
from alphanet_zoo.search.chain import Chain, FloatArray, Rows, case_tables, evaluate
from alphanet_zoo.space.family import Space
from alphanet_zoo.space.shapes import BlockShape, NetShape, strided
from alphanet_zoo.space.space import SearchSpace

VERSION = 1
"""Version of the format of ``device.json``."""
FEWEST_OF_A_RESOLUTION = 3
"""Measured subnets of a resolution for which a factor is fitted."""
_LARGEST = 1e300
"""Numbers in a file are below this, so that their sums are finite."""


@dataclass(frozen=True)
class Part:
    """A part of a network that is measured by itself.

    Args:
        kind: 'stem', 'block' or 'head'.
        sizes: Of a stem its width, stride and the side of its input; of a block its input, middle, output and squeezed
            channels, kernel size, stride, whether it expands (0 or 1) and the side of its input; of a head the width of
            the last stage, the channels before pooling, its own width, the number of classes and the side of its input.
    """

    kind: str
    sizes: tuple[int, ...]

    @property
    def key(self) -> str:
        """Name of the part in ``device.json``, such as ``block-16-64-24-0-3-2-1-112``."""
        return "-".join(map(str, (self.kind, *self.sizes)))

    @classmethod
    def of_key(cls, key: str) -> Part:
        """Inverse of `key`."""
        kind, *sizes = key.split("-")
        return cls(kind, tuple(map(int, sizes)))

    @classmethod
    def stem(cls, width: int, stride: int, size: int) -> Part:
        """A stem; ``size`` is the resolution."""
        return cls("stem", (width, stride, size))

    @classmethod
    def block(cls, shape: BlockShape) -> Part:
        """A block, whatever its place in the network."""
        return cls("block", (shape.in_channels, shape.mid_channels, shape.out_channels, shape.se_channels,
                             shape.kernel_size, shape.stride, int(shape.expand), shape.in_size))  # fmt: skip

    @classmethod
    def head(cls, last: int, features: int, width: int, classes: int, size: int) -> Part:
        """A head: last convolutions, pooling and classifier."""
        return cls("head", (last, features, width, classes, size))


def parts_of(shape: NetShape, num_classes: int) -> list[Part]:
    """The parts of a network, in order."""
    blocks = [Part.block(block) for stage in shape.stages for block in stage]
    last = shape.last_block
    head = Part.head(last.out_channels, shape.num_features, shape.head_channels, num_classes, last.out_size)
    return [Part.stem(shape.stem_channels, shape.stem_stride, shape.resolution), *blocks, head]


def distinct_parts(space: SearchSpace, num_classes: int) -> list[Part]:
    """Every part that occurs in an arch of a space, once."""
    found: dict[Part, None] = {}

    def add(part: Part) -> float:
        found[part] = None
        return 0.0

    _tables(space, num_classes, add)
    return list(found)


def _tables(space: SearchSpace, num_classes: int, time: Any) -> list[FloatArray]:
    """`case_tables` of a function of a part."""
    sides = {strided(side, space.stem_stride): side for side in space.resolution}
    return case_tables(
        space,
        lambda width, size: time(Part.stem(width, space.stem_stride, sides[size])),
        lambda block: time(Part.block(block)),
        lambda last, width, size: time(Part.head(last, space.head_expand * last, width, num_classes, size)),
    )


@dataclass(frozen=True)
class LatencyErrors:
    """Errors of the predictions for random whole subnets that were not used for the fit.

    Args:
        nets: Number of subnets.
        median_percent: Median of the absolute error in percent of the measured latency.
        p90_percent: 90 % of the errors are below this.
        kendall_tau: Rank correlation of predicted and measured latency, from -1 to 1.
    """

    nets: int
    median_percent: float
    p90_percent: float
    kendall_tau: float


@dataclass(frozen=True)
class LatencyModel:
    """Predicts the latency of the subnets of a space on one device.

    The latency of a subnet is ``scale`` times the sum of the times of its parts, plus ``per_part_ms`` for each part;
    this sum times the factor of its resolution, plus ``base_ms``. The numbers correct for what a part costs more or
    less by itself than within a network. That depends on the resolution: for example, OpenVINO's parts at 256 pixels,
    whose sides are powers of two, are relatively slow by themselves.

    Args:
        device: What was measured: processor, system, runtime, threads and versions, ready for JSON.
        space: Name of the space.
        num_classes: Classes of the classifier.
        times_ms: Milliseconds of each part, by `Part.key`.
        scale: See above.
        per_part_ms: See above.
        base_ms: See above.
        by_resolution: The factor of each resolution, by its number of pixels; 1 for those that are missing.
        errors: The errors of the predictions; None if they were not measured.
    """

    device: Mapping[str, Any]
    space: str
    num_classes: int
    times_ms: Mapping[str, float]
    scale: float = 1.0
    per_part_ms: float = 0.0
    base_ms: float = 0.0
    by_resolution: Mapping[str, float] = field(default_factory=dict)
    errors: LatencyErrors | None = None

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> LatencyModel:
        """The model in a file.

        Raises:
            AlphaNetError: The file is not one of ``alphanet profile``, or of another version; or a time in it is not a
                finite number.
        """
        remedy = "write it with alphanet profile"
        try:
            content = json.loads(Path(path).read_text("utf-8"))
            version = content.pop("version")
            if version == VERSION:
                errors = content.pop("errors")
                model = cls(errors=None if errors is None else LatencyErrors(**errors), **content)
                model._check()
                return model
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise AlphaNetError(f"{path} is not a latency model ({error}); {remedy}") from error
        raise AlphaNetError(f"{path} has version {version} of the format, and this package reads {VERSION}; {remedy}")

    def _check(self) -> None:
        """Raises ValueError if a value is not of its kind, or not finite."""
        numbers = {f"the time of {key}": time for key, time in self.times_ms.items()}
        numbers |= {name: getattr(self, name) for name in ("num_classes", "scale", "per_part_ms", "base_ms")}
        numbers |= {f"the factor of resolution {key}": factor for key, factor in self.by_resolution.items()}
        numbers |= {} if self.errors is None else asdict(self.errors)
        for name, value in numbers.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
                raise ValueError(f"{name} is {value!r:.80}, which is not a number")
        if not isinstance(self.device, Mapping) or not isinstance(self.space, str):
            raise ValueError("device is not a mapping, or space is not a name")

    def described(self) -> dict[str, Any]:
        """What was measured, and the errors of the predictions, ready for JSON."""
        return {**self.device, "errors": None if self.errors is None else asdict(self.errors)}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the model to a JSON file."""
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"version": VERSION, **asdict(self)}, indent=1) + "\n", "utf-8")

    def latency(self, shape: NetShape) -> float:
        """Predicted milliseconds of a network."""
        factor = self.by_resolution.get(str(shape.resolution), 1.0)
        return self.base_ms + factor * sum(map(self._time, parts_of(shape, self.num_classes)))

    def costs(self, space: Space[Any], num_classes: int) -> Any:
        """The latency of many archs, as a `alphanet_zoo.search.costs.Cost`.

        Raises:
            UsageError: The model does not have all parts of the space.
        """
        if not isinstance(space, SearchSpace):
            raise UsageError(f"latency models are for AlphaNets; {space.name} is another family: limit --macs instead")
        tables = _tables(space, num_classes, self._time)
        for row, resolution in enumerate(space.resolution):
            for table in tables:
                table[row] *= self.by_resolution.get(str(resolution), 1.0)
        tables[0] += self.base_ms
        chain = Chain.of(space)

        def latency(rows: Rows) -> FloatArray:
            return evaluate(chain, tables, rows)

        return latency

    def _time(self, part: Part) -> float:
        """Milliseconds of a part within a network."""
        if part.key not in self.times_ms:
            raise UsageError(
                f"the latency model is for the space {self.space} with {self.num_classes} classes, and has no "
                f"{part.key}; run alphanet profile for this supernet (--supernet)"
            )
        return self.scale * self.times_ms[part.key] + self.per_part_ms


def fit_model(
    device: Mapping[str, Any],
    space: SearchSpace,
    num_classes: int,
    times_ms: Mapping[str, float],
    fitted: Mapping[tuple[Part, ...], float],
    checked: Mapping[tuple[Part, ...], float],
) -> LatencyModel:
    """The latency model of measured times.

    Args:
        device: See `LatencyModel`.
        space: The space.
        num_classes: Classes of the classifier.
        times_ms: Milliseconds of each part.
        fitted: Milliseconds of whole subnets that the corrections are fitted to, by their parts.
        checked: Milliseconds of other whole subnets, for the errors.

    Source: Lawson and Hanson, "Solving least squares problems", 1974 (non-negative least squares).
    """
    from scipy.optimize import nnls
    from scipy.stats import kendalltau

    def features(parts: tuple[Part, ...]) -> list[float]:
        return [sum(times_ms[part.key] for part in parts), float(len(parts)), 1.0]

    def resolution(parts: tuple[Part, ...]) -> str:
        return str(parts[0].sizes[2])

    scale, per_part, base, factors = 1.0, 0.0, 0.0, dict[str, float]()
    if len(fitted) >= 3:
        measured = np.array(list(fitted.values()))
        x = np.array([features(parts) for parts in fitted])
        scale, per_part, base = (float(w) for w in nnls(x / measured[:, None], np.ones(len(x)))[0])  # Relative errors.
        ratios: dict[str, list[float]] = {}
        for parts, ratio in zip(fitted, (measured - base) / (x[:, :2] @ [scale, per_part]), strict=True):
            ratios.setdefault(resolution(parts), []).append(float(ratio))
        factors = {key: fmean(found) for key, found in sorted(ratios.items()) if len(found) >= FEWEST_OF_A_RESOLUTION}
    model = LatencyModel(dict(device), space.name, num_classes, dict(times_ms), scale, per_part, base, factors)
    if not checked:
        return model
    truth = np.array(list(checked.values()))
    sums = [np.dot(features(parts)[:2], [scale, per_part]) * factors.get(resolution(parts), 1.0) for parts in checked]
    predicted = np.array(sums) + base
    relative = 100 * np.abs(predicted - truth) / truth
    tau = float(kendalltau(predicted, truth).statistic) if len(truth) > 1 else 1.0
    tau = 0.0 if np.isnan(tau) else tau  # All predictions are equal, so they order nothing.
    errors = LatencyErrors(len(truth), float(np.median(relative)), float(np.quantile(relative, 0.9)), tau)
    return replace(model, errors=errors)
