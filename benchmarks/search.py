"""Measures `alphanet search` on a trained supernet of the CIFAR-10 space.

Stages:
  table       scores random subnets, on the GPU if there is one; continues if stopped (WORK/scores.jsonl)
  strategies  hypervolume against evaluations of all strategies, on a surrogate that is fitted to the table
  speed       subnets scored per minute, the share of calibration, and the ratio to bare forward passes
  predictor   time of 20 rounds of 512 on the predictor alone, and of the exact optimum, in the ImageNet space
  device      fronts by milliseconds and by MACs, both measured in milliseconds, and scored; requires the table
  a4          the fastest subnet of the ImageNet space with at least the MACs of A4, by the latency model, against A4

    python benchmarks/search.py table --supernet runs/c10 --data cifar10/train --archs 400 -o work
    python benchmarks/search.py strategies --supernet runs/c10 -o work
    alphanet profile --space alphanet_cifar --num-classes 10 --runtime onnxruntime --threads 2 -o cifar.json
    python benchmarks/search.py device --supernet runs/c10 --data cifar10/train --device cifar.json -o work
    alphanet profile --runtime onnxruntime --threads 2 -o imagenet.json
    python benchmarks/search.py a4 --device imagenet.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from alphanet_zoo.search.chain import Chain
from alphanet_zoo.search.costs import Problem, Rows, make_problem
from alphanet_zoo.search.device import LatencyModel, parts_of
from alphanet_zoo.search.guided import evolve_rows, exact_optimum
from alphanet_zoo.search.limits import LATENCY, MACS, Limit
from alphanet_zoo.search.pareto import hypervolume, pareto_front
from alphanet_zoo.search.predictor import Predictor
from alphanet_zoo.search.run import STRATEGIES, SearchRun
from alphanet_zoo.search.strategies import Random, Scored, front_of, run_strategy
from alphanet_zoo.space.presets import ALPHANET, IMAGENET_FAMILY
from alphanet_zoo.space.shapes import net_shape
from alphanet_zoo.space.space import SearchSpace

SEEDS = 5


def table(arguments: argparse.Namespace) -> None:
    """Scores random subnets of the supernet on held-out training images."""
    import torch

    from alphanet_zoo.search.scores import ScoreFile
    from alphanet_zoo.search.setup import make_scorer, search_images
    from alphanet_zoo.zoo.open import open_net

    torch.backends.cudnn.allow_tf32 = False
    supernet = open_net(arguments.supernet).net.to("cuda" if torch.cuda.is_available() else "cpu")
    images = search_images(arguments.supernet, arguments.data, None, arguments.hold_out)
    scorer, settings = make_scorer(
        supernet, images, calibration_images=arguments.calib_images, limit=arguments.limit, halving=False
    )
    problem = make_problem(supernet.space, {}, num_classes=supernet.num_classes)
    scores = ScoreFile(arguments.output / "scores.jsonl", settings)
    run = SearchRun(problem, scorer, scores, Random(), time_limit=arguments.time)
    run(arguments.archs, seed=arguments.seed)
    print(f"{run.evaluated} of {arguments.archs} subnets are scored in {scores.path}")


def read_table(path: Path, problem: Problem[Any]) -> tuple[Rows, np.ndarray[Any, Any], int]:
    """The ``scalars``, the accuracies and the number of images of the scored subnets."""
    entries = [each for each in map(json.loads, path.read_text("utf-8").splitlines()) if "arch" in each]
    rows = problem.rows([problem.space.read_arch(entry["arch"]) for entry in entries])
    return rows, np.array([entry["score"] for entry in entries]), entries[0]["images"]


class Surrogate:
    """Gradient boosting on the entries of an arch, with an error of the size of its own on unseen subnets.

    All subnets are scored on the same images, so that their accuracies differ by less than the sampling error of one.
    The model is of another kind than the predictor of the search, which would otherwise have an advantage.
    """

    def __init__(self, problem: Problem[Any], rows: Rows, scores: np.ndarray[Any, Any]) -> None:
        """Fits it, and computes its agreement with scores that it has not seen."""
        from scipy.stats import kendalltau
        from sklearn.ensemble import HistGradientBoostingRegressor
        from sklearn.model_selection import KFold, cross_val_predict

        self._problem = problem
        self._chain = Chain.of(problem.space)
        model = HistGradientBoostingRegressor(max_iter=200, learning_rate=0.05, min_samples_leaf=8, random_state=0)
        x = self._features(rows)
        unseen = cross_val_predict(model, x, scores, cv=KFold(5, shuffle=True, random_state=0))
        self.kendall_tau = float(kendalltau(unseen, scores).statistic)
        self.rmse = float(np.sqrt(np.mean((unseen - scores) ** 2)))
        self._model = model.fit(x, scores)

    def _features(self, rows: Rows) -> np.ndarray[Any, Any]:
        """The entries, and the MACs in millions."""
        return np.column_stack([self._chain.indices(rows), self._problem.costs[MACS](rows) / 1e6])

    def true(self, archs: Sequence[Any]) -> list[float]:
        """Accuracies without noise."""
        predicted: list[float] = self._model.predict(self._features(self._problem.rows(list(archs)))).tolist()
        return predicted

    def observed(self, archs: Sequence[Any], seed: int) -> Iterable[tuple[float, bool]]:
        """Accuracies with an error; the same arch has the same error."""
        for arch, accuracy in zip(archs, self.true(archs), strict=True):
            rng = np.random.default_rng([seed, *(int(1000 * value) for value in arch.scalars)])
            yield rng.normal(accuracy, self.rmse), True


def strategies(arguments: argparse.Namespace) -> None:
    """Evaluations that each strategy needs for the final hypervolume of the random search."""
    from alphanet_zoo.zoo.open import open_net

    supernet = open_net(arguments.supernet).net
    problem = make_problem(supernet.space, {}, num_classes=supernet.num_classes)
    rows, scores, images = read_table(arguments.output / "scores.jsonl", problem)
    surrogate = Surrogate(problem, rows, scores)
    print(f"surrogate of {len(scores)} scores: Kendall tau {surrogate.kendall_tau:.3f} and RMSE "
          f"{100 * surrogate.rmse:.2f} points on unseen subnets; {images} images per score")  # fmt: skip
    quality = Predictor(problem.space).fit(rows, scores).quality(rows, scores)
    print(f"ridge predictor: Kendall tau {quality.kendall_tau:.3f}, RMSE {100 * quality.rmse:.2f} points")
    worst = (problem.cost(problem.space.largest) * 1.001, float(scores.min()))
    evaluations, reached = arguments.evaluations, {}
    for name in ("random", "evolution", "nsga2", "predictor"):
        curves = [curve(problem, name, surrogate, evaluations, seed, worst) for seed in range(SEEDS)]
        reached[name] = np.array(curves)
        print(f"{name:<10} final hypervolume {np.mean(reached[name][:, -1]):.5g} "
              f"({', '.join(f'{each[-1]:.5g}' for each in curves)})", flush=True)  # fmt: skip
    for name, curves in reached.items():
        goals = reached["random"][:, -1]
        needed = [int(np.argmax(c >= goal)) + 1 if (c >= goal).any() else None
                  for c, goal in zip(curves, goals, strict=True)]  # fmt: skip
        print(f"{name:<10} evaluations for random's final hypervolume of {evaluations}: {needed}")
    content = {name: curves.tolist() for name, curves in reached.items()}
    (arguments.output / "strategies.json").write_text(json.dumps(content) + "\n", "utf-8")


def curve(
    problem: Problem[Any], name: str, surrogate: Surrogate, evaluations: int, seed: int, worst: tuple[float, float]
) -> list[float]:
    """Hypervolume, in MACs times accuracy without noise, of the front after each evaluation."""
    found = run_strategy(
        problem, STRATEGIES[name](evaluations), lambda archs, _: surrogate.observed(archs, seed),
        evaluations=evaluations, seed=seed,
    )  # fmt: skip
    true = dict(zip((each.arch for each in found), surrogate.true([each.arch for each in found]), strict=True))
    values, front = [], list[Scored[Any]]()
    for each in found:
        front = front_of([*front, each])
        values.append(hypervolume([(other.cost, true[other.arch]) for other in front], worst) / 1e6)
    return values + values[-1:] * (evaluations - len(values))


def speed(arguments: argparse.Namespace) -> None:
    """Compares the scoring of subnets with the bare forward passes on images that are in memory."""
    import torch

    from alphanet_zoo.evaluate.evaluator import input_of
    from alphanet_zoo.search.setup import make_scorer, search_images
    from alphanet_zoo.zoo.open import open_net

    supernet = open_net(arguments.supernet).net
    images = search_images(arguments.supernet, arguments.data, None, arguments.hold_out)
    scorer, _ = make_scorer(
        supernet, images, calibration_images=arguments.calib_images, limit=arguments.limit, halving=False
    )
    rng = np.random.default_rng(0)
    archs = [supernet.space.sample(rng) for _ in range(arguments.archs)]
    nets = [scorer.evaluator.calibrated(supernet, arch) for arch in archs]
    scored, ratios = [], []
    for arch, net in zip(archs, nets, strict=True):
        scorer(arch)  # Decodes the images of this resolution.
        calibration = list(scorer.evaluator._calibrations[scorer.evaluator.plan(supernet, arch)])
        validation = [pixels for pixels, _ in scorer.evaluator.batches(input_of(net, arch.resolution))]
        scorer.seconds = dict.fromkeys(scorer.seconds, 0.0)
        began, began_cpu = time.perf_counter(), time.process_time()
        scorer(arch)
        whole, between = time.perf_counter() - began, time.process_time()
        with torch.inference_mode():
            net.train()
            for pixels in calibration:
                net(pixels)
            net.eval()
            for pixels in validation:
                net(pixels)
        scored.append((whole, scorer.seconds["calibration"]))
        ratios.append((between - began_cpu) / (time.process_time() - between))
    total, calibration_time = np.sum(scored, axis=0)
    print(f"{60 * len(archs) / total:.1f} subnets per minute; calibration {100 * calibration_time / total:.0f} %")
    print(f"CPU time relative to bare forward passes: {np.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


def predictor(_: argparse.Namespace) -> None:
    """Times the predictor in the ImageNet space."""
    rng = np.random.default_rng(0)
    rows = ALPHANET.sample_array(500, rng)
    fitted = Predictor(ALPHANET).fit(rows, np.log(ALPHANET.count_macs(rows)) + 0.02 * rng.normal(size=len(rows)))
    problem = make_problem(ALPHANET, {MACS: Limit(200e6, 1200e6)}, num_classes=1000)
    began = time.perf_counter()
    evolve_rows(problem, fitted.predict, rows, rng, population=512, rounds=20)
    print(f"20 rounds of 512: {time.perf_counter() - began:.2f} s")
    exact_optimum(ALPHANET, fitted, 300e6)  # Builds the tables of MACs.
    for budget in (250e6, 444e6, 800e6):
        began = time.perf_counter()
        exact_optimum(ALPHANET, fitted, budget)
        print(f"exact optimum within {budget / 1e6:.0f} M MACs: {time.perf_counter() - began:.3f} s")


def device(arguments: argparse.Namespace) -> None:
    """Compares what a search by milliseconds finds with what a search by MACs finds, at the same measured time."""
    from alphanet_zoo.search.setup import make_scorer, search_images
    from alphanet_zoo.zoo.open import open_net

    model = LatencyModel.read(arguments.device)
    supernet = open_net(arguments.supernet).net
    images = search_images(arguments.supernet, arguments.data, None, arguments.hold_out)
    scorer, _ = make_scorer(
        supernet, images, calibration_images=arguments.calib_images, limit=arguments.limit, halving=False
    )
    fronts = {}
    for axis in (LATENCY, MACS):
        problem = make_problem(supernet.space, {}, num_classes=supernet.num_classes, axis=axis, device=model)
        rows, scores, _ = read_table(arguments.output / "scores.jsonl", problem)
        predictor = Predictor(problem.space).fit(rows, scores)
        found = evolve_rows(problem, predictor.predict, rows, np.random.default_rng(0))
        costs, promised = problem.costs[axis](found), predictor.predict(found)
        best = [found[i] for i in pareto_front(list(zip(costs.tolist(), promised.tolist(), strict=True)))]
        chosen = {round(i) for i in np.linspace(0, len(best) - 1, arguments.points)}
        fronts[axis] = problem.archs(np.array([best[i] for i in sorted(chosen)]))
    archs = list(dict.fromkeys([*fronts[LATENCY], *fronts[MACS]]))
    ms = dict(zip(archs, measured_ms(model, supernet.space, archs), strict=True))
    accuracy = {arch: scorer(arch)["score"] for arch in archs}
    curves = {}
    for axis, front in fronts.items():
        for arch in front:
            macs = supernet.space.count_macs(arch, supernet.num_classes) / 1e6
            print(f"{axis:<10} {macs:6.2f} M MACs {ms[arch]:6.3f} ms {100 * accuracy[arch]:.2f} %", flush=True)
        points = sorted((ms[arch], accuracy[arch]) for arch in front)
        curves[axis] = np.array([points[i] for i in pareto_front(points)])
    low = max(curve[:, 1].min() for curve in curves.values())
    high = min(curve[:, 1].max() for curve in curves.values())
    levels = np.linspace(low, high, 9)[1:-1]
    times = {axis: np.interp(levels, curve[:, 1], curve[:, 0]) for axis, curve in curves.items()}
    ratios = times[LATENCY] / times[MACS]
    print(f"time at equal accuracy, search by milliseconds relative to search by MACs: median {np.median(ratios):.3f} "
          f"({ratios.min():.3f} to {ratios.max():.3f}), at {100 * low:.2f} to {100 * high:.2f} %")  # fmt: skip


def measured_ms(model: LatencyModel, space: SearchSpace, archs: Sequence[Any]) -> list[float]:
    """Milliseconds of whole subnets in the runtime and with the threads of a latency model, measured in turns."""
    from alphanet_export.latency.engines import engine_of
    from alphanet_export.latency.measure import time_all

    networks = [tuple(parts_of(net_shape(space, arch), model.num_classes)) for arch in archs]
    times = time_all(engine_of(model.device["runtime"]), list(dict.fromkeys(networks)), model.device["threads"], 5, 20)
    return [times[network] for network in networks]


def a4(arguments: argparse.Namespace) -> None:
    """Compares A4 with the arch that the latency model predicts to be the fastest with at least A4's MACs."""
    model = LatencyModel.read(arguments.device)
    member = next(each for each in IMAGENET_FAMILY if each.name == "alphanet_a4")
    macs = ALPHANET.count_macs(member.arch)
    problem = make_problem(ALPHANET, {MACS: Limit(low=macs)}, num_classes=1000, axis=MACS, device=model)
    latency, rng = problem.costs[LATENCY], np.random.default_rng(0)
    start = problem.rows([member.arch, ALPHANET.largest])
    found = evolve_rows(problem, lambda rows: -latency(rows), start, rng, rounds=100)
    arch = problem.archs(found[[int(np.argmin(latency(found)))]])[0]
    predicted = latency(problem.rows([arch, member.arch]))
    ours, theirs = measured_ms(model, ALPHANET, [arch, member.arch])
    print(json.dumps(arch.to_dict()))
    for name, each, guess, ms in (("A4", member.arch, predicted[1], theirs), ("chosen", arch, predicted[0], ours)):
        print(f"{name}: {ALPHANET.count_macs(each) / 1e6:.1f} M MACs, resolution {each.resolution}, predicted "
              f"{guess:.2f} ms, measured {ms:.2f} ms")  # fmt: skip
    print(f"the chosen subnet takes {ours / theirs:.3f} of A4's time; its accuracy is unknown")


def main() -> None:
    """Runs one stage."""
    stages = {each.__name__: each for each in (table, strategies, speed, predictor, device, a4)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=tuple(stages))
    parser.add_argument("--supernet", type=Path)
    parser.add_argument("--data", type=Path, help="training images, one folder per class")
    parser.add_argument("--hold-out", type=int, help="images that training held out (default: of the run)")
    parser.add_argument("--calib-images", type=int, default=2048)
    parser.add_argument("--limit", type=int, help="validation images (default: all held-out images)")
    parser.add_argument("--archs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0, help="seed of the table (default: 0)")
    parser.add_argument("--time", type=float, help="seconds")
    parser.add_argument("--evaluations", type=int, default=500)
    parser.add_argument("--device", type=Path, help="latency model of alphanet profile")
    parser.add_argument("--points", type=int, default=8, help="subnets per front to measure (default: 8)")
    parser.add_argument("-o", "--output", type=Path, default=Path("work"))
    arguments = parser.parse_args()
    stages[arguments.stage](arguments)


if __name__ == "__main__":
    main()
