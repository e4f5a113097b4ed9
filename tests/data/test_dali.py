"""DALI itself, on the CPU, in a process of its own: it brings 600 MB, which the project's environment does without."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

BATCHES = """
import sys
import numpy as np
from alphanet_zoo.data.batches import TrainingBatches
from alphanet_zoo.data.config import DataConfig
from alphanet_zoo.data.preprocess import Preprocessing

root, output = sys.argv[1:]
meant = Preprocessing(64, 64, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
found = {}
for engine in ("torch", "dali"):
    for autoaugment in (False, True):
        config = DataConfig(root=root, image_size=64, batch_size=4, transform="imagenet", engine=engine,
                            autoaugment=autoaugment)
        batches = list(TrainingBatches(config, meant, 0).stream(1, 5))
        name = f"{engine}-{autoaugment}"
        found[f"{name}-images"] = np.stack([batch.images.numpy() for batch in batches])
        found[f"{name}-labels"] = np.stack([batch.labels.numpy() for batch in batches])
        found[f"{name}-indices"] = np.stack([batch.indices for batch in batches])
np.savez(output, **found)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a process that finds DALI."""
    folder = tmp_path_factory.mktemp("dali")
    words = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder)]
    ran = subprocess.run([sys.executable, *words, "nvidia-dali-cuda130==2.4.0"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return os.environ | {"PYTHONPATH": str(folder)}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders with parts of two photographs, of different sizes: 10 to learn from and 4 to validate on."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, photograph in zip(("temple", "flower"), load_sample_images().images, strict=True):
        for index in range(7):
            path = folder / ("train" if index < 5 else "val") / name / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(photograph[20 * index : 20 * index + 230, 40 * index : 40 * index + 300]).save(path)
    return folder


def run(*words: str | Path, environment: dict[str, str]) -> str:
    ran = subprocess.run([sys.executable, *map(str, words)], env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout


def test_order_crops_flips_and_labels_are_those_of_the_default_engine(environment, photographs, tmp_path):
    run("-c", BATCHES, photographs, tmp_path / "batches.npz", environment=environment)
    found = np.load(tmp_path / "batches.npz")
    for suffix in ("labels", "indices"):
        for autoaugment in (False, True):
            np.testing.assert_array_equal(found[f"dali-{autoaugment}-{suffix}"], found[f"torch-{autoaugment}-{suffix}"])
    step = 1 / 255 / 0.225  # One of 256 levels, normalised.
    plain, ours = found["dali-False-images"], found["torch-False-images"]
    assert plain.dtype == np.float32 and plain.shape == ours.shape == (4, 4, 3, 64, 64)
    assert np.abs(plain - ours).mean() < 0.5 * step
    varied = found["dali-True-images"]
    assert np.isfinite(varied).all() and np.abs(varied - plain).mean() > 5 * step


def test_the_command_trains_with_it(environment, photographs, tmp_path):
    settings = [f"data.root={photographs}", "data.source=folder", "data.engine=dali", "data.transform=imagenet",
                "data.rotate_degrees=0", "data.shift=0", "data.zoom=0", "data.autoaugment=true", "data.batch_size=4",
                "optim.epochs=2", "optim.warmup_epochs=0.5", "log.progress=false", "device=cpu"]  # fmt: skip
    output = tmp_path / "run"
    run("-m", "alphanet_zoo.cli.train", "--config", "digits", f"output={output}", *settings, environment=environment)
    assert (output / "final" / "model.safetensors").is_file()
