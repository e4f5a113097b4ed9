"""F12: a run does not go on with other settings or images than its checkpoint, whatever its folder says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from alphanet_zoo.errors import UsageError
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.loop import train

SETTINGS = ["data.batch_size=8", "data.workers=0", "checkpoint_every_steps=2", "log.progress=false", "device=cpu",
            "validation.every_epochs=0", "data.source=folder", "data.val=train"]  # fmt: skip


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """The folder of a run that stopped at step 2, and its images beside it."""
    draw = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "images" / "train" / label).mkdir(parents=True)
        for number in range(8):
            pixels = draw.integers(0, 256, (16, 16, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / "train" / label / f"{number}.png")
    settings = [*SETTINGS, f"data.root={tmp_path / 'images'}", f"output={tmp_path / 'run'}"]
    train(load_config("digits", [*settings, "max_steps=2"]))
    return tmp_path / "run"


def edited(run: Path) -> None:
    """The config of the run is edited."""
    path = run / "config.yaml"
    assert "lr: 0.06" in path.read_text()
    path.write_text(path.read_text().replace("lr: 0.06", "lr: 0.5"))


def renamed(run: Path) -> None:
    """A class is renamed."""
    (run.parent / "images" / "train" / "cat").rename(run.parent / "images" / "train" / "ant")


def removed(run: Path) -> None:
    """An image is removed."""
    (run.parent / "images" / "train" / "cat" / "0.png").unlink()


def moved(run: Path) -> None:
    """An image has another name."""
    image = run.parent / "images" / "train" / "cat" / "0.png"
    image.rename(image.with_name("9.png"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edited, "optim.lr: 0.06 -> 0.5"),
        (renamed, "the classes of the training images"),
        (removed, "the number of the training images: 16 -> 15"),
        (moved, "the file names of the training images"),
    ],
)
def test_a_run_is_not_resumed_with_other_settings_or_images(
    stopped: Path, change: Callable[[Path], None], told: str
) -> None:
    change(stopped)
    config = load_config(str(stopped / "config.yaml"), ["max_steps=4"])
    with pytest.raises(UsageError, match=told) as caught:
        train(config)
    assert "--resume-anyway" in str(caught.value) and "\n" not in str(caught.value)


def test_without_a_change_it_goes_on(stopped: Path) -> None:
    assert train(load_config(str(stopped / "config.yaml"), ["max_steps=4"])).step == 4
