"""Builds a network from its description, whatever its family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from alphanet_zoo.nn.family import Network
from alphanet_zoo.nn.model import AlphaNet
from alphanet_zoo.slim.choices import FAMILY as SLIMMABLE


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
