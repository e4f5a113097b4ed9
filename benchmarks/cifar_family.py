"""The stages of `cifar_supernet.py` after training: search, evaluation, and the files of the package."""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cifar_report import evaluation_table
from cifar_work import Work, open_work, resume_me

from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import ImageSource, split_hold_out
from alphanet_zoo.errors import UsageError
from alphanet_zoo.evaluate.evaluator import Evaluator, Hits, SubnetEvaluator
from alphanet_zoo.files import sha256_of
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.search.pareto import best_of_ranges
from alphanet_zoo.search.run import search
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.cost import count_macs, count_params
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.train.folder import stored_config
from alphanet_zoo.zoo import families
from alphanet_zoo.zoo.files import load_net
from alphanet_zoo.zoo.shipped import load_member, write_family

FAMILY, SIZES = "cifar10", ("xs", "s", "m", "l", "xl")
BATCH = 500
"""Images per batch for evaluation."""


class OutOfTime(Exception):
    """The time limit has passed."""


class ResumingEvaluator(SubnetEvaluator):
    """Stores its scores in a file, so that a search with the same seed continues after an interruption."""

    def __init__(self, scores: Path, deadline: float | None, supernet: AlphaNet, evaluator: Evaluator) -> None:
        """Reads the stored scores."""
        super().__init__(supernet, evaluator)
        self._scores, self._deadline = scores, math.inf if deadline is None else deadline
        for line in scores.read_text("utf-8").splitlines() if scores.exists() else ():
            entry = json.loads(line)
            self.results[ArchSpec.from_dict(entry["arch"])] = Hits(entry["correct"], entry["images"])

    def __call__(self, arch: ArchSpec) -> float:
        """As `SubnetEvaluator`, but raises `OutOfTime` after the deadline."""
        if arch not in self.results:
            if time.monotonic() >= self._deadline:
                raise OutOfTime
            super().__call__(arch)
            hits = self.results[arch]
            with self._scores.open("a", encoding="utf-8") as file:
                entry = {"arch": arch.to_dict(), "correct": hits.correct, "images": hits.images}
                file.write(json.dumps(entry) + "\n")
        return super().__call__(arch)


def search_piece(arguments: argparse.Namespace) -> int:
    """Evaluates subnets on the held-out images, and selects five archs."""
    work = open_work(arguments)
    supernet, file = opened_supernet(work, arguments.device)
    training, held_out = training_folders(work)
    scores = work.folder / f"scores-{sha256_of(file)[:12]}-{arguments.calib_images}.jsonl"
    evaluator = ResumingEvaluator(
        scores, work.deadline, supernet, Evaluator(held_out, training, batch_size=BATCH, images=arguments.calib_images)
    )
    try:
        entries = search(evaluator, 0.0, 1e18, arguments.evaluations, seed=0)
    except OutOfTime:
        return resume_me(f"{len(evaluator.results)} of {arguments.evaluations} subnets are evaluated")
    chosen = [entries[i] for i in best_of_ranges([(e["macs"], e["accuracy"]) for e in entries], len(SIZES))]
    if len(chosen) < len(SIZES):
        raise UsageError(f"a range of MACs contains none of the {len(entries)} subnets; pass --evaluations 20 or more")
    members = {f"alphanet_c10_{size}": entry["arch"] for size, entry in zip(SIZES, chosen, strict=True)}
    work.write("search.json", {"supernet_sha256": sha256_of(file), "held_out": len(held_out), "members": members,
                               "evaluated": entries})  # fmt: skip
    for name, entry in zip(members, chosen, strict=True):
        print(
            f"{name:<16}{entry['macs'] / 1e6:8.2f} M MACs {100 * entry['accuracy']:6.2f} % of {len(held_out)} held out"
        )
    return 0


def evaluate_piece(arguments: argparse.Namespace) -> int:
    """Measures test top-1 of the family and of five other subnets; writes the family."""
    work = open_work(arguments)
    supernet, file = opened_supernet(work, arguments.device)
    found = json.loads(read_result(work, "search.json", "search"))
    if found["supernet_sha256"] != sha256_of(file):
        raise UsageError(f"{file} is not the supernet that was searched; run search again")
    members = {name: ArchSpec.from_dict(arch) for name, arch in found["members"].items()}
    evaluator = test_evaluator(work, arguments.calib_images)
    nets, rows = {}, []
    for name, arch in (members | probes(supernet.space)).items():
        net = evaluator.calibrated(supernet, arch)
        hits = evaluator.answers_of(net).hits
        rows.append(figures(name, net, hits))
        print(f"{name:<16}{rows[-1]['macs'] / 1e6:8.2f} M MACs {rows[-1]['top1']:6.2f} % of {hits.images}", flush=True)
        if name in members:
            nets[name] = net.cpu()
    description = described(work, found["held_out"], rows[0]["images"])
    top1 = {row["name"]: row["top1"] for row in rows if row["name"] in members}
    write_family(work.results / "family", FAMILY, supernet.cpu(), nets, top1,
                 license="apache-2.0", description=description)  # fmt: skip
    work.write("evaluate.json", {"supernet_sha256": sha256_of(file), "description": description, "subnets": rows})
    work.write("evaluate.md", evaluation_table(rows))
    return 0


def described(work: Work, held_out: int, test_images: int) -> str:
    """Data that the weights were trained, selected and measured on."""
    config, images = stored_config(work.results), len(training_folders(work)[0])
    runs = [config]
    if config.finetune.weights is not None:
        runs.insert(0, stored_config(Path(config.finetune.weights).parents[1]))
    epochs = ", then ".join(f"{run.optim.epochs} epochs of batch {run.data.batch_size}" for run in runs)
    return (
        f"Trained with the recipe alphanet_cifar10 for {epochs}, on {images} training images of CIFAR-10, recompressed "
        f"as JPEG; archs selected on {held_out} more; top-1 measured on the {test_images} test images, recompressed in "
        f"the same way."
    )


def package_piece(arguments: argparse.Namespace) -> int:
    """Copies the evaluated family into the package, after checking every file again."""
    source = families.shipped_family(arguments.work / "results" / "family")
    if source is None:
        raise UsageError(f"{arguments.work / 'results' / 'family'} contains no family; run evaluate first")
    nets = {member.name: load_member(source, member) for member in source.members}
    top1 = {member.name: member.top1 for member in source.members if member.top1 is not None}
    supernet = load_net(source.folder / families.SUPERNET_FILE)
    family = write_family(arguments.output or families.FOLDER, source.name, supernet, nets, top1,
                          license=source.license, description=source.description)  # fmt: skip
    for path in sorted(family.folder.iterdir()):
        print(f"{path} ({path.stat().st_size:,} bytes, sha256 {sha256_of(path)})")
    return 0


def opened_supernet(work: Work, device: str) -> tuple[AlphaNet, Path]:
    """The rounded supernet of the stage `train`, on the device, with float32 convolutions."""
    file = work.results / "supernet.safetensors"
    if not file.exists():
        raise UsageError(f"no such file: {file}; run train first")
    return load_net(file).to(device_of(device)), file


def device_of(name: str) -> torch.device:
    """The device to measure on. Disables TF32, so that convolutions are computed in float32."""
    torch.backends.cudnn.allow_tf32 = False
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def training_folders(work: Work) -> tuple[ImageSource, ImageSource]:
    """The images used for training, and the held-out ones."""
    return split_hold_out(FolderSource(work.data / "train"), stored_config(work.results).data.hold_out)


def test_evaluator(work: Work, calibration_images: int) -> Evaluator:
    """An evaluator that calibrates on training images and measures on the test images."""
    training, test = FolderSource(work.data / "train"), FolderSource(work.data / "val")
    return Evaluator(test, training, batch_size=BATCH, images=calibration_images)


def probes(space: SearchSpace) -> dict[str, ArchSpec]:
    """The smallest subnet, three random ones (the same on every call), and the largest."""
    rng = np.random.Generator(np.random.PCG64(0))
    return {
        "smallest": space.smallest,
        **{f"random-{i}": space.sample(rng) for i in (1, 2, 3)},
        "largest": space.largest,
    }


def figures(name: str, net: AlphaNet, hits: Hits) -> dict[str, Any]:
    """The results of a subnet; ``top1`` and its 95 % Wilson interval are in percent."""
    from alphanet_zoo.evaluate.statistics import wilson_interval

    low, high = wilson_interval(hits.correct, hits.images)
    return {
        "name": name, "arch": net.arch.to_dict(), "macs": count_macs(net.arch, net.space, net.num_classes),
        "params": count_params(net.arch, net.space, net.num_classes), "top1": 100 * hits.correct / hits.images,
        "interval": [100 * low, 100 * high], "correct": hits.correct, "images": hits.images,
        "calibration": net.calibration,
    }  # fmt: skip


def read_result(work: Work, name: str, piece: str) -> str:
    """A result of another stage."""
    path = work.results / name
    if not path.exists():
        raise UsageError(f"no such file: {path}; run {piece} first")
    return path.read_text("utf-8")
