import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.calibration import BATCH_SIZE, calibration_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import split_hold_out
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate import subnets as evaluate
from alphanet_zoo.evaluate.subnets import Hits, SubnetEvaluator, count_hits
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.init import fill_live
from alphanet_zoo.nn.model import build_supernet
from alphanet_zoo.space.presets import ALPHANET_TINY as TINY


def write_images(root, count, classes=("dark", "light")):
    rng = np.random.default_rng(count)
    for index in range(count):
        level = index % len(classes)
        path = root / classes[level] / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = rng.integers(0, 100, (16, 16), dtype=np.uint8) + np.uint8(120 * (level > 0))
        Image.fromarray(image).save(path)
    return FolderSource(root)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    return write_images(root / "train", 30), write_images(root / "val", 14)


@pytest.fixture(scope="module")
def supernet():
    """A live supernet whose classifier is fitted to tell dark from light."""
    return fill_live(build_supernet(TINY, 2))


def test_a_score_is_the_accuracy_after_calibration(supernet, folders):
    evaluator = SubnetEvaluator(supernet, *folders, batch_size=4)
    score = evaluator(TINY.smallest)
    net = evaluator.calibrated(TINY.smallest)
    assert net.calibration["images"] == 30 and net.calibration["batches"] == 1
    pixels, labels = next(evaluation_batches(folders[1], evaluator._preprocessing(TINY.smallest.resolution), 14))
    with torch.no_grad():
        correct = int((net(pixels).argmax(1) == labels).sum())
    assert evaluator.results == {TINY.smallest: Hits(correct, 14)} and score == correct / 14


def test_images_come_at_the_subnets_resolution_and_statistics_from_all_classes(supernet, folders):
    evaluator = SubnetEvaluator(supernet, *folders)
    (pixels,) = calibration_batches(folders[0], evaluator._preprocessing(12), images=None, seed=0)
    assert pixels.shape == (30, 3, 12, 12)
    expected = calibrate(supernet.extract(TINY.smallest), [pixels])
    assert torch.equal(evaluator.calibrated(TINY.smallest).bn1.running_var, expected.bn1.running_var)


def test_an_arch_is_measured_once(supernet, folders, monkeypatch):
    evaluator = SubnetEvaluator(supernet, *folders)
    first = evaluator(TINY.smallest)
    monkeypatch.setattr(evaluate, "count_hits", None)
    assert evaluator(TINY.smallest) == first


def test_images_are_read_again_where_they_do_not_fit_into_memory(supernet, folders, monkeypatch):
    kept = SubnetEvaluator(supernet, *folders)(TINY.largest)
    monkeypatch.setattr(evaluate, "CACHE_LIMIT", 0)
    evaluator = SubnetEvaluator(supernet, *folders)
    assert evaluator(TINY.largest) == kept and not evaluator._kept


def test_other_images_can_be_measured(supernet, folders, tmp_path):
    evaluator = SubnetEvaluator(supernet, *folders)
    assert evaluator.measure(TINY.smallest, folders[1]).accuracy == evaluator(TINY.smallest)
    assert evaluator.measure(TINY.smallest, write_images(tmp_path, 6)).images == 6


def test_classes_that_are_not_the_nets_are_refused(supernet, folders, tmp_path):
    three = write_images(tmp_path / "three", 6, ("dark", "light", "other"))
    with pytest.raises(UsageError, match="3 classes .*the model has 2"):
        SubnetEvaluator(supernet, folders[0], three)
    named = fill_live(build_supernet(TINY, 2))
    named.pretrained_cfg["label_names"] = ("cat", "dog")
    with pytest.raises(UsageError, match="not labels of the model: dark, light.*labels: cat, dog"):
        SubnetEvaluator(named, *folders)


def test_classes_are_outputs_by_name_or_on_request_by_position(supernet, folders):
    named = fill_live(build_supernet(TINY, 2))
    named.pretrained_cfg["label_names"] = ("light", "dark")
    swapped, plain = SubnetEvaluator(named, *folders), SubnetEvaluator(supernet, *folders)
    assert plain(TINY.smallest) + swapped(TINY.smallest) == 1.0
    by_position = SubnetEvaluator(named, *folders, labels_by_position=True)
    assert by_position(TINY.smallest) == plain(TINY.smallest)
    assert by_position.measure(TINY.smallest, folders[1]) == by_position.results[TINY.smallest]
    assert swapped.with_supernet(supernet)(TINY.smallest) == plain(TINY.smallest)


def test_hits_count_the_right_answers():
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, pixels):
            return pixels[:, :, 0, 0]

    pixels = torch.zeros(4, 3, 1, 1)
    pixels[torch.arange(4), torch.tensor([0, 1, 2, 2])] = 1.0
    hits = count_hits(Fixed(), [(pixels[:3], torch.tensor([0, 1, 0])), (pixels[3:], torch.tensor([2]))])
    assert hits == Hits(3, 4) and hits.accuracy == 0.75


def test_another_supernet_is_measured_on_the_same_images_read_once(supernet, folders, monkeypatch):
    other = fill_live(build_supernet(TINY, 2), seed=7)
    expected = SubnetEvaluator(other, *folders)
    expected(TINY.smallest)
    first = SubnetEvaluator(supernet, *folders)
    first(TINY.smallest)
    monkeypatch.setattr(FolderSource, "load", None)
    second = first.with_supernet(other)
    assert second(TINY.smallest) == expected.results[TINY.smallest].accuracy
    assert second.results == expected.results and second.hits(second.calibrated(TINY.smallest)).images == 14
    assert first.supernet is supernet and list(first.results) == [TINY.smallest]
    other.pretrained_cfg = {**other.pretrained_cfg, "crop_pct": 0.5}
    with pytest.raises(ValueError, match="prepare images in different ways"):
        first.with_supernet(other)


def test_two_parts_of_a_folder_are_kept_apart(supernet, folders):
    rest, held = split_hold_out(folders[0], 10)
    evaluator = SubnetEvaluator(supernet, rest, held, batch_size=BATCH_SIZE)
    evaluator(TINY.smallest)
    assert evaluator.results[TINY.smallest].images == 10
    assert evaluator.calibrated(TINY.smallest).calibration["images"] == 20
