"""The calibration plan: how batch-norm statistics are computed. It is stored with the statistics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from alphanet_zoo.data.calibration import BATCH_SIZE, PUBLISHED_IMAGES, calibration_pixels
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.pixels import PixelStore
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.config import Calibration
from alphanet_zoo.nn.family import Network
from alphanet_zoo.space.family import Arch, Space
from alphanet_zoo.space.presets import ALPHANET


@dataclass(frozen=True)
class CalibrationPlan:
    """The training images of a calibration, their batches and their preprocessing.

    Args:
        preprocessing: Preprocessing of an image; its ``input_size`` is the side of the network's input in pixels.
        images: Maximum number of images.
        batch_size: Maximum number of images per batch; all batches have the same size up to one image.
        seed: Seed of the selection, order and augmentation of the images.
        augment: Use the ImageNet training transform instead of the centre crop of the evaluation.

    Source: docs/specification.md, section 3, "Batch norm".
    """

    preprocessing: Preprocessing
    images: int = PUBLISHED_IMAGES
    batch_size: int = BATCH_SIZE
    seed: int = 0
    augment: bool = False

    @classmethod
    def of_record(cls, record: Calibration) -> CalibrationPlan | None:
        """The plan in a calibration record; None if the record has none (written by an older version).

        Raises:
            ValueError: The plan is not valid.
        """
        plan = record.get("plan") if isinstance(record, Mapping) else None
        if plan is None:
            return None
        try:
            return cls(**{**plan, "preprocessing": Preprocessing.from_dict(plan["preprocessing"])})
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"not a calibration plan: {plan!r} ({error})") from error

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `of_record` is the inverse."""
        return {**asdict(self), "preprocessing": self.preprocessing.to_dict()}

    def images_of(self, source: ImageSource, *, store: PixelStore | None = None) -> CalibrationImages:
        """The preprocessed images of a source; ``store`` keeps them for further networks."""
        return CalibrationImages(self, source, store=store)


class CalibrationImages:
    """The batches of a plan, read from a source; iterates over ``(N, 3, S, S)`` tensors.

    Args:
        plan: The plan.
        source: Training images.
        store: Keeps the batches when they are read for the first time; None reads them for every network.

    Attributes:
        selection: SHA-256 of the decoded images in their order, before preprocessing; set when the batches have been
            read.
    """

    def __init__(self, plan: CalibrationPlan, source: ImageSource, *, store: PixelStore | None = None) -> None:
        """Reads no image."""
        self.plan, self.selection, self._store = plan, "", store
        self._source, self._kept = source, list[Tensor]()

    def __iter__(self) -> Iterator[Tensor]:
        """The batches, in the plan's order."""
        if self._kept:
            yield from map(self.plan.preprocessing.normalise, self._kept)
            return
        read, plan, kept = _Recorded(self._source), self.plan, list[Tensor]()
        for batch in calibration_pixels(
            read, plan.preprocessing, images=plan.images, batch_size=plan.batch_size, seed=plan.seed,
            augment=plan.augment,
        ):  # fmt: skip
            kept += [] if self._store is None else [self._store.kept(batch)]
            yield plan.preprocessing.normalise(batch)
        self.selection, self._kept = read.digest.hexdigest(), kept

    def calibrate(self, net: Network, *, stopped: Callable[[], bool] = bool) -> Network:
        """Sets the statistics of a static net, and its ``calibration`` to the record, which includes the plan.

        Args:
            net: A static net; it is changed and returned in eval mode.
            stopped: Called after every batch; if it returns True, calibration ends early, with incomplete statistics.

        Raises:
            AlphaNetError: Too many images are broken.
        """
        calibrate(net, _until(stopped, self))
        assert isinstance(net.calibration, dict)
        net.calibration = {**net.calibration, "selection": self.selection, "plan": self.plan.to_dict()}
        return net


def default_augment(space: Space[Any]) -> bool:
    """Whether calibration images are augmented by default: only in the ImageNet space, as published."""
    return space == ALPHANET


def check_statistics(net: Network, arch: Arch | None = None) -> None:
    """Checks that a net's batch-norm statistics allow its use without calibration.

    Raises:
        UsageError: They are not set, or are slices of a supernet other than the published checkpoint's.
    """
    remedy = "pass training images with --calib-data FOLDER (in Python: calib_data or calib_batches)"
    if net.calibration is None:
        raise UsageError(
            f"batch-norm statistics are not set, so outputs are meaningless; {remedy}, or create the network with "
            "pretrained=True or weights="
        )
    sliced = net.calibration == "sliced" or net.supernet or arch not in (None, net.arch)
    if sliced and net.calibration != "checkpoint":
        raise UsageError(
            f"batch-norm statistics are slices of a larger network's, which are not valid for a subnet; {remedy}"
        )


def recalibrate(net: Network, record: Calibration, source: ImageSource) -> Network:
    """Recomputes the statistics of a static net from a calibration record, and checks that the images are the same.

    Args:
        net: A static net of the same arch as the record's; it is changed.
        record: ``calibration`` of another network or exported file.
        source: The training images of the record.

    Raises:
        UsageError: The record has no plan, or ``source`` does not have its images.
    """
    plan = CalibrationPlan.of_record(record)
    if plan is None or not isinstance(record, Mapping):
        raise UsageError(
            "The calibration record has no plan (an older version wrote it), so the statistics cannot be computed "
            "again. Export the network again, or pass a reference that is calibrated already."
        )
    plan.images_of(source).calibrate(net)
    found = net.calibration
    assert isinstance(found, Mapping)
    if found["selection"] != record["selection"]:
        raise UsageError(
            f"The images in {source.name} are not those of the calibration record (SHA-256 of the images differs). "
            "Pass the folder that was used for --calib-data at export."
        )
    if found["digest"] != record["digest"]:
        raise UsageError(
            f"The images in {source.name} are those of the calibration record, but their preprocessed pixels differ: "
            "another version of Pillow or PyTorch prepared them. Use the versions that the file records."
        )
    return net


def _until(stopped: Callable[[], bool], batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """The batches up to the first one after which ``stopped`` returns True."""
    for batch in batches:
        yield batch
        if stopped():
            return


class _Recorded:
    """A source that hashes the images that are read from it, in order."""

    def __init__(self, source: ImageSource) -> None:
        """Reads no image."""
        self._source, self.digest = source, hashlib.sha256()
        self.name, self.classes, self.labels = source.name, source.classes, source.labels

    def __len__(self) -> int:
        """The number of images."""
        return len(self._source)

    def load(self, index: int) -> Tensor:
        """See `ImageSource`."""
        image = self._source.load(index)
        self.digest.update(str(tuple(image.shape)).encode())
        self.digest.update(image.contiguous().numpy().tobytes())
        return image
