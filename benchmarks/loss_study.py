"""Two studies on a small supernet: the distillation losses, and progressive resolution.

    python benchmarks/loss_study.py --data cifar10.tar.gz --work WORK

trains CIFAR-10 supernets of `SPACE` with several seeds each:

* adaptive alpha-divergence, KL divergence, and no distillation (labels only), for the same number of steps;
* adaptive alpha with `sandwich.resolution_schedule`, and, as a control, without it for half the epochs.

Each run is tested on the 10,000 test images with five subnets: the smallest, three random ones (the same in every run)
and the largest. The figures of a subnet are its top-1 accuracy, negative log-likelihood (NLL), expected calibration
error (ECE, 15 bins) and entropy gap: the mean entropy of its predictions minus that of the largest subnet, its teacher.
A positive gap means that the student is less certain than the teacher. Nothing is tuned for a variant: all settings
that `VARIANTS` does not name are those of the recipe `alphanet_cifar10` and of `SETTINGS`.

Results in WORK/results: `study.json`, `study.md` and `study.png`, rewritten after each run. The tables contain means
with 95 % intervals over the seeds, and the paired differences from adaptive alpha with the same seed. Start the same
command in several processes to use several cores: each run is trained by one of them. With --time-limit, the script
stops in time and prints "RESUME ME"; run the same command again to continue. Time is measured in CPU seconds of the
training process, which a loaded machine changes less than wall-clock time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import yaml
from cifar_family import probes, test_evaluator
from cifar_report import spread
from cifar_work import RECIPE, Work, open_work, resume_me
from torch import Tensor

from alphanet_zoo.cli.arguments import existing_path, natural_int, positive_float, positive_int
from alphanet_zoo.cli.command import CommandParser, run_command
from alphanet_zoo.evaluate.diagnostics import reliability
from alphanet_zoo.evaluate.evaluator import Evaluator, predictor
from alphanet_zoo.files import replacing
from alphanet_zoo.locks import locked_folder
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.train.loop import train
from alphanet_zoo.zoo.open import open_net

SPACE: dict[str, Any] = {
    "name": "study",
    "resolution": [16, 24, 32],
    "stem_width": [16, 24],
    "stem_stride": 2,
    "stages": [
        {"name": "mb1", "width": [16, 24], "depth": [1, 2], "kernel_size": [3, 5], "expand_ratio": [1],
         "stride": 1, "se": False},
        {"name": "mb2", "width": [24, 32], "depth": [1, 2, 3], "kernel_size": [3, 5], "expand_ratio": [3, 4],
         "stride": 2, "se": False},
        {"name": "mb3", "width": [40, 56], "depth": [1, 2, 3], "kernel_size": [3, 5], "expand_ratio": [3, 4],
         "stride": 2, "se": True},
        {"name": "mb4", "width": [72, 96], "depth": [1, 2], "kernel_size": [3, 5], "expand_ratio": [3, 4],
         "stride": 1, "se": True},
    ],
    "head_width": [256, 320],
}  # fmt: skip
"""The search space of both studies."""

SETTINGS = (
    "data.engine=device", "data.autoaugment=false", "data.erasing=0", "data.workers=0", "data.hold_out=0",
    "data.batch_size=128", "optim.precision=fp32",
    "optim.warmup_epochs=1", "sandwich.drop_rate=0", "sandwich.drop_path_rate=0", "validation.every_epochs=0",
    "validation.archs=[]", "checkpoint_every_steps=200", "log.every_steps=50", "device=cpu", "optim.kernels=compiled",
)  # fmt: skip
VARIANTS: dict[str, tuple[float, tuple[str, ...]]] = {
    "adaptive alpha": (1.0, ()),
    "KL": (1.0, ("sandwich.loss=kl",)),
    "none": (1.0, ("sandwich.loss=none",)),
    "adaptive alpha, half the epochs": (0.5, ()),
    "adaptive alpha, progressive": (1.0, ("sandwich.resolution_schedule=[[0.5,16],[0.3,24],[0.2,32]]",)),
}
"""Share of the epochs, and settings, of each variant."""
RECORD = "record.json"
"""File in the folder of a run with its figures; written when the run is complete."""


def study(arguments: argparse.Namespace) -> int:
    """Runs what is missing and no other process runs, in the order of the seeds; writes the results after each run."""
    work = open_work(arguments)
    space = work.folder / "space.yaml"
    with replacing(space) as temporary:
        temporary.write_text(yaml.safe_dump(SPACE, sort_keys=False), "utf-8")
    evaluator, elsewhere = test_evaluator(work, arguments.calib_images), 0
    for seed in arguments.seeds:
        for variant in VARIANTS:
            name = f"{variant.replace(', ', '-').replace(' ', '-')}-{arguments.epochs}-{seed}"
            (claim := work.folder / "claims" / name).mkdir(parents=True, exist_ok=True)
            try:
                with locked_folder(claim):
                    if not (work.folder / "runs" / name / RECORD).exists():
                        step = one_run(work, work.folder / "runs" / name, space, variant, seed, arguments, evaluator)
                        if step is not None:
                            return resume_me(f"{len(records_of(work, arguments.epochs))} runs are complete; {name} is "
                                             f"at step {step}")  # fmt: skip
            except BlockingIOError:
                elsewhere += 1
    if elsewhere:
        print(f"{elsewhere} runs were left to other processes")
    if records_of(work, arguments.epochs):
        write_results(work, arguments.epochs)
        print((work.results / "study.md").read_text("utf-8"), end="")
    return 0


def one_run(
    work: Work, output: Path, space: Path, variant: str, seed: int, arguments: argparse.Namespace, evaluator: Evaluator
) -> int | None:
    """Trains and tests one run, and writes its record; returns the step at which the time limit stopped it, or None."""
    share, settings = VARIANTS[variant]
    epochs = max(round(share * arguments.epochs), 1)
    own = (f"space={space}", f"seed={seed}", f"optim.epochs={epochs}", *SETTINGS, *settings)
    began = time.process_time()
    result = train(work.config(RECIPE, output, *own), time_limit=work.seconds_left)
    seconds = added_seconds(output / "cpu_seconds.json", time.process_time() - began)
    if result.model is None:
        return result.step
    rows = measured(open_net(output).net, evaluator)
    record = {"variant": variant, "seed": seed, "epochs": arguments.epochs, "cpu_seconds": seconds, "subnets": rows}
    with replacing(output / RECORD) as temporary:
        temporary.write_text(json.dumps(record), "utf-8")
    write_results(work, arguments.epochs)
    print(f"{variant}, seed {seed}, {seconds:.0f} s:", ", ".join(f"{r['top1']:.2f}" for r in rows), flush=True)
    return None


def records_of(work: Work, epochs: int) -> list[dict[str, Any]]:
    """The records of the complete runs of this length, in the order of the variants and seeds."""
    found = [json.loads(path.read_text("utf-8")) for path in work.folder.glob(f"runs/*/{RECORD}")]
    chosen = [record for record in found if record["epochs"] == epochs]
    return sorted(chosen, key=lambda record: (list(VARIANTS).index(record["variant"]), record["seed"]))


def write_results(work: Work, epochs: int) -> None:
    """Writes the tables and the figure of the complete runs."""
    records = records_of(work, epochs)
    work.write("study.json", records)
    work.write("study.md", table(records))
    draw(records, work.results / "study.png")


def added_seconds(path: Path, seconds: float) -> float:
    """Adds CPU seconds to those that a file records; returns the sum."""
    total = seconds + (json.loads(path.read_text("utf-8")) if path.exists() else 0.0)
    path.write_text(json.dumps(total), "utf-8")
    return total


def measured(supernet: AlphaNet, evaluator: Evaluator) -> list[dict[str, Any]]:
    """The figures of the five subnets on the test images; see the module's description."""
    archs = probes(supernet.space)
    rows = {name: figures_of(evaluator.calibrated(supernet, arch), evaluator) for name, arch in archs.items()}
    teacher = rows["largest"]["entropy"]
    return [{"name": name, **row, "entropy_gap": row["entropy"] - teacher} for name, row in rows.items()]


def figures_of(net: AlphaNet, evaluator: Evaluator) -> dict[str, float]:
    """Cost, accuracy and uncertainty of a calibrated subnet on the test images."""
    predict, entropies = predictor(net), []

    def logits_of(pixels: Tensor) -> Tensor:
        logits = predict(pixels)
        log_probabilities = logits.log_softmax(dim=1)
        entropies.append(-(log_probabilities.exp() * log_probabilities).sum(dim=1))
        return logits

    answers = evaluator.answers(
        logits_of, evaluator.plan(net).preprocessing, net.num_classes, net.pretrained_cfg.get("label_names")
    )
    return {
        "macs": count_macs(net.arch, net.space, net.num_classes),
        "top1": 100 * answers.hits.accuracy,
        "nll": -float(answers.log_likelihood.mean()),
        "ece": 100 * reliability(answers.confidence, answers.right).expected_calibration_error,
        "entropy": float(torch.cat(entropies).mean()),
    }


FIGURES = {"top1": "top-1, %", "nll": "NLL, nats", "ece": "ECE, %", "entropy_gap": "entropy gap, nats"}
"""Columns of a row that are tabulated, with their title."""


def table(records: Sequence[dict[str, Any]]) -> str:
    """Mean and 95 % t interval of each figure and of its paired differences, and the CPU time, in Markdown."""
    names = [f"{row['name']} ({row['macs'] / 1e6:.1f} M)" for row in records[0]["subnets"]]
    groups = by_variant(records)
    first = next(iter(groups))
    lines = []
    for figure, title in FIGURES.items():
        decimals = 2 if figure in ("top1", "ece") else 3
        values = {variant: {run["seed"]: [row[figure] for row in run["subnets"]] for run in runs}
                  for variant, runs in groups.items()}  # fmt: skip
        lines += ["", f"| {title} | seeds | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
        lines += [_row(variant, list(values[variant].values()), decimals) for variant in values]
        for variant in list(values)[1:]:
            shared = sorted(values[variant].keys() & values[first].keys())
            pairs = [[own - base for own, base in zip(values[variant][seed], values[first][seed], strict=True)]
                     for seed in shared]  # fmt: skip
            if pairs:
                lines.append(_row(f"{variant}, minus {first}", pairs, decimals))
    lines += ["", "| CPU time of training | mean, s | relative to adaptive alpha |", "|---|---|---|"]
    seconds = {name: fmean(run["cpu_seconds"] for run in runs) for name, runs in groups.items()}
    lines += [f"| {name} | {value:.0f} | {value / seconds[first]:.2f} |" for name, value in seconds.items()]
    return "\n".join(lines[1:]) + "\n"


def _row(name: str, runs: Sequence[Sequence[float]], decimals: int) -> str:
    """A row of a table: the mean and interval over the runs for each subnet."""
    cells = [spread([run[i] for run in runs], decimals) for i in range(len(runs[0]))]
    return f"| {name} | {len(runs)} | " + " | ".join(cells) + " |"


def by_variant(records: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The runs of each variant, in the order of `VARIANTS`."""
    found = {name: [record for record in records if record["variant"] == name] for name in VARIANTS}
    return {name: runs for name, runs in found.items() if runs}


def draw(records: Sequence[dict[str, Any]], path: Path) -> None:
    """Plots the mean of each figure against MACs, one line per variant, and the runs as points."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(10.0, 7.0), layout="constrained")
    for axes, (figure, title) in zip(picture.subplots(2, 2).flat, FIGURES.items(), strict=True):
        for index, (variant, runs) in enumerate(by_variant(records).items()):
            order = sorted(range(len(runs[0]["subnets"])), key=lambda i: runs[0]["subnets"][i]["macs"])  # noqa: B023
            macs = [runs[0]["subnets"][i]["macs"] / 1e6 for i in order]
            values = [[run["subnets"][i][figure] for run in runs] for i in order]
            axes.plot(macs, [fmean(each) for each in values], color=f"C{index}", label=variant)
            for place, each in zip(macs, values, strict=True):
                axes.plot([place] * len(each), each, ".", color=f"C{index}", alpha=0.5)
        axes.set(xlabel="MACs (M)", ylabel=title)
    axes.legend(fontsize=8)
    picture.savefig(path, dpi=100, metadata={"Software": None})


def main(argv: list[str] | None = None) -> int:
    """Runs both studies; returns the exit code."""
    parser = CommandParser("loss_study.py", "Compare distillation losses and progressive resolution.", epilog=__doc__)
    parser.add_argument("--work", required=True, type=Path, metavar="FOLDER", help="working folder")
    parser.add_argument("--data", required=True, type=existing_path, help="CIFAR-10: a folder or a tar file")
    parser.add_argument("--epochs", type=positive_int, default=8, help="epochs of a full run (default: 8)")
    parser.add_argument("--seeds", type=natural_int, nargs="+", default=[0, 1, 2], help="seeds (default: 0 1 2)")
    parser.add_argument(
        "--calib-images", type=positive_int, default=8192, help="calibration images per subnet (default: 8192)"
    )
    parser.add_argument("--time-limit", type=positive_float, metavar="SECONDS", help="stop after this time")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings of the recipe, for all runs")
    return run_command(parser, study, argv)


if __name__ == "__main__":
    sys.exit(main())
