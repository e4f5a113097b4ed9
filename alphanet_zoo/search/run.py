"""Searches a supernet for the Pareto front of MACs and accuracy, and writes the result to files."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from alphanet_zoo.files import replacing
from alphanet_zoo.search.evolution import evolve, first_population
from alphanet_zoo.search.pareto import pareto_front
from alphanet_zoo.space.arch import ArchSpec

if TYPE_CHECKING:
    from alphanet_zoo.evaluate.evaluator import SubnetEvaluator


def search(evaluator: SubnetEvaluator, low: float, high: float, evaluations: int, seed: int) -> list[dict[str, Any]]:
    """Evaluates subnets whose cost is between two limits.

    Args:
        evaluator: Measures the accuracy of the subnets of its supernet.
        low: Minimum cost in MACs.
        high: Maximum cost in MACs.
        evaluations: Number of subnets to evaluate.
        seed: Seed of the search.

    Returns:
        An entry for each evaluated subnet, in ascending order of MACs: arch (in the published form), macs, params,
        accuracy (0 to 1), correct, images, and front: whether the subnet is on the Pareto front.

    Raises:
        ValueError: No subnet costs ``low`` to ``high``.
    """
    space, classes = evaluator.supernet.space, evaluator.supernet.num_classes
    rng = np.random.Generator(np.random.PCG64(seed))
    initial = first_population(space, low, high, max(evaluations // 3, 2), rng, num_classes=classes)
    with tqdm(total=evaluations, desc="searching", unit="subnet", file=sys.stderr, disable=None) as bar:

        def score(arch: ArchSpec) -> float:
            bar.update()
            return evaluator(arch)

        found = evolve(
            space, lambda arch: space.count_macs(arch, classes), score,
            initial=initial, evaluations=evaluations, rng=rng, low=low, high=high,
        )  # fmt: skip
    front = set(pareto_front([(c.cost, c.score) for c in found]))
    entries = [
        {
            "arch": c.arch.to_dict(),
            "macs": int(c.cost),
            "params": space.count_params(c.arch, classes),
            "accuracy": c.score,
            "correct": evaluator.results[c.arch].correct,
            "images": evaluator.results[c.arch].images,
            "front": i in front,
        }
        for i, c in enumerate(found)
    ]
    return sorted(entries, key=lambda entry: entry["macs"])


def write_front(path: str | os.PathLike[str], front: Sequence[Mapping[str, Any]]) -> None:
    """Writes entries of `search` to a file.

    Args:
        path: The file. If it ends in ``.csv``, a table with the arch as JSON in one column; otherwise JSON.
        front: The entries; at least one.
    """
    with replacing(path) as temporary:
        if Path(path).suffix != ".csv":
            temporary.write_text(json.dumps(front, indent=1) + "\n", "utf-8")
            return
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(front[0]))
            writer.writeheader()
            writer.writerows({**entry, "arch": json.dumps(entry["arch"])} for entry in front)


def write_arch(path: str | os.PathLike[str], arch: Mapping[str, Any]) -> None:
    """Writes an arch in the published form as JSON, as ``alphanet export --arch`` reads it."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(arch, indent=1) + "\n", "utf-8")
