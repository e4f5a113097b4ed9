"""ResNet-20 on CIFAR-10, cut to 30 M and 15 M MACs: this package, NVIDIA ModelOpt's FastNAS and Torch-Pruning.

    pip install nvidia-modelopt==0.47.0 torchprofile==0.0.4 torch-pruning
    python benchmarks/slim_compare.py DATA -o runs/compare --minutes 120 [--seeds 0 1 2]

DATA is a folder with train/ and val/, one folder of images per class; val/ is the test set. For each seed:

- ``base``: ResNet-20 (41 M MACs) is trained. All other arms start from its weights.
- ``ours``: a supernet with a width per group of channels is trained by the sandwich rule, and searched for both.
- ``tuned-M``: the subnet that was found for M million MACs is trained further.
- ``fastnas-M``: FastNAS of ModelOpt prunes the network to M million MACs, and the result is trained further.
- ``magnitude-M``: Torch-Pruning prunes the network by group L2 norms, and the result is trained further.

Each arm is trained for the same CPU time (`--minutes`, in one process; ``ours`` for 80 % of it, the rest is for its
searches). So ``ours`` spends it once for both budgets, the others once for each; the time of pruning, and for ``tuned``
that of ``ours``, is extra, and is in the results. All arms use the trainer of this package, with the same images,
augmentation and optimiser. The number of epochs follows from the measured CPU time of a step. The archs are selected on
5,000 held-out training images; the test images are used once, at the end. On a CPU with bfloat16 instructions, pass
``--settings optim.precision=bf16``.

Results in OUTPUT/results.json and on the screen. Arms that have ended are not repeated; an interrupted one continues.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import open_source
from alphanet_zoo.evaluate.evaluator import Evaluator, SubnetEvaluator
from alphanet_zoo.search.run import search
from alphanet_zoo.train.config import TrainConfig, load_config
from alphanet_zoo.train.dryrun import dry_run
from alphanet_zoo.train.loop import train
from alphanet_zoo.zoo.open import open_net

BUDGETS = (30, 15)
"""Millions of MACs."""
DIVISOR = 4
"""Channels are kept in multiples of this, by all methods."""
STORED = "SLIM_COMPARE_NETWORK"
"""Environment variable with the file that `stored` reads."""
CALIBRATION_BATCHES = 50
"""ModelOpt calibrates the batch norms of a subnet only if its queue of this many batches is full."""
SEARCH_SHARE = 0.2
"""Share of its time that ``ours`` spends on search."""


class Block(nn.Module):
    """A residual block of two 3x3 convolutions; the shortcut is a 1x1 convolution if the shape changes."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        """Random weights."""
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        """From ``(N, C, H, W)`` to ``(N, width, H / stride, W / stride)``."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet20(nn.Module):
    """ResNet-20 for 32-pixel images. Source: He et al., 2015, arXiv:1512.03385, section 4.2."""

    def __init__(self, num_classes: int = 10) -> None:
        """Random weights."""
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        shapes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks = nn.Sequential(*(Block(*shape) for shape in shapes))
        self.classifier = nn.Linear(64, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``(N, num_classes)``."""
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return self.classifier(x.mean((2, 3)))


def resnet20(num_classes: int) -> nn.Module:
    """The network, for ``net=slim_compare:resnet20``."""
    return ResNet20(num_classes)


def stored(num_classes: int) -> nn.Module:
    """ResNet-20 with the layers of the state dict that the environment names, for ``net=slim_compare:stored``."""
    state = torch.load(os.environ[STORED], weights_only=True)
    net = ResNet20(num_classes)
    for name, module in list(net.named_modules()):
        new: nn.Module
        if isinstance(module, nn.Conv2d):
            out, channels, side, _ = state[f"{name}.weight"].shape
            new = nn.Conv2d(channels, out, side, module.stride, module.padding, bias=False)
        elif isinstance(module, nn.BatchNorm2d):
            new = nn.BatchNorm2d(len(state[f"{name}.weight"]))
        elif isinstance(module, nn.Linear):
            new = nn.Linear(state[f"{name}.weight"].shape[1], num_classes)
        else:
            continue
        net.set_submodule(name, new)
    return net


def macs_of(net: nn.Module) -> float:
    """Millions of MACs of an image, counted by PyTorch."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.zeros(1, 3, 32, 32))
    return counter.get_total_flops() / 2e6


def config_of(args: argparse.Namespace, output: Path, *settings: str) -> TrainConfig:
    """The settings of all arms, and those of one."""
    recipe = "finetune" if any(setting.startswith("finetune.") for setting in settings) else "slimmable_cifar10"
    return load_config(recipe, [
        f"output={output}", "data.source=folder", f"data.root={args.data}", f"data.hold_out={args.hold_out}",
        "data.image_size=32", "data.batch_size=128", "data.engine=device", "data.workers=0", "optim.lr=0.1",
        "optim.lr_batch=null", "optim.warmup_epochs=0.5", "optim.weight_decay=5e-4", "sandwich.label_smoothing=0",
        "sandwich.random_subnets=1", "validation.every_epochs=0", "checkpoint_every_steps=100", "log.progress=false",
        f"seed={args.seed}", *args.settings, *settings,
    ])  # fmt: skip


def trained(args: argparse.Namespace, output: Path, seconds: float, *settings: str) -> nn.Module:
    """Trains for a CPU time, and returns the trained network; the number of epochs is kept in a file."""
    plan = output.with_suffix(".json")
    if not plan.exists():
        times = []
        for steps in (args.probe, 6 * args.probe):
            began = time.process_time()
            dry_run(config_of(args, output, "optim.epochs=1000", *settings), steps)
            times.append(time.process_time() - began)
        step = (times[1] - times[0]) / (5 * args.probe)
        images = len(open_source(config_of(args, output, *settings).data))
        output.parent.mkdir(parents=True, exist_ok=True)
        plan.write_text(json.dumps({"step_seconds": step, "epochs": seconds / (step * (images // 128))}))
    epochs = json.loads(plan.read_text())["epochs"]
    config = config_of(args, output, f"optim.epochs={max(round(epochs), 1)}", *settings)
    train(config)
    return open_net(config.output).net


def evaluators(args: argparse.Namespace) -> tuple[Evaluator, Evaluator]:
    """Those of the held-out and of the test images; both calibrate on training images."""
    data = config_of(args, args.output / "unused").data
    images = open_source(data)
    held_out, test = open_source(data, "val"), FolderSource(args.data / "val")
    return tuple(Evaluator(each, images, images=args.calibration) for each in (held_out, test))  # type: ignore[return-value]


def row_of(args: argparse.Namespace, supernet: Any, arch: Any, **more: Any) -> dict[str, Any]:
    """The test accuracy of a subnet, calibrated on training images."""
    test = evaluators(args)[1]
    net = test.calibrated(supernet, arch)
    hits = test.answers_of(net).hits
    return {"macs": macs_of(net.net), "correct": hits.correct, "images": hits.images, **more}


def ours(args: argparse.Namespace, base: Path, folder: Path) -> list[dict[str, Any]]:
    """One training of a supernet, and one search for each budget."""
    seconds = 60 * args.minutes
    settings = ("net=slim_compare:resnet20", f"net.weights={base}", "net.widths=[0.25,1.0]", f"net.divisor={DIVISOR}",
                "net.tie=null", "optim.lr=0.05")  # fmt: skip
    supernet = trained(args, folder / "run", (1 - SEARCH_SHARE) * seconds, *settings)
    held_out = evaluators(args)[0]
    rows = []
    for budget in BUDGETS:
        began = time.process_time()
        scored = search(SubnetEvaluator(supernet, held_out), 0.9e6 * budget, 1e6 * budget, args.evaluations, args.seed)
        best = max(scored, key=lambda entry: entry["accuracy"])
        arch = supernet.space.read_arch(best["arch"])  # type: ignore[union-attr]
        seconds = time.process_time() - began
        found = row_of(args, supernet, arch, budget=budget, search_seconds=seconds)
        rows.append(found | {"arch": arch.to_dict()})
    return rows


def tuned(args: argparse.Namespace, folder: Path, budget: int) -> list[dict[str, Any]]:
    """Trains the subnet further that ``ours`` found for a budget."""
    place = folder.parent / "ours"
    found = next(row for row in json.loads((place / "rows.json").read_text()) if row["budget"] == budget)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arch.json").write_text(json.dumps(found["arch"]))
    net = trained(args, folder / "run", 60 * args.minutes, f"finetune.weights={place / 'run'}", "data.transform=cifar",
                  f"finetune.arch={folder / 'arch.json'}", "sandwich.drop_rate=0", "optim.lr=0.05")  # fmt: skip
    hits = evaluators(args)[1].answers_of(net.eval()).hits
    return [{"macs": macs_of(net.net), "correct": hits.correct, "images": hits.images, "budget": budget}]  # type: ignore[union-attr]


def fastnas(args: argparse.Namespace, net: nn.Module, budget: int) -> nn.Module:
    """Prunes with ModelOpt; the score is the accuracy on held-out images."""
    import modelopt.torch.prune as mtp

    held_out, training = (normalised_batches(args, split) for split in ("val", None))

    def score(candidate: nn.Module) -> float:
        right = total = 0
        candidate.eval()
        with torch.no_grad():
            for images, labels in held_out:
                right, total = right + int((candidate(images).argmax(1) == labels).sum()), total + len(labels)
        return right / total

    settings = mtp.fastnas.FastNASConfig()
    settings["nn.Conv2d"]["*"]["channel_divisor"] = settings["nn.BatchNorm2d"]["*"]["feature_divisor"] = DIVISOR
    # ModelOpt counts with torchprofile, so that the budget is passed as a share of the whole network.
    pruned, _ = mtp.prune(
        net, mode=[("fastnas", settings)], constraints={"flops": f"{100 * budget / macs_of(net):.2f}%"},
        dummy_input=torch.zeros(1, 3, 32, 32),
        config={"data_loader": training, "collect_func": lambda batch: batch[0], "score_func": score,
                "checkpoint": None},
    )  # fmt: skip
    return pruned


def magnitude(args: argparse.Namespace, net: nn.Module, budget: int) -> nn.Module:
    """Prunes with Torch-Pruning, in small steps until the budget is met."""
    import torch_pruning as tp

    pruner = tp.pruner.MagnitudePruner(
        net, torch.zeros(1, 3, 32, 32), importance=tp.importance.GroupMagnitudeImportance(p=2), iterative_steps=200,
        pruning_ratio=0.9, global_pruning=True, ignored_layers=[net.classifier], round_to=DIVISOR,
    )  # fmt: skip
    while macs_of(net) > budget:
        pruner.step()
    return net


def normalised_batches(args: argparse.Namespace, split: str | None) -> list[tuple[Tensor, Tensor]]:
    """Batches of `--score-images` training images or, with the split ``val``, held-out ones, as networks take them."""
    data = config_of(args, args.output / "unused").data
    source = open_source(data) if split is None else open_source(data, split)
    net = open_net(args.output / f"seed-{args.seed}" / "base" / "run").net
    size = math.ceil(args.score_images / CALIBRATION_BATCHES)
    batches = evaluation_batches(source, evaluators(args)[0].plan(net).preprocessing, size)
    return list(itertools.islice(batches, CALIBRATION_BATCHES))


def pruned(
    prune: Callable[[argparse.Namespace, nn.Module, int], nn.Module], args: argparse.Namespace, base: Path,
    folder: Path, budget: int,
) -> list[dict[str, Any]]:  # fmt: skip
    """Prunes the trained network, and trains the result."""
    state, spent = folder / "weights.pth", folder / "prune.json"
    if not spent.exists():
        began = time.process_time()
        net = ResNet20()
        net.load_state_dict(torch.load(base, weights_only=True))
        net = prune(args, net, budget)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), state)
        spent.write_text(json.dumps(time.process_time() - began))
    seconds = json.loads(spent.read_text())
    os.environ[STORED] = str(state)
    net = trained(args, folder / "run", 60 * args.minutes, "net=slim_compare:stored", "net.widths=[1.0]",
                  f"net.weights={state}", "optim.lr=0.05")  # fmt: skip
    return [row_of(args, net, net.space.largest, budget=budget, search_seconds=seconds)]  # type: ignore[union-attr]


def trained_base(args: argparse.Namespace, folder: Path) -> Path:
    """The state dict of the trained ResNet-20."""
    state = folder / "weights.pth"
    if not state.exists():
        net = trained(args, folder / "run", 60 * args.minutes, "net=slim_compare:resnet20", "net.widths=[1.0]")
        torch.save(net.net.state_dict(), state)  # type: ignore[union-attr]
    return state


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the arms that are left, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--minutes", type=float, default=120.0, help="CPU minutes of each arm (default: 120)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds (default: 0)")
    parser.add_argument("--hold-out", type=int, default=5000, help="training images held out (default: 5000)")
    parser.add_argument("--evaluations", type=int, default=60, help="subnets to evaluate per budget (default: 60)")
    parser.add_argument("--calibration", type=int, default=4096, help="images to calibrate with (default: 4096)")
    parser.add_argument("--score-images", type=int, default=2000, help="images of FastNAS's score (default: 2000)")
    parser.add_argument("--probe", type=int, default=12, help="steps to measure the time of a step (default: 12)")
    parser.add_argument("--settings", nargs="*", default=[], metavar="key=value", help="settings of all arms")
    args = parser.parse_args(argv)
    args.output, args.data = args.output.resolve(), args.data.resolve()
    print("| seed | arm | budget, M | M MACs | test top-1 |\n|---|---|---|---|---|")
    records = []
    for seed in args.seeds:
        args.seed = seed
        place = args.output / f"seed-{args.seed}"
        base = trained_base(args, place / "base")
        arms: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
            "base": lambda folder: [row_of(args, n := open_net(folder / "run").net, n.space.largest)],
            "ours": lambda folder, base=base: ours(args, base, folder),
        }
        for budget in BUDGETS:
            arms[f"tuned-{budget}"] = lambda folder, m=budget: tuned(args, folder, m)
        for name, prune in (("magnitude", magnitude), ("fastnas", fastnas)):
            for budget in BUDGETS:
                arms[f"{name}-{budget}"] = lambda folder, p=prune, m=budget, base=base: pruned(p, args, base, folder, m)
        for name, run in arms.items():
            file = place / name / "rows.json"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(json.dumps(run(place / name), indent=1))
            for row in json.loads(file.read_text()):
                records.append({"seed": args.seed, "arm": name, **row})
                share = 100 * row["correct"] / row["images"]
                print(
                    f"| {args.seed} | {name} | {row.get('budget', '')} | {row['macs']:.1f} | {share:.2f} % |",
                    flush=True,
                )
            (args.output / "results.json").write_text(json.dumps(records, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
