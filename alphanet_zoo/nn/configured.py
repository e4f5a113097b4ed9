"""A network that can be described by plain values and built from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import nn

from alphanet_zoo.nn.config import as_calibration, restored_cfg
from alphanet_zoo.nn.plain import is_plain
from alphanet_zoo.nn.timm_api import TimmApi
from alphanet_zoo.space.arch import ArchSpec
from alphanet_zoo.space.space import SearchSpace

_DEFAULTS: dict[str, Any] = {"in_chans": 3, "global_pool": "avg", "top1": None}
"""Entries of a config that are absent if they have these values."""


class Configured(TimmApi):
    """Adds `config` and `from_config` to `alphanet_zoo.nn.model.AlphaNet`."""

    def config(self) -> dict[str, Any]:
        """The description from which `from_config` builds this network, without its weights, ready for JSON.

        Raises:
            ValueError: The classifier is neither a Linear nor an Identity.
        """
        if not (isinstance(self.classifier, nn.Identity) or is_plain(self.classifier)):
            kind = type(self.classifier).__name__
            raise ValueError(
                f"the classifier is a {kind}, which a config cannot describe; save net.state_dict() instead"
            )
        options = {"in_chans": self.in_chans, "global_pool": self.global_pool, "top1": self.top1}
        return {
            "model_type": "alphanet",
            **self.described(),
            **{key: value for key, value in options.items() if value != _DEFAULTS[key]},
        }

    def described_tensors(self) -> set[str]:
        """The names of the tensors of the network that `config` describes."""
        with torch.device("meta"):
            return set(self.from_config(self.config()).state_dict())

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **rates: Any) -> Self:
        """A newly initialised network from a `config`; ``rates`` are ``drop_rate`` and ``drop_path_rate``.

        Raises:
            ValueError: The config is malformed, or its values are out of their domain.
        """
        if not isinstance(config, Mapping) or config.get("model_type") != "alphanet":
            raise ValueError("not the config of an AlphaNet: its model_type must be 'alphanet'")
        missing = {"space", "arch", "num_classes", "supernet", "calibration", "pretrained_cfg"} - set(config)
        if missing:
            raise ValueError(f"the config of an AlphaNet lacks {', '.join(sorted(missing))}")
        space, arch = SearchSpace.from_dict(config["space"]), ArchSpec.from_dict(config["arch"])
        cfg = restored_cfg(config["pretrained_cfg"])
        options = {key: config.get(key, default) for key, default in _DEFAULTS.items()}
        top1 = options.pop("top1")
        net = cls(arch, space, config["num_classes"], supernet=bool(config["supernet"]), **rates, **options)
        net.calibration = as_calibration(config["calibration"])
        net.pretrained_cfg = cfg | net._input_cfg()
        net.top1 = None if top1 is None else float(top1)
        return net
