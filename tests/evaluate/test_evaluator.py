"""The one class that judges networks, and the calibration plan that travels with their statistics."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import split_hold_out, subset
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate import evaluator as module
from alphanet_zoo.evaluate.calibration import CalibrationPlan, recalibrate
from alphanet_zoo.evaluate.evaluator import Answers, Evaluator, Hits, SubnetEvaluator, input_of
from alphanet_zoo.nn.calibration import calibrate
from alphanet_zoo.nn.config import as_calibration
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
    return write_images(root / "val", 14), write_images(root / "train", 30)


@pytest.fixture(scope="module")
def supernet():
    return fill_live(build_supernet(TINY, 2))


def test_a_score_is_the_accuracy_after_calibration(supernet, folders):
    evaluator = Evaluator(*folders, batch_size=4)
    subnets = SubnetEvaluator(supernet, evaluator)
    score, net = subnets(TINY.smallest), evaluator.calibrated(supernet, TINY.smallest)
    assert net.calibration["images"] == 30 and net.calibration["batches"] == 1
    pixels, labels = zip(*evaluator.batches(input_of(net, 12)), strict=True)
    with torch.no_grad():
        correct = int((net(torch.cat(pixels)).argmax(1) == torch.cat(labels)).sum())
    assert subnets.results == {TINY.smallest: Hits(correct, 14)} and score == correct / 14


def test_the_plan_gives_the_batches_that_the_statistics_come_from(supernet, folders):
    evaluator = Evaluator(*folders, images=16, calibration_batch=8, seed=5)
    plan = evaluator.plan(supernet, TINY.smallest)
    assert (plan.images, plan.batch_size, plan.seed, plan.augment) == (16, 8, 5, False)
    assert plan.preprocessing == input_of(supernet, TINY.smallest.resolution)
    batches = list(plan.images_of(folders[1]))
    assert [tuple(batch.shape) for batch in batches] == [(8, 3, 12, 12)] * 2
    expected = calibrate(supernet.extract(TINY.smallest), batches)
    assert torch.equal(evaluator.calibrated(supernet, TINY.smallest).bn1.running_var, expected.bn1.running_var)


@pytest.mark.parametrize("settings", [{}, {"seed": 9}, {"augment": True}, {"images": 16, "calibration_batch": 8}])
def test_a_record_reproduces_the_statistics_whatever_its_plan(supernet, folders, settings):
    net = Evaluator(None, folders[1], **settings).calibrated(supernet, TINY.smallest)
    record = as_calibration(json.loads(json.dumps(net.calibration)))
    again = recalibrate(supernet.extract(TINY.smallest), record, folders[1])
    assert again.calibration == net.calibration
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in net.state_dict().items())


def test_other_images_are_refused(supernet, folders):
    net = Evaluator(None, folders[1]).calibrated(supernet, TINY.smallest)
    fresh = supernet.extract(TINY.smallest)
    with pytest.raises(UsageError, match="are not those of the calibration record"):
        recalibrate(fresh, net.calibration, subset(folders[1], range(29)))
    with pytest.raises(UsageError, match="preprocessed pixels differ"):
        recalibrate(fresh, {**net.calibration, "digest": "0" * 64}, folders[1])


def test_a_record_of_an_older_version_loads_and_says_that_it_has_no_plan(supernet, folders):
    record = as_calibration({"images": 30, "batches": 1, "digest": "0" * 64})
    assert CalibrationPlan.of_record(record) is None
    with pytest.raises(UsageError, match="has no plan"):
        recalibrate(supernet.extract(TINY.smallest), record, folders[1])
    with pytest.raises(ValueError, match="not a calibration plan"):
        CalibrationPlan.of_record({**record, "selection": "", "plan": {"images": 3}})


def test_an_arch_is_measured_once(supernet, folders, monkeypatch):
    subnets = SubnetEvaluator(supernet, Evaluator(*folders))
    first = subnets(TINY.smallest)
    monkeypatch.setattr(Evaluator, "answers", None)
    assert subnets(TINY.smallest) == first


def test_images_are_read_once_if_they_fit_into_memory(supernet, folders, monkeypatch):
    kept = Evaluator(*folders)
    scores = [SubnetEvaluator(supernet, kept)(arch) for arch in (TINY.largest, TINY.smallest)]
    monkeypatch.setattr(module, "CACHE_LIMIT", 0)
    assert SubnetEvaluator(supernet, Evaluator(*folders))(TINY.largest) == scores[0]
    other = fill_live(build_supernet(TINY, 2), seed=7)
    expected = SubnetEvaluator(other, Evaluator(*folders))(TINY.smallest)
    monkeypatch.setattr(FolderSource, "load", None)
    assert [SubnetEvaluator(supernet, kept)(arch) for arch in (TINY.largest, TINY.smallest)] == scores
    assert SubnetEvaluator(other, kept)(TINY.smallest) == expected


def test_classes_that_are_not_the_nets_are_refused(supernet, folders, tmp_path):
    three = write_images(tmp_path / "three", 6, ("dark", "light", "other"))
    with pytest.raises(UsageError, match="3 classes .*the model has 2"):
        SubnetEvaluator(supernet, Evaluator(three, folders[1]))
    named = fill_live(build_supernet(TINY, 2))
    named.pretrained_cfg["label_names"] = ("cat", "dog")
    with pytest.raises(UsageError, match="not labels of the model: dark, light.*labels: cat, dog"):
        SubnetEvaluator(named, Evaluator(*folders))


def test_classes_are_outputs_by_name_or_on_request_by_position(supernet, folders):
    named = fill_live(build_supernet(TINY, 2))
    named.pretrained_cfg["label_names"] = ("light", "dark")
    plain = SubnetEvaluator(supernet, Evaluator(*folders))(TINY.smallest)
    assert plain + SubnetEvaluator(named, Evaluator(*folders))(TINY.smallest) == 1.0
    by_position = Evaluator(*folders, labels_by_position=True)
    assert SubnetEvaluator(named, by_position)(TINY.smallest) == plain


def test_two_processes_share_the_images(supernet, folders):
    net = Evaluator(*folders).calibrated(supernet, TINY.smallest)
    shares = [Evaluator(folders[0], rank=rank, world_size=2).answers_of(net).hits for rank in (0, 1)]
    whole = Evaluator(folders[0]).answers_of(net).hits
    assert sum(s.correct for s in shares) == whole.correct and [s.images for s in shares] == [7, 7]


def test_two_parts_of_a_folder_are_kept_apart(supernet, folders):
    rest, kept = split_hold_out(folders[1], 10)
    evaluator = Evaluator(kept, rest)
    net = evaluator.calibrated(supernet, TINY.smallest)
    assert evaluator.answers_of(net).hits.images == 10 and net.calibration["images"] == 20


def test_a_signal_ends_an_evaluation(supernet, folders):
    evaluator = Evaluator(*folders, calibration_batch=8, batch_size=4)
    net = evaluator.calibrated(supernet, TINY.smallest, stopped=lambda: True)
    assert net.calibration["batches"] == 1 and evaluator.answers_of(net, stopped=lambda: True).hits.images == 0


def test_hits_near_chance_are_suspicious():
    answers = Answers.of(torch.eye(10)[torch.tensor([0, 1, 2])], torch.tensor([0, 1, 1]))
    assert answers.right.tolist() == [True, True, False] and answers.hits == Hits(2, 3)
    assert "top-1 14.00 % is near chance (10.00 %)" in Hits(14, 100).suspicion(10)
    assert Hits(30, 100).suspicion(10) is None and Hits(3, 3).suspicion(1) is None
