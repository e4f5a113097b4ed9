"""AlphaNet Zoo: accurate image classifiers for a compute budget.

Public names are imported on first use, so that ``import alphanet_zoo`` is fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_MODULES = {
    "ALPHANET": "space.presets",
    "ALPHANET_CIFAR": "space.presets",
    "ALPHANET_TINY": "space.presets",
    "ArchSpec": "space.arch",
    "SearchSpace": "space.space",
    "Stage": "space.choices",
    "count_macs": "space.cost",
    "count_params": "space.cost",
    "AlphaNet": "nn.model",
    "FeatureExtractor": "nn.features",
    "build_supernet": "nn.model",
    "calibrate": "nn.calibration",
    "Classifier": "predict.classifier",
    "SlimArch": "slim.arch",
    "slimmable": "slim.supernet",
    "Switchable": "slim.switchable",
    "SLIMMABLE_EFFICIENTNET_LITE0": "slim.presets",
    "SLIMMABLE_MOBILENET_V1": "slim.presets",
    "SLIMMABLE_MOBILENET_V2": "slim.presets",
    "load_upstream": "zoo.convert",
    "list_models": "zoo.names",
    "create_model": "zoo.registry",
    "from_pretrained": "zoo.hub",
}
_EXPORT = {"export": "alphanet_export.export"}
_SUBPACKAGES = ("space", "nn", "slim", "data", "evaluate", "zoo", "predict", "train", "search")

if TYPE_CHECKING:
    from alphanet_export.export import export as export
    from alphanet_zoo import data as data
    from alphanet_zoo import evaluate as evaluate
    from alphanet_zoo import nn as nn
    from alphanet_zoo import predict as predict
    from alphanet_zoo import search as search
    from alphanet_zoo import slim as slim
    from alphanet_zoo import space as space
    from alphanet_zoo import train as train
    from alphanet_zoo import zoo as zoo
    from alphanet_zoo.nn import losses as losses
    from alphanet_zoo.nn.calibration import calibrate as calibrate
    from alphanet_zoo.nn.features import FeatureExtractor as FeatureExtractor
    from alphanet_zoo.nn.model import AlphaNet as AlphaNet
    from alphanet_zoo.nn.model import build_supernet as build_supernet
    from alphanet_zoo.predict.classifier import Classifier as Classifier
    from alphanet_zoo.slim.arch import SlimArch as SlimArch
    from alphanet_zoo.slim.presets import SLIMMABLE_EFFICIENTNET_LITE0 as SLIMMABLE_EFFICIENTNET_LITE0
    from alphanet_zoo.slim.presets import SLIMMABLE_MOBILENET_V1 as SLIMMABLE_MOBILENET_V1
    from alphanet_zoo.slim.presets import SLIMMABLE_MOBILENET_V2 as SLIMMABLE_MOBILENET_V2
    from alphanet_zoo.slim.supernet import slimmable as slimmable
    from alphanet_zoo.slim.switchable import Switchable as Switchable
    from alphanet_zoo.space.arch import ArchSpec as ArchSpec
    from alphanet_zoo.space.choices import Stage as Stage
    from alphanet_zoo.space.cost import count_macs as count_macs
    from alphanet_zoo.space.cost import count_params as count_params
    from alphanet_zoo.space.presets import ALPHANET as ALPHANET
    from alphanet_zoo.space.presets import ALPHANET_CIFAR as ALPHANET_CIFAR
    from alphanet_zoo.space.presets import ALPHANET_TINY as ALPHANET_TINY
    from alphanet_zoo.space.space import SearchSpace as SearchSpace
    from alphanet_zoo.zoo.convert import load_upstream as load_upstream
    from alphanet_zoo.zoo.hub import from_pretrained as from_pretrained
    from alphanet_zoo.zoo.names import list_models as list_models
    from alphanet_zoo.zoo.registry import create_model as create_model

__all__ = ["__version__", "losses", *_MODULES, *_EXPORT]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    if name == "losses":
        return import_module(f"{__name__}.nn.losses")
    if name in _EXPORT:
        return getattr(import_module(_EXPORT[name]), name)
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """The public names."""
    return sorted({*__all__, *_SUBPACKAGES})
