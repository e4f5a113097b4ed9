"""Accuracy of subnets during a run: each extracted, calibrated and run on the validation images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from alphanet_zoo.data.sources import ImageSource, open_source
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.evaluator import Evaluator, input_of, predictor
from alphanet_zoo.evaluate.multilabel import LabelTally
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.family import Space
from alphanet_zoo.train.build import named_arch
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.runlog import SINGLE


class Validator:
    """Measures subnets of a network in training; the network is not changed.

    Subnets are calibrated and run as `alphanet_zoo.evaluate.evaluator.Evaluator` does for search, export and
    verification: the same images give the same counts. Every process calibrates; the validation images are shared.

    Args:
        config: Config of the run.
        ranks: The processes.
        space: The search space of the networks; None is that of the config.

    Raises:
        UsageError: There are no validation images, their classes differ, or an arch is not in the space.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks, space: Space[Any] | None = None) -> None:
        """Opens the images and checks the names."""
        self._ranks, settings = ranks, config.validation
        space = config.search_space if space is None else space
        self.archs = {Path(name).stem: named_arch(name, space, "validation.archs") for name in settings.archs}
        self._source: ImageSource = open_source(config.data, "val")
        training = open_source(config.data, "train")
        if training.classes != self._source.classes:
            raise UsageError(
                f"The classes of {self._source.name} differ from those of {training.name}. Pass folders with the same "
                "classes."
            )
        self.evaluator = Evaluator(
            self._source, training,
            images=settings.calibration_batches * settings.calibration_batch_size,
            calibration_batch=settings.calibration_batch_size, batch_size=settings.batch_size,
            rank=ranks.rank, world_size=ranks.world_size,
        )  # fmt: skip

    def __call__(self, net: Network, stopped: Callable[[], bool]) -> dict[str, dict[str, float]] | None:
        """Figures of each subnet by its name; None if some process is to stop.

        One class per image: accuracy (0 to 1), correct, images. Several labels: see `LabelTally`.
        """
        archs = self.archs if net.supernet else {SINGLE: net.arch}
        results = {}
        for name, arch in archs.items():
            static = self.evaluator.calibrated(net, arch, stopped=stopped) if net.supernet else net.subnet(arch)
            figures = self._figures(static.eval(), stopped)
            if figures is None:
                return None
            results[name] = figures
        return results

    def _figures(self, static: Network, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """The figures of one subnet, over all processes; None if some process is to stop."""
        labels, ranks = self._source.labels, self._ranks
        if labels.dim() == 1:
            hits = self.evaluator.answers_of(static, stopped=stopped).hits
            if any(ranks.mean([float(stopped())])):
                return None
            counts = torch.tensor([hits.correct, hits.images], dtype=torch.float64, device=ranks.device)
            correct, images = ranks.sum_(counts).tolist()
            return {"accuracy": correct / images, "correct": correct, "images": images}
        tally, predict = LabelTally(*labels.shape), predictor(static)
        for pixels, truth in self.evaluator.batches(input_of(static, static.arch.resolution)):
            if stopped():
                break
            tally.add(predict(pixels), truth)
        return None if any(ranks.mean([float(stopped())])) else tally.figures(ranks)
