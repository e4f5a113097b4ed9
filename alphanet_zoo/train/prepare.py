"""Completes a config before a run: settings that depend on the images or on the net to fine-tune."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from alphanet_zoo.data.sources import ImageSource, image_side, open_source
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.slim.choices import FAMILY as SLIMMABLE
from alphanet_zoo.space.cost import count_macs
from alphanet_zoo.space.custom import fitted_space
from alphanet_zoo.space.family import Space
from alphanet_zoo.space.presets import SPACES
from alphanet_zoo.space.space import SearchSpace
from alphanet_zoo.train.build import finetuned_net
from alphanet_zoo.train.config import AUTO, NET, TrainConfig

HELD_OUT_SHARE = 0.2
"""Share of the images used for validation if the data has no validation folder."""
_SMALL = 40
"""Largest resolution, in pixels, that transform `auto` treats as small."""
_SAMPLE = 48
"""Number of images whose size is read."""
_MUCH_LARGER = 2.0
"""Images whose short side is this many times the largest resolution cause a warning."""

_LOG = logging.getLogger(__name__)


def prepare(config: TrainConfig, tell: Callable[[str], None]) -> TrainConfig:
    """The config with `space`, `data.image_size`, `data.transform` and the split of the images determined.

    Returns ``config`` itself if they are all set.

    Args:
        config: The config of a run.
        tell: Called with a line of text for each choice that was made.

    Raises:
        UsageError: The images or the net to fine-tune do not exist, or the budget is too small.
    """
    if config.net is not None:
        config = _replaced(config, data=_split(config, tell))
        chosen = "imagenet" if config.data.image_size > _SMALL else "cifar"
        return _replaced(config, data={"transform": chosen if config.data.transform == AUTO else config.data.transform})
    if config.space == NET and config.finetune.net is None:
        raise UsageError(
            "the net to fine-tune is not set; pass finetune.model=NAME or finetune.weights=FILE (also a run, a folder "
            "or a Hub repository). To train a slimmable network, pass net=timm/NAME, net=torchvision/NAME or "
            "net=module:function"
        )
    config = _replaced(config, data=_split(config, tell))
    data, net, fits = config.data, None, config.space not in (AUTO, NET)
    if config.finetune.net is not None and not (fits and data.image_size and data.transform != AUTO):
        net = finetuned_net(config.finetune)
    if fits:
        space: Space[Any] = config.search_space
    else:
        space = _fitted(config, tell) if net is None else net.space
    slimmable = net is not None and net.config()["model_type"] == SLIMMABLE
    size = data.image_size or (space.largest if net is None else net.arch).resolution
    transform: str = data.transform
    if transform == AUTO:
        crops = net is not None and net.pretrained_cfg["crop_pct"] != 1.0
        transform = "imagenet" if size > _SMALL else "affine" if crops else "cifar"
    return _replaced(
        config,
        space=NET if slimmable else space.name if space.name in SPACES else space.to_dict(),
        data={"image_size": size, "transform": transform},
    )


def _replaced(config: TrainConfig, *, data: dict[str, Any], **changes: Any) -> TrainConfig:
    """A config with other values, checked again; ``config`` itself if nothing changes."""
    tree = config.model_dump()
    changed = tree | changes | {"data": tree["data"] | data}
    return config if changed == tree else TrainConfig.model_validate(changed)


def _split(config: TrainConfig, tell: Callable[[str], None]) -> dict[str, Any]:
    """Settings that hold images out if the root contains the class folders themselves."""
    data = config.data
    if data.source != "folder" or data.train != "train" or data.root is None:
        return {}
    root = Path(data.root)
    if not root.is_dir() or (root / data.train).exists() or (root / data.val).exists():
        return {}
    source = open_source(data.model_copy(update={"train": ".", "hold_out": 0}))
    count = data.hold_out or max(round(HELD_OUT_SHARE * len(source)), len(source.classes))
    tell(
        f"{root} has no folder {data.train}: its {len(source.classes)} folders are the classes, and {count} of the "
        f"{len(source)} images are held out for validation"
    )
    return {"train": ".", "hold_out": count}


def _fitted(config: TrainConfig, tell: Callable[[str], None]) -> SearchSpace:
    """The search space for the training images and the budget."""
    source = open_source(config.data)
    side = config.data.image_size or typical_side(source)
    space = fitted_space(side, config.budget, len(source.classes))
    low, high = (count_macs(arch, space, len(source.classes)) / 1e6 for arch in (space.smallest, space.largest))
    resolutions = ", ".join(map(str, space.resolution))
    tell(
        f"images of {side} pixels (median short side) and budget={config.budget / 1e6:g}M: search space {space.name}, "
        f"resolutions {resolutions}, {low:.1f} to {high:.1f} M MACs"
    )
    return space


def typical_side(source: ImageSource) -> int:
    """The median short side of a sample of the images, in pixels. Broken images are left out.

    Raises:
        AlphaNetError: All images of the sample are broken.
    """
    count = min(_SAMPLE, len(source))
    sides = [image_side(source, index * len(source) // count) for index in range(count)]
    if not any(sides):
        raise AlphaNetError(f"no image of {source.name} can be decoded ({count} tried); run alphanet verify-data on it")
    return round(median(side for side in sides if side is not None))


def warn_of_large_images(config: TrainConfig, source: ImageSource) -> None:
    """Logs a warning if a supernet is trained on images much larger than the largest resolution of its space."""
    if config.finetune.net is not None or config.net is not None:
        return
    side, largest = typical_side(source), max(config.search_space.resolution)
    if config.data.image_size > largest:
        _LOG.warning(
            "data.image_size is %d, and the largest resolution of the space %s is %d: the network resizes the images; "
            "data.image_size=0 decodes them at %d pixels, and the recipe own_images selects a space that fits",
            config.data.image_size, config.search_space.name, largest, largest,
        )  # fmt: skip
    if side >= _MUCH_LARGER * largest:
        _LOG.warning(
            "the images have a median short side of %d pixels, and the largest resolution of the space %s is %d; the "
            "recipe own_images (space=auto) selects a space that fits the images",
            side, config.search_space.name, largest,
        )  # fmt: skip
