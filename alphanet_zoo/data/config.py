"""Settings of the images of a run. No torch here."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from alphanet_zoo.schema import Count, Section, Share


class DataConfig(Section):
    """Where the training images come from and how they are varied."""

    root: Annotated[str, Field(min_length=1)]
    """The folder (for `webdataset` also an address such as `https://host/folder`) that `train` and `val` are in."""
    source: Literal["folder", "digits", "cifar10", "webdataset", "multilabel"] = "folder"
    """`folder`: `<class>/<image>`. `digits`: alike, and scikit-learn's handwritten digits are written to `root` first
    if it does not exist. `cifar10`: `root` has `cifar-10-batches-py`, or is a folder as above. `webdataset`: shards.
    `multilabel`: several labels an image, in tables `train.csv` and `val.csv` beside the folders of images."""
    download: bool = False
    """Fetch what `cifar10` wants into `root`, where it is not there."""
    train: Annotated[str, Field(min_length=1)] = "train"
    """Training images in `root`; for shards their names, such as `train-{0000..1280}.tar`."""
    val: Annotated[str, Field(min_length=1)] = "val"
    """Validation images, alike; no step learns from them."""
    cache: str | None = None
    """Folder that shards of an address are fetched into, whole."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Processes that make batches ahead; 0 makes them between the steps. The batches are the same."""
    hold_out: Annotated[int, Field(ge=0)] = 0
    """So many training images, a fixed choice that is even over the classes, are learnt from by no step and take the
    place of `val`; 0 validates on `val`."""
    engine: Literal["torch", "device", "dali"] = "torch"
    """`device` keeps all images on the training device and varies whole batches there, to the same bits (small images,
    transforms `affine` and `cifar` without `autoaugment`). `dali` decodes and varies on the training
    device with NVIDIA's library (the `dali` extra; a folder and the `imagenet` transform only)."""
    image_size: Count
    """Side of the training images in pixels; every subnet resizes them to its own resolution."""
    batch_size: Count
    """Images a step, over all processes."""
    transform: Literal["affine", "imagenet", "cifar"] = "affine"
    """`affine`: centre crop, then `rotate_degrees`, `shift` and `zoom`. `imagenet`: random resized crop and flip.
    `cifar`: random crop with a border of 4 pixels and flip."""
    autoaugment: bool = False
    """AutoAugment after the flip: the ImageNet or the CIFAR-10 policy, by `transform`."""
    rotate_degrees: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0
    """Each image turns by a uniform angle up to this, either way."""
    shift: Share = 0.0
    """Each image moves by a uniform share of its side up to this, along each axis."""
    zoom: Share = 0.0
    """Each image scales by a uniform factor from 1 - zoom to 1 + zoom."""

    @model_validator(mode="after")
    def _settings_agree(self) -> DataConfig:
        """No setting is given that the others leave without effect."""
        moves = {name: getattr(self, name) for name in ("rotate_degrees", "shift", "zoom") if getattr(self, name)}
        if self.transform != "affine" and moves:
            raise ValueError(f"{', '.join(moves)} have no effect in transform {self.transform}; leave them 0")
        if self.transform == "affine" and self.autoaugment:
            raise ValueError("autoaugment has no effect in transform affine; give transform=imagenet or cifar")
        if self.download and self.source != "cifar10":
            raise ValueError(f"download has no effect for source {self.source}; give source=cifar10, or leave it false")
        if self.source == "multilabel" and self.hold_out:
            raise ValueError("hold_out takes images of one class each; give a val.csv and hold_out=0")
        if self.engine == "dali" and (self.source != "folder" or self.transform != "imagenet" or self.hold_out):
            raise ValueError(
                "engine dali takes source=folder and transform=imagenet, and hold_out=0; give engine=torch"
            )
        if self.engine == "device" and (self.transform == "imagenet" or self.autoaugment):
            raise ValueError("engine device takes transform affine or cifar without autoaugment; give engine=torch")
        return self
