import re
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from alphanet_zoo.recipes import shipped_recipes
from alphanet_zoo.space.presets import ALPHANET, SPACES
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.loop import train
from alphanet_zoo.train.optim import peak_learning_rate

RECIPES = shipped_recipes()
IMAGENET = [name for name in RECIPES if name.endswith("_imagenet")]
CIFAR = [name for name in RECIPES if name.startswith("alphanet_cifar10")]


def test_the_shipped_recipes():
    assert RECIPES == [
        "alphanet_cifar10", "alphanet_cifar10_kl", "alphanet_cifar10_no_distill", "alphanet_imagenet",
        "attentive_imagenet", "bignas_imagenet", "digits", "finetune", "no_distill_imagenet", "own_images",
        "slimmable_cifar10", "slimmable_mobilenet_v1_imagenet", "slimmable_mobilenet_v2_imagenet",
    ]  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_valid_and_says_what_it_needs(name):
    config = load_config(name)
    assert config.output == f"runs/{name}"
    header = (resources.files("alphanet_zoo.recipes") / f"{name}.yaml").read_text("utf-8").split("\noutput:")[0]
    for entry in ("Data:", "Hardware:", "Time:", "Result:", "Command:"):
        assert f"# {entry}" in header
    command = header.partition("# Command:")[2]
    assert re.search(
        rf"(alphanet train|-m alphanet_zoo\.cli\.train --config) {name}(?= )|alphanet train {name}$", command, re.M
    )
    if config.space in SPACES:
        assert config.data.image_size >= min(config.search_space.resolution)
    elif config.net is not None:
        assert config.space == "net" and config.data.image_size >= 64 and config.data.transform != "auto"
    else:
        assert (config.data.image_size, config.data.transform) == (0, "auto")


def test_the_published_recipe_is_the_published_one():
    config = load_config("alphanet_imagenet")
    optim, sandwich, data = config.optim, config.sandwich, config.data
    assert SPACES[config.space] == ALPHANET
    assert data.batch_size == 64 * 32 and peak_learning_rate(optim, data.batch_size) == pytest.approx(0.8)
    assert (optim.epochs, optim.warmup_epochs, optim.momentum, optim.weight_decay) == (360, 5, 0.9, 1e-5)
    assert (optim.clip_value, optim.precision, optim.ema_decay) == (1.0, "fp32", None)
    assert (sandwich.random_subnets, sandwich.sampling, sandwich.loss) == (2, "uniform", "adaptive_alpha")
    assert (sandwich.alpha_min, sandwich.alpha_max, sandwich.clip, sandwich.label_smoothing) == (-1.0, 1.0, 5.0, 0.1)
    assert (sandwich.drop_rate, sandwich.drop_path_rate, sandwich.teacher) == (0.2, 0.2, None)
    assert (data.transform, data.autoaugment, data.image_size) == ("imagenet", True, 224)


@pytest.mark.parametrize(("name", "loss"), [("bignas_imagenet", "kl"), ("no_distill_imagenet", "none")])
def test_the_baselines_differ_in_the_loss_only(name, loss):
    assert load_config("alphanet_imagenet").differences(load_config(name)) == [
        f"sandwich.loss: adaptive_alpha -> {loss}"
    ]


@pytest.mark.parametrize(("version", "low"), [("v1", 0.25), ("v2", 0.35)])
def test_the_slimmable_recipes_are_the_published_ones(version, low):
    config = load_config(f"slimmable_mobilenet_{version}_imagenet")
    optim, data = config.optim, config.data
    assert config.net is not None and config.net.widths == (low, 1.0) and config.net.tie == "uniform"
    assert (data.image_size, data.batch_size, optim.epochs, optim.schedule) == (224, 1024, 250, "linear")
    assert peak_learning_rate(optim, data.batch_size) == 0.5 and optim.warmup_epochs == 0


def test_the_cifar_baselines_differ_in_the_loss_alone():
    first, *others = (load_config(name) for name in CIFAR)
    for other in others:
        changed = {re.split(":", text)[0] for text in first.differences(other)}
        assert changed == {"sandwich.loss", "sandwich.clip"}


def image_folder(root, side):
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for index in range(8):
            path = root / split / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return f"data.root={root}"


def short(tmp_path, side):
    return [
        image_folder(tmp_path / "images", side), f"output={tmp_path / 'run'}", "log.progress=false", "data.workers=0",
        "validation.calibration_batches=1", "device=cpu",
    ]  # fmt: skip


@pytest.mark.parametrize("name", CIFAR)
def test_two_steps_of_the_cifar_recipes(name, tmp_path):
    # An epoch is two steps, so that this validates too.
    result = train(load_config(name, [*short(tmp_path, 32), "data.batch_size=4", "max_steps=2"]))
    assert (
        result.step == 2 and '"validation": {"smallest": {"accuracy": ' in (tmp_path / "run" / "log.jsonl").read_text()
    )


@pytest.mark.slow
def test_two_steps_of_the_slimmable_recipe(tmp_path):
    settings = ["data.source=folder", "data.batch_size=4", "max_steps=2"]
    assert train(load_config("slimmable_cifar10", [*short(tmp_path, 32), *settings])).step == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", IMAGENET)
def test_one_step_of_the_imagenet_recipes(name, tmp_path):
    result = train(
        load_config(name, [*short(tmp_path, 256), "data.batch_size=2", "max_steps=1", "validation.every_epochs=0"])
    )
    assert result.step == 1
