"""Writes a frozen network as weights that `alphanet_zoo.create_model` and every command load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from alphanet_export.freeze import FrozenNet
from alphanet_export.runtimes.runtime import PREFIX
from alphanet_zoo.zoo.files import save_net
from alphanet_zoo.zoo.names import is_name


def write_weights(frozen: FrozenNet, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a ``.safetensors`` file: the static network with its batch-norm statistics, before folding.

    The name in ``metadata`` is stored in ``pretrained_cfg``. The side of the input is the arch's resolution.
    """
    net = frozen.net.subnet(frozen.net.arch)
    name = json.loads(metadata[PREFIX + "name"])
    net.pretrained_cfg["name"] = name
    if is_name(name):
        net.pretrained_cfg["architecture"] = name
    save_net(net, path)
