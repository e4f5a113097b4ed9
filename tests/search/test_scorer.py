import numpy as np
import pytest
import torch

from alphanet_zoo.data.sources import ImageSource
from alphanet_zoo.evaluate.evaluator import Evaluator
from alphanet_zoo.evaluate.pixels import PixelStore
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.search.scorer import Reference, Scorer, counts, is_behind, mixed, reference_of
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY


class Noise:
    """Random images; counts how often each is decoded."""

    name, classes = "noise", ["a", "b"]

    def __init__(self, images):
        self.labels = torch.arange(images) * 2 // images
        self.loads = np.zeros(images, dtype=int)

    def __len__(self):
        return len(self.labels)

    def load(self, index):
        self.loads[index] += 1
        rng = np.random.default_rng(index)
        return torch.from_numpy(rng.integers(0, 256, (3, 16, 16), dtype=np.uint8))


def scorer(images=512, **more):
    source: ImageSource = Noise(images)
    evaluator = Evaluator(mixed(source), source, images=64, batch_size=64, store=PixelStore(memory=100_000))
    return source, Scorer(fill_live(build_supernet(TINY, 2)), evaluator, **more)


def test_images_are_decoded_once_per_resolution_and_kept_also_on_disk():
    source, score = scorer()
    archs = [TINY.smallest, TINY.sample(np.random.default_rng(0))]
    first = [score(arch) for arch in archs]
    decoded = source.loads.sum()
    again = [score(arch) for arch in archs]
    assert source.loads.sum() == decoded
    assert [each["right"] for each in again] == [each["right"] for each in first]


def test_leading_parts_of_mixed_images_are_balanced():
    labels = mixed(Noise(100)).labels
    assert sorted(labels.tolist()) == [0] * 50 + [1] * 50
    assert all(abs(int(labels[:n].sum()) - n / 2) <= 1 for n in range(1, 100))


def test_a_subnet_that_is_clearly_behind_is_not_scored_to_the_end():
    _, score = scorer()
    whole = score(TINY.smallest)
    perfect = Reference(np.ones(512, dtype=bool))
    stopped = score(TINY.smallest, perfect)
    assert whole["complete"] and not stopped["complete"] and stopped["images"] == 128
    assert stopped["score"] == pytest.approx(stopped["correct"] / 128)
    assert score(TINY.smallest, reference_of(whole))["complete"]
    _, never = scorer(halving=False)
    assert never(TINY.smallest, perfect)["complete"]


def test_the_results_of_each_image_are_kept():
    right = np.random.default_rng(0).random(77) < 0.5
    assert (reference_of({**counts(right), "complete": True}).right == right).all()
    assert reference_of({"score": 1.0, "complete": True}) is None


def test_only_a_significant_difference_is_behind():
    better = np.arange(200) < 150
    assert is_behind(np.arange(200) < 130, better)
    assert not is_behind(np.arange(200) < 147, better) and not is_behind(better, np.arange(200) < 130)
