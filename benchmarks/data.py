"""Throughput of the ImageNet training transform per core, compared with torchvision on Pillow images.

    python benchmarks/data.py --data imagenet/train

Both read and decode the file, crop and resize (bicubic, antialiased) to 224 pixels, flip, apply AutoAugment's ImageNet
policy, and return a normalised float32 batch. They alternate batch by batch in one process, with one thread on one
core. Times are CPU seconds of the process, so that other programs do not affect them.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from alphanet_zoo.data.augment import ImageNetTransform, normalise
from alphanet_zoo.data.draws import generator
from alphanet_zoo.data.folder import list_images
from alphanet_zoo.data.images import read_image

SIZE, MEAN, STD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Maker = Callable[[int, list[Path]], Tensor]

_OURS = ImageNetTransform(SIZE, autoaugment=True)
_PILLOW = v2.Compose([
    v2.RandomResizedCrop(SIZE, interpolation=v2.InterpolationMode.BICUBIC),
    v2.RandomHorizontalFlip(),
    v2.AutoAugment(),
    v2.PILToTensor(),
    v2.ToDtype(torch.float32, scale=True),
    v2.Normalize(MEAN, STD),
])  # fmt: skip


def ours(epoch: int, files: list[Path]) -> Tensor:
    """A batch of this package: loader and training process together."""
    batch = torch.empty((len(files), SIZE, SIZE, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for i, path in enumerate(files):
        batch[i] = _OURS(read_image(path), generator(0, "augment", epoch, i))
    return normalise(batch, MEAN, STD)


def pillow(epoch: int, files: list[Path]) -> Tensor:
    """A batch of the usual torchvision pipeline."""
    torch.manual_seed(epoch)
    return torch.stack([_PILLOW(Image.open(path).convert("RGB")) for path in files])


def measure(makers: dict[str, Maker], files: list[Path], repeats: int, batch_size: int) -> dict[str, list[float]]:
    """Images per second of each maker in each repeat over all files; the makers alternate batch by batch."""
    rates: dict[str, list[float]] = {name: [] for name in makers}
    for repeat in range(-1, repeats):
        seconds = dict.fromkeys(makers, 0.0)
        for start in range(0, len(files), batch_size):
            for name, make in makers.items():
                began = time.process_time()
                make(repeat + 1, files[start : start + batch_size])
                seconds[name] += time.process_time() - began
        if repeat >= 0:  # The first round is a warm-up.
            for name in makers:
                rates[name].append(len(files) / seconds[name])
    return rates


def image_files(data: Path, stack: ExitStack) -> list[Path]:
    """The images in a folder, or in a tar file, which is unpacked into a temporary folder."""
    if data.is_file():
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with tarfile.open(data) as archive:
            archive.extractall(folder, filter="data")
        data = folder
    return list_images(data)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(
        description="Images per second and core of the training transform, and of torchvision on Pillow images"
    )
    parser.add_argument("--data", type=Path, required=True, help="a folder or tar of ImageNet images")
    parser.add_argument("--repeats", type=int, default=9, help="rounds over all images (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="images per batch (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with ExitStack() as stack:
        files = image_files(arguments.data, stack)
        rates = measure({"ours": ours, "pillow": pillow}, files, arguments.repeats, arguments.batch_size)
    for name, found in rates.items():
        print(f"{name:<8} {median(found):>7.1f} images/s per core  ({min(found):.1f} to {max(found):.1f})")
    ratios = sorted(a / b for a, b in zip(rates["ours"], rates["pillow"], strict=True))
    print(f"ratio    {median(ratios):>7.2f}  ({ratios[0]:.2f} to {ratios[-1]:.2f}) on {len(files)} images")


if __name__ == "__main__":
    main()
