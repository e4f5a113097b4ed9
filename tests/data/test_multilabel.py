import csv
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from alphanet_zoo.cli.train import main
from alphanet_zoo.data.folder import MultiLabelSource
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.multilabel import LabelTally, average_precision
from alphanet_zoo.nn.losses import AdaptiveAlphaDivergence, BinaryCrossEntropy, KLDistillation, PerLabel
from alphanet_zoo.train.build import build_losses, chance_loss
from alphanet_zoo.train.config import load_config
from alphanet_zoo.train.distributed import Ranks
from alphanet_zoo.train.loop import train
from alphanet_zoo.zoo.files import load_net
from tests.train.pair import torchrun

LABELS = ["red", "green", "a blue one"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Plain pictures whose colours are their labels: any of three, or none."""
    folder = tmp_path_factory.mktemp("colours")
    rng = np.random.default_rng(0)
    for split, count in (("train", 64), ("val", 30)):
        with_header = [["image", *LABELS]]
        for index in range(count):
            present = rng.integers(0, 2, 3)
            path = folder / split / f"{index % 2}" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((present * 200 + rng.integers(0, 50, (16, 16, 3))).astype(np.uint8)).save(path)
            with_header.append([f"{index % 2}/{index}.png", *present])
        with (folder / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(with_header)
    return folder


def settings(root, output, *overrides):
    return [f"data.root={root}", f"output={output}", "data.source=multilabel", "data.batch_size=16", "optim.epochs=8",
            "optim.warmup_epochs=1", "optim.lr=0.1", "log.every_steps=4", "log.progress=false", "device=cpu",
            *overrides]  # fmt: skip


@pytest.mark.parametrize("loss", ["adaptive_alpha", "none"])
def test_the_command_trains_and_validates_a_supernet(loss, root, tmp_path, capsys):
    overrides = settings(root, tmp_path / "run", f"sandwich.loss={loss}", "validation.every_epochs=8",
                         "sandwich.label_smoothing=0", "validation.calibration_batches=4")  # fmt: skip
    assert main(["--config", "digits", *overrides]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    first, last, validation = lines[0]["subnets"], lines[-2]["subnets"], lines[-1]["validation"]
    assert set(first["largest"]) == {"loss", "label_accuracy"} and "divergence_alpha_max" in first["smallest"]
    assert first["largest"]["loss"] == pytest.approx(math.log(2), abs=0.1)
    assert last["largest"]["loss"] < 0.3 and last["largest"]["label_accuracy"] > 0.8
    for figures in validation.values():
        assert set(figures) == {"mean_average_precision", "label_accuracy", "labels_measured", "images"}
        assert figures["mean_average_precision"] > 0.9 and (figures["labels_measured"], figures["images"]) == (3, 30)
    printed = capsys.readouterr().out
    assert "largest: mean average precision 9" in printed or "largest: mean average precision 100.0%" in printed
    assert "next: alphanet export-supernet" in printed
    cfg = load_net(tmp_path / "run" / "final" / "model.safetensors").pretrained_cfg
    assert cfg["label_names"] == tuple(LABELS) and cfg["multi_label"] is True


def test_the_losses_are_binary_a_label_at_a_time(root, tmp_path):
    student, teacher = torch.randn(5, 3), torch.randn(5, 3)
    targets = torch.randint(0, 2, (5, 3), dtype=torch.uint8)
    losses = build_losses(load_config("digits", settings(root, tmp_path, "sandwich.loss=kl")), LABELS, student.device)
    smoothed = 0.9 * targets.float() + 0.05
    torch.testing.assert_close(losses.label(student, targets), F.binary_cross_entropy_with_logits(student, smoothed))
    soft = F.binary_cross_entropy_with_logits(student, teacher.sigmoid())
    torch.testing.assert_close(losses.distillation(student, teacher), soft)
    torch.testing.assert_close(losses.teacher_distance(student, teacher), soft)
    assert build_losses(load_config("digits", settings(root, tmp_path, "sandwich.loss=none")), LABELS,
                        student.device).distillation is None  # fmt: skip
    extreme = torch.tensor([[1e30, -1e30, 0.0]], requires_grad=True)
    for loss in (PerLabel(KLDistillation()), PerLabel(AdaptiveAlphaDivergence())):
        value = loss(extreme, -extreme.detach())
        (gradient,) = torch.autograd.grad(value, extreme)
        assert value.isfinite() and gradient.isfinite().all()
    with pytest.raises(ValueError, match="smoothing"):
        BinaryCrossEntropy(1.0)


def test_the_guess_is_that_of_the_labels_shares():
    labels = torch.tensor([[1, 0], [0, 0], [0, 0], [0, 0]], dtype=torch.uint8)
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert chance_loss(labels, 2, 0.0) == pytest.approx(entropy / 2)
    shares = torch.tensor([[0.9 * 0.25 + 0.05, 0.05]])
    constant = BinaryCrossEntropy(0.1)(shares.logit().expand(4, 2), labels)
    assert chance_loss(labels, 2, 0.1) == pytest.approx(float(constant))
    assert chance_loss(labels, 2, 0.1) < float(BinaryCrossEntropy(0.1)(shares.logit().expand(4, 2) + 0.1, labels))
    assert chance_loss(torch.arange(4), 4, 0.1) == math.log(4)


def test_average_precision_is_scikit_learns():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 12, (60, 5)).astype(np.float32), rng.random((60, 5)) < 0.2
    labels[:, 4] = False
    ours = average_precision(torch.from_numpy(scores), torch.from_numpy(labels))
    for label in range(4):
        assert float(ours[label]) == pytest.approx(average_precision_score(labels[:, label], scores[:, label]))
    assert math.isnan(ours[4])


def test_the_ranking_is_over_the_images_of_all_processes():
    logits, labels = torch.randn(7, 3), torch.randint(0, 2, (7, 3), dtype=torch.uint8)
    labels[:2] = torch.tensor([[1, 1, 1], [0, 0, 0]])

    class Shared(Ranks):
        """Two processes, of which this one plays both: sums wait for the other's part."""

        def sum_(self, tensor):
            parts.append(tensor.clone())
            return sum(parts)

    whole, parts = LabelTally(7, 3), []
    whole.add(logits, labels)
    expected = whole.figures(Ranks(0, 1, logits.device))
    for rank in range(2):
        tally = LabelTally(7, 3)
        tally.add(logits[rank::2], labels[rank::2])
        figures = tally.figures(Shared(rank, 2, logits.device))
    assert figures == expected


def test_images_that_were_left_out_do_not_count():
    logits, labels = torch.randn(5, 2), torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0]], dtype=torch.uint8)
    complete, partial, alone = LabelTally(5, 2), LabelTally(7, 2), Ranks(0, 1, torch.device("cpu"))
    complete.add(logits, labels)
    partial.add(logits, labels)
    assert partial.figures(alone) == complete.figures(alone) and complete.figures(alone)["images"] == 5


@pytest.mark.slow
def test_two_processes_learn_and_validate_as_one_that_accumulates(root, tmp_path):
    rest = ["validation.every_epochs=2", "validation.calibration_batches=4", "optim.epochs=2",
            "sandwich.drop_rate=0", "sandwich.drop_path_rate=0"]  # fmt: skip
    torchrun("-m", "alphanet_zoo.cli.train", "--config", "digits", *settings(root, tmp_path / "pair", *rest))
    alone = train(load_config("digits", settings(root, tmp_path / "alone", *rest, "optim.accumulate=2")))
    ours, theirs = load_net(tmp_path / "pair" / "final" / "model.safetensors"), load_net(alone.model)
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, theirs.state_dict()[name], rtol=1e-5, atol=1e-5)
    logs = [(tmp_path / name / "log.jsonl").read_text().splitlines() for name in ("pair", "alone")]
    (pair, single) = (json.loads(log[-1])["validation"] for log in logs)
    assert pair.keys() == single.keys() and pair
    for name, figures in pair.items():
        assert figures["images"] == 30 and figures == pytest.approx(single[name], abs=1e-5)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "no such file"),
        ("", "not a header"),
        ("\n", "not a header"),
        ("picture,red\n0/0.png,1\n", "not a header"),
        ("image,red,red\n0/0.png,1,1\n", "not a header"),
        ("image,red\n", "names no images"),
        ("image,red\n0/0.png,1\n0/0.png,2\n", "row 3"),
        ("image,red\n0/0.png\n", "row 2"),
        ("image,red\n0/0.png,0\n", "has no 1 in any row"),
        ("image,red\n0/0.png,1\nnowhere.png,1\n", "names 1 images that are not in"),
    ],
)
def test_a_table_that_is_none_is_refused(text, named, root, tmp_path, capsys):
    (tmp_path / "train").symlink_to(root / "train")
    if text is not None:
        (tmp_path / "train.csv").write_text(text)
    assert main(["--config", "digits", *settings(tmp_path, tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_source_reads_images_in_the_tables_order(root):
    source = MultiLabelSource(root / "val", root / "val.csv")
    assert source.classes == LABELS and source.labels.shape == (30, 3) and source.labels.dtype == torch.uint8
    bright = source.load(3).float().mean((1, 2)) > 100
    assert bright.tolist() == source.labels[3].bool().tolist()
    with pytest.raises(UsageError, match="hold_out"):
        load_config("digits", ["data.source=multilabel", "data.root=x", "data.hold_out=3"])
