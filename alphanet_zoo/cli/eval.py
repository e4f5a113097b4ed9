"""``alphanet eval``: the accuracy of a network on labelled images, in PyTorch."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass

from alphanet_zoo.cli.arguments import existing_path, percentage, positive_int
from alphanet_zoo.cli.command import CommandParser, note, say
from alphanet_zoo.errors import AccuracyError, UsageError
from alphanet_zoo.files import EXPORTED_ENDINGS

EPILOG = """examples:
  %(prog)s alphanet_c10_m --data cifar10/val
  %(prog)s runs/mine --data my_images/val --min-top1 90
  %(prog)s runs/digits --arch best.json --calib-data runs/digits-data/train --data runs/digits-data/test

The images are one folder per class, preprocessed as in training and export. Exit code 4 if top-1 is below --min-top1.
For an exported file, use alphanet verify, which also measures parity, latency and memory."""


def make_parser(prog: str = "alphanet eval") -> CommandParser:
    """The command's parser."""
    parser = CommandParser(prog, "Measure the accuracy of a network on labelled images.", epilog=EPILOG)
    add = parser.add_argument
    add("network", metavar="NAME|PATH", help="a model by name, a .safetensors file, a save_pretrained folder, the "
        "folder of a training run, or a Hub repository")  # fmt: skip
    add("--data", required=True, type=existing_path, metavar="FOLDER", help="images, one folder per class")
    add("--labels-by-position", action="store_true", help="class i of --data is output i of the network, whatever "
        "their names (default: matched by name, unless the network has no labels)")  # fmt: skip
    add("--arch", metavar="JSON|NAME", help="the subnet to evaluate, if the network is a supernet")
    add("--calib-data", type=existing_path, metavar="FOLDER", help="training images, one folder per class, to compute "
        "the batch-norm statistics of that subnet from")  # fmt: skip
    add("--min-top1", type=percentage, metavar="PERCENT", help="minimum top-1; below it the exit code is 4")
    add(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to run (default: a GPU if there is one)",
    )
    add("--threads", type=positive_int, metavar="N", help="CPU threads (default: OMP_NUM_THREADS, or one per core)")
    add("--batch-size", type=positive_int, default=128, metavar="N", help="images per batch (default: 128)")
    add("--json", action="store_true", help="print JSON")
    return parser


@dataclass(frozen=True)
class Evaluation:
    """The accuracy of a network.

    Attributes:
        network: What was evaluated.
        data: Folder of the images.
        images: Number of images.
        resolution: Side of the input in pixels.
        top1: Top-1 accuracy in percent.
        top1_interval: Its 95 % Wilson interval, in percent.
        top5: Top-5 accuracy in percent; None with at most five classes.
        nll: Mean negative log-likelihood of the true class, in nats.
        ece: Expected calibration error, 15 bins, in percent.
    """

    network: str
    data: str
    images: int
    resolution: int
    top1: float
    top1_interval: tuple[float, float]
    top5: float | None
    nll: float
    ece: float

    def __str__(self) -> str:
        """A table."""
        low, high = self.top1_interval
        rows = {
            "network": f"{self.network}, {self.resolution} x {self.resolution} pixels",
            "images": f"{self.images:,} of {self.data}",
            "top-1": f"{self.top1:.2f} % (95 % interval {low:.2f} to {high:.2f})",
            **({} if self.top5 is None else {"top-5": f"{self.top5:.2f} %"}),
            "NLL": f"{self.nll:.4f} nats per image (negative log-likelihood of the true class)",
            "ECE": f"{self.ece:.2f} % (expected calibration error)",
        }
        return "\n".join(f"{key + ':':<10}{value}" for key, value in rows.items())


def run(args: argparse.Namespace) -> int:
    """Evaluates the network and prints the result."""
    if args.network.lower().endswith(EXPORTED_ENDINGS):
        raise UsageError(f"{args.network} is an exported file; measure it with alphanet verify {args.network} --data "
                         f"{args.data}")  # fmt: skip
    if not args.data.is_dir():
        raise UsageError(f"--data {args.data} is not a folder; pass one that has a folder of images for each class")
    measured, suspicion = _evaluated(args)
    say(json.dumps(asdict(measured), indent=1) if args.json else str(measured), required=True)
    if suspicion is not None:
        note(args.prog, f"warning: {suspicion}")
    if args.min_top1 is not None and measured.top1 < args.min_top1:
        raise AccuracyError(f"top-1 is {measured.top1:.2f} %; the minimum is {args.min_top1:g} % (--min-top1)")
    return 0


def _evaluated(args: argparse.Namespace) -> tuple[Evaluation, str | None]:
    """The accuracy, and a warning if it may be chance."""
    import torch

    from alphanet_zoo.data.folder import FolderSource
    from alphanet_zoo.evaluate.diagnostics import reliability
    from alphanet_zoo.evaluate.evaluator import Evaluator
    from alphanet_zoo.evaluate.statistics import wilson_interval
    from alphanet_zoo.predict.classifier import static_subnet
    from alphanet_zoo.train.distributed import find_device
    from alphanet_zoo.zoo.open import open_net

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = find_device(args.device)
    opened = open_net(args.network)
    net = static_subnet(opened.net.to(device), args.arch, args.calib_data, args.network).eval()
    if net.pretrained_cfg.get("multi_label"):
        raise UsageError(f"{args.network} predicts several labels per image; alphanet train validates such networks")
    images = FolderSource(args.data)
    evaluator = Evaluator(images, labels_by_position=args.labels_by_position, batch_size=args.batch_size)
    answers = evaluator.answers_of(net)
    hits = answers.hits
    low, high = wilson_interval(hits.correct, hits.images)
    among = (answers.best == answers.classes.unsqueeze(1)).any(dim=1)
    return Evaluation(
        network=opened.source,
        data=str(args.data),
        images=hits.images,
        resolution=net.arch.resolution,
        top1=100 * hits.accuracy,
        top1_interval=(100 * low, 100 * high),
        top5=100 * float(among.double().mean()) if net.num_classes > 5 else None,
        nll=-float(answers.log_likelihood.double().mean()),
        ece=100 * reliability(answers.confidence, answers.right).expected_calibration_error,
    ), hits.suspicion(net.num_classes)
