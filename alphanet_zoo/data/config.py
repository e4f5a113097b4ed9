"""Settings of the training images. This module imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from alphanet_zoo.schema import Count, Section, Share


class DataConfig(Section):
    """Where the training images come from and how they are augmented."""

    root: Annotated[str, Field(min_length=1)] | None = None
    """Folder that `train` and `val` are in; nothing is written there. With source `folder`, it may instead contain the
    class folders themselves; validation images are then held out. For `webdataset`, also a URL such as
    `https://host/folder`. Null for `digits`."""
    source: Literal["folder", "digits", "cifar10", "webdataset", "multilabel"] = "folder"
    """`folder`: one folder of images per class. `digits`: scikit-learn's handwritten digits, in memory; a training run
    also writes them to the folder `<output>-data` as PNG files for later commands. `cifar10`: `root` has
    `cifar-10-batches-py`, or folders as in `folder`. `webdataset`: shards. `multilabel`: several labels per image, in
    tables `train.csv` and `val.csv` beside the folders of images."""
    download: bool = False
    """Download CIFAR-10 into `root` if it is not there (`cifar10` only)."""
    train: Annotated[str, Field(min_length=1)] = "train"
    """Training images in `root`; for shards, their names, such as `train-{0000..1280}.tar`."""
    val: Annotated[str, Field(min_length=1)] = "val"
    """Validation images in `root`. They are never trained on."""
    cache: str | None = None
    """Folder to download shards into, if `root` is a URL."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Number of processes that prepare batches ahead; 0 prepares them in the training process. The batches are the
    same."""
    hold_out: Annotated[int, Field(ge=0)] = 0
    """Number of training images held out (class-balanced, fixed) and used for validation instead of `val`; 0 uses
    `val`, or a fifth of the images if `root` itself contains the class folders."""
    engine: Literal["torch", "device", "dali"] = "torch"
    """`torch`: images are augmented one by one on the CPU. `device`: all images are kept on the training device, and
    whole batches are augmented there, with bit-identical results (small images; transforms `affine` and `cifar`
    without `autoaugment`). `dali`: NVIDIA DALI decodes and augments on the training device (the `dali` extra; source
    `folder` and transform `imagenet` only)."""
    image_size: Annotated[int, Field(ge=0)] = 0
    """Side of the training images in pixels, at least the smallest resolution of the space; 0 uses its largest, or
    that of the fine-tuned net. Each subnet resizes the images to its own resolution."""
    batch_size: Count
    """Images per step, over all processes."""
    transform: Literal["auto", "affine", "imagenet", "cifar"] = "affine"
    """`affine`: centre crop, then `rotate_degrees`, `shift` and `zoom`. `imagenet`: random resized crop and flip.
    `cifar`: random shift by up to 4 pixels with reflection at the edges, and flip. `auto`: `imagenet` for more than 40
    pixels; for smaller images `cifar`, or `affine` when fine-tuning a net whose evaluation crops the images."""
    autoaugment: bool = False
    """Apply AutoAugment after the flip: the ImageNet policy with transform `imagenet`, the CIFAR-10 policy with
    `cifar`."""
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Rotate each image by a random angle, uniform between minus and plus this value."""
    shift: Share = 0.0
    """Shift each image along each axis by a random share of its side, uniform between minus and plus this value."""
    zoom: Share = 0.0
    """Scale each image by a random factor, uniform between 1 - zoom and 1 + zoom."""
    erasing: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Random erasing: the probability that a random rectangle of 2 to 33 % of an image is filled with the mean colour
    of the preprocessing, after the other augmentation (before `rotate_degrees`, `shift` and `zoom`)."""

    @model_validator(mode="after")
    def _settings_agree(self) -> DataConfig:
        """Refuses settings that have no effect with the others."""
        if self.root is None and self.source != "digits":
            raise ValueError(
                f"root is not set; pass data.root=FOLDER, where FOLDER has the images (source={self.source})"
            )
        moves = {name: getattr(self, name) for name in ("rotate_degrees", "shift", "zoom") if getattr(self, name)}
        if self.transform != "affine" and moves:
            raise ValueError(f"{', '.join(moves)} have no effect with transform={self.transform}; leave them at 0")
        if self.transform == "affine" and self.autoaugment:
            raise ValueError("autoaugment has no effect with transform=affine; use transform=imagenet or cifar")
        if self.download and self.source != "cifar10":
            raise ValueError(f"download has no effect with source={self.source}; use source=cifar10, or download=false")
        if self.source == "multilabel" and self.hold_out:
            raise ValueError("hold_out requires one class per image; use a val.csv and hold_out=0")
        if self.engine == "dali" and (
            self.source != "folder" or self.transform != "imagenet" or self.hold_out or self.erasing
        ):
            raise ValueError(
                "engine=dali requires source=folder, transform=imagenet, hold_out=0 and erasing=0; otherwise use "
                "engine=torch"
            )
        if self.engine == "device" and (self.transform == "imagenet" or self.autoaugment):
            raise ValueError(
                "engine=device requires transform=affine or cifar, and autoaugment=false; otherwise use engine=torch"
            )
        return self
