"""Accuracy of subnets while a run goes: each extracted, calibrated and run on the validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from alphanet_zoo.data.batches import TrainingBatches, evaluation_batches
from alphanet_zoo.data.draws import torch_seed
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource, open_source
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.tally import ClassTally, LabelTally, Tally
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import SPACES
from alphanet_zoo.train.build import image_cfg, named_arch
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import Ranks


class Validator:
    """Measures subnets of a net in training; the net is not changed.

    A subnet is calibrated on varied training images, the same ones at every validation and on every process; the
    validation images are shared out. They reach the net at ``data.image_size``, which it resizes.

    Args:
        config: The run's.
        ranks: The processes.

    Raises:
        UsageError: There are no validation images, or they have other classes; an arch is not of the space.
    """

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        """Opens the validation images and checks the names."""
        self._config, self._ranks, space = config, ranks, SPACES[config.space]
        self.archs = {name: named_arch(name, space) for name in config.validation.archs}
        self._source: ImageSource = open_source(config.data, "val")
        preprocessing = Preprocessing.from_cfg(image_cfg(config))
        self._preprocessing = preprocessing.for_size(config.data.image_size)
        training = open_source(config.data, "train")
        if training.classes != self._source.classes:
            raise UsageError(f"{self._source.name} has other classes than {training.name}; give the same folders")
        settings = {"batch_size": min(config.validation.calibration_batch_size, len(training.labels)), "workers": 0}
        self._calibration = TrainingBatches(
            config.data.model_copy(update=settings), preprocessing, torch_seed(config.seed, "calibration")
        )

    def __call__(self, net: AlphaNet, stopped: Callable[[], bool]) -> dict[str, dict[str, float]] | None:
        """Figures of each subnet by its name, as a `Tally` gives them; None where some process is to stop."""
        archs = self.archs if net.supernet else {"subnet": net.arch}
        results = {}
        for name, arch in archs.items():
            figures = self._figures(net, arch, stopped)
            if figures is None:
                return None
            results[name] = figures
        return results

    def _figures(self, net: AlphaNet, arch: ArchSpec, stopped: Callable[[], bool]) -> dict[str, float] | None:
        """What one arch scores, over all processes."""
        static, all_labels = net.extract(arch), self._source.labels
        if net.supernet and not stopped():
            calibrate(static, self._calibration_images(stopped))
        static.eval()
        tally: Tally = ClassTally() if all_labels.dim() == 1 else LabelTally(*all_labels.shape)
        for pixels, labels in evaluation_batches(
            self._source, self._preprocessing, self._config.validation.batch_size,
            rank=self._ranks.rank, world_size=self._ranks.world_size,
        ):  # fmt: skip
            if stopped():
                break
            with torch.inference_mode():
                tally.add(static(pixels.to(self._ranks.device)), labels)
        return None if any(self._ranks.mean([float(stopped())])) else tally.figures(self._ranks)

    def _calibration_images(self, stopped: Callable[[], bool]) -> Iterator[Tensor]:
        """Batches of varied training images; only the first where the run is to stop."""
        for index in range(self._config.validation.calibration_batches):
            yield self._calibration.batch(index, self._ranks.device).images
            if stopped():
                return
