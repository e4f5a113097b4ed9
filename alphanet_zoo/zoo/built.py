"""Builds a network from its description, or for other classes, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import torch

from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.slim.choices import FAMILY as SLIMMABLE

if TYPE_CHECKING:
    from alphanet_zoo.slim.network import SlimNetwork


def built(config: Mapping[str, Any]) -> Network:
    """The network of a `Network.config`, whose tensors have no meaning until others are loaded with ``assign=True``.

    Raises:
        ValueError: The config is malformed.
    """
    if isinstance(config, Mapping) and config.get("model_type") == SLIMMABLE:
        from alphanet_zoo.slim.named import from_config

        return from_config(config)
    with torch.device("meta"):
        return AlphaNet.from_config(config)


def with_classes(net: Network, num_classes: int) -> Network:
    """A network with a new, randomly initialised classifier for other classes: ``net`` itself, or a new one.

    Raises:
        UsageError: The network cannot be built for these classes.
    """
    if net.config()["model_type"] == SLIMMABLE:
        from alphanet_zoo.slim import named

        return named.with_classes(cast("SlimNetwork", net), num_classes)
    cast(AlphaNet, net).reset_classifier(num_classes)
    return net
