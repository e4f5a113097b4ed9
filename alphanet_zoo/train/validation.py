"""Accuracy of subnets while a run goes: each extracted, calibrated and run on the validation images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from alphanet_zoo.errors import UsageError
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.presets import SPACES
from alphanet_zoo.train.build import image_cfg, named_arch
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.draws import torch_seed
from alphanet_zoo.train.loader import TrainingBatches, evaluation_batches
from alphanet_zoo.train.sources import ImageSource, open_source
from alphanet_zoo.zoo.preprocess import Preprocessing


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
        """Accuracy and number of images by the arch's name; None where some process is to stop."""
        archs = self.archs if net.supernet else {"subnet": net.arch}
        results = {}
        for name, arch in archs.items():
            counts = self._counts(net, arch, stopped)
            if counts is None:
                return None
            results[name] = {"accuracy": counts[0] / counts[1], "images": counts[1]}
        return results

    def _counts(self, net: AlphaNet, arch: ArchSpec, stopped: Callable[[], bool]) -> tuple[float, float] | None:
        """Right answers and images of one arch over all processes."""
        static = net.extract(arch)
        if net.supernet and not stopped():
            calibrate(static, self._calibration_images(stopped))
        correct = images = 0
        for pixels, labels in evaluation_batches(
            self._source, self._preprocessing, self._config.validation.batch_size,
            rank=self._ranks.rank, world_size=self._ranks.world_size,
        ):  # fmt: skip
            if stopped():
                break
            correct += _right_answers(static.eval(), pixels.to(self._ranks.device), labels)
            images += len(labels)
        figures = torch.tensor([correct, images, stopped()], dtype=torch.float64, device=self._ranks.device)
        right, total, stops = self._ranks.sum_(figures).tolist()
        return None if stops else (right, total)

    def _calibration_images(self, stopped: Callable[[], bool]) -> Iterator[Tensor]:
        """Batches of varied training images; only the first where the run is to stop."""
        for index in range(self._config.validation.calibration_batches):
            yield self._calibration.batch(index, self._ranks.device).images
            if stopped():
                return


@torch.inference_mode()
def _right_answers(net: AlphaNet, images: Tensor, labels: Tensor) -> int:
    """How many images have their label's logit as the largest."""
    return int((net(images).argmax(1).cpu() == labels).sum())
