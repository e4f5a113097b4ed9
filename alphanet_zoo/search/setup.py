"""The images and the scorer of a search, and the settings that its scores depend on."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alphanet_zoo import __version__
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import ImageSource, split_hold_out, spread
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.evaluate.evaluator import Evaluator
from alphanet_zoo.evaluate.pixels import PixelStore
from alphanet_zoo.nn.family import Network
from alphanet_zoo.search.scorer import NetScore, Scorer, digest_of_images, digest_of_net, load_score, mixed
from alphanet_zoo.train.config import TrainConfig
from alphanet_zoo.train.folder import stored_config
from alphanet_zoo.zoo.files import is_run

TEST_NAMES = ("test", "testing", "tests")
"""Names of folders of test images."""
MOST_HELD_OUT = 10_000


@dataclass(frozen=True, eq=False)
class SearchImages:
    """The images of a search.

    Args:
        calibration: Training images for batch-norm statistics.
        validation: Images to score on.
        hold_out: Number of training images that are held out; 0 if the validation images are others.
        are_test: Whether the validation images are in a folder named test.
        notes: Remarks for the user.
    """

    calibration: ImageSource
    validation: ImageSource
    hold_out: int = 0
    are_test: bool = False
    notes: list[str] = field(default_factory=list)


def search_images(supernet: Path, data: Path | None, calibration: Path | None, hold_out: int | None) -> SearchImages:
    """The images that the options of ``alphanet search`` name.

    Args:
        supernet: The supernet's file or run, whose ``data.hold_out`` is the default of ``hold_out``.
        data: Validation images; without ``calibration`` training images, or a folder with ``train``.
        calibration: Training images.
        hold_out: Number of training images to validate on.

    Raises:
        UsageError: A folder has no images, or too few to hold any out.
    """
    if data is not None and calibration is not None:
        validation = FolderSource(data)
        if Path(data).resolve() == Path(calibration).resolve():
            remark = (
                f"warning: {data} is also the folder of the training images, so the accuracies are too high; pass "
                "validation images that the supernet was not trained on, or --hold-out N instead of --data"
            )
            return SearchImages(FolderSource(calibration), validation, notes=[remark])
        if Path(data).resolve().name.lower() not in TEST_NAMES:
            return SearchImages(FolderSource(calibration), validation)
        remark = (
            f"warning: {data} is named test. A search on the images that the accuracy is reported on overstates it; "
            "validate on training images that were held out instead (--hold-out). The result records this."
        )
        return SearchImages(FolderSource(calibration), validation, are_test=True, notes=[remark])
    folder = calibration or data
    assert folder is not None
    training = FolderSource(training_folder(folder))
    run = _run_of(supernet)
    trained = None if run is None else run.data.hold_out or None
    number = hold_out or trained or min(MOST_HELD_OUT, len(training) // 10)
    if number < 1:
        raise UsageError(f"{training.name} has {len(training)} images, too few to hold out a tenth; pass --hold-out N")
    rest, held_out = split_hold_out(training, number)
    notes = []
    if hold_out is not None and run is not None and hold_out > (trained or 0):
        remedy = f"--hold-out {trained}, or " if trained else ""
        notes.append(
            f"warning: the supernet was trained with data.hold_out={trained or 0}, so some or all of the {number} "
            f"validation images are among its training images, and the accuracies are too high; pass {remedy}other "
            "validation images (--data)"
        )
    if hold_out is None and trained is None:
        notes.append(
            f"note: validating on {number} of the {len(training)} training images, and calibrating on the others; if "
            "the supernet was trained on all of them, the accuracies are too high. Train with data.hold_out=N, and "
            "pass --hold-out N"
        )
    return SearchImages(rest, held_out, number, notes=notes)


def training_folder(folder: Path) -> Path:
    """``train`` in a folder, or the folder itself if there is none."""
    return folder / "train" if (folder / "train").is_dir() else folder


def _run_of(supernet: Path) -> TrainConfig | None:
    """The config of the training run that a supernet belongs to; None without a run that can be read."""
    for folder in (supernet, *supernet.resolve().parents[:2]):
        if folder.is_dir() and is_run(folder):
            try:
                return stored_config(folder)
            except (AlphaNetError, ValueError):  # Written by another version: the caller's default applies.
                return None
    return None


def make_scorer(
    supernet: Network,
    images: SearchImages,
    *,
    calibration_images: int,
    limit: int | None = None,
    batch_size: int = 128,
    labels_by_position: bool = False,
    score: str | NetScore | None = None,
    halving: bool = True,
) -> tuple[Scorer, dict[str, Any]]:
    """The scorer of a search, and the settings that its scores depend on, ready for JSON.

    All preprocessed images are kept, so each is decoded once per resolution.

    Args:
        supernet: A trained supernet.
        images: The images.
        calibration_images: Maximum number of calibration images per subnet.
        limit: Maximum number of validation images, spread over the classes; None is all.
        batch_size: Validation images per batch.
        labels_by_position: Match the classes of the images to outputs by position.
        score: The user's score, a function or ``package.module:function``; None is the top-1 accuracy.
        halving: Stop scoring a subnet that is clearly behind.

    Raises:
        UsageError: The score cannot be loaded, or the classes of the images are not the supernet's.
    """
    validation = mixed(spread(images.validation, limit))
    evaluator = Evaluator(
        validation, images.calibration, images=calibration_images, batch_size=batch_size,
        labels_by_position=labels_by_position, store=PixelStore(),
    )  # fmt: skip
    function = load_score(score) if isinstance(score, str) else score
    scorer = Scorer(supernet, evaluator, score=function, halving=halving)
    settings = {
        "version": __version__,
        "supernet_sha256": digest_of_net(supernet),
        "space": supernet.space.name,
        "num_classes": supernet.num_classes,
        "calibration": {"images": min(calibration_images, len(images.calibration)),
                        "sha256": digest_of_images(images.calibration)},
        **_measure(score, function, validation, images, halving, labels_by_position),
    }  # fmt: skip
    return scorer, settings


def _measure(
    score: str | NetScore | None,
    function: NetScore | None,
    validation: ImageSource,
    images: SearchImages,
    halving: bool,
    by_position: bool,
) -> Mapping[str, Any]:
    """The settings of the measure: the validation images, or the user's function with the digest of its source."""
    if function is not None:
        try:
            source = inspect.getsource(inspect.getmodule(function) or function)
        except (OSError, TypeError):
            source = ""
        name = score if isinstance(score, str) else f"{function.__module__}:{getattr(function, '__qualname__', '')}"
        return {"score": name, "score_sha256": hashlib.sha256(source.encode()).hexdigest()}
    return {
        "score": "top-1 accuracy",
        "halving": halving,
        "labels_by_position": by_position,
        "validation": {"images": len(validation), "held_out": images.hold_out, "sha256": digest_of_images(validation)},
    }
