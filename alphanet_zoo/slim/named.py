"""Slimmable networks by name: from timm, torchvision or a function of the user's."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from alphanet_zoo.errors import AlphaNetError, MissingDependencyError, UsageError, one_line
from alphanet_zoo.nn.config import as_calibration, restored_cfg
from alphanet_zoo.slim.arch import SlimArch
from alphanet_zoo.slim.checks import check_importance
from alphanet_zoo.slim.choices import FAMILY
from alphanet_zoo.slim.network import SlimNetwork
from alphanet_zoo.slim.order import Importance
from alphanet_zoo.slim.supernet import Slimmable, slimmable
from alphanet_zoo.tensor_file import read_tensor_file
from alphanet_zoo.unpickle import read_tensors

PRETRAINED = "pretrained"
"""Value of ``weights``: download those of timm or torchvision."""

_MEANING = "timm/NAME, torchvision/NAME or module:function"


def is_network_name(name: str) -> bool:
    """Whether a text is a name for `build_network`: ``timm/NAME``, ``torchvision/NAME`` or ``module:function``."""
    library, slash, _ = name.partition("/")
    module, colon, function = name.partition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    return bool(slash) and library in ("timm", "torchvision") or (bool(colon) and dotted and function.isidentifier())


def build_network(name: str, num_classes: int | None, *, pretrained: bool = False) -> nn.Module:
    """The network of a name, for colour images.

    Args:
        name: ``timm/NAME``, ``torchvision/NAME``, or ``module:function``, a function that takes ``num_classes`` and
            returns a module. The module may be a file in the current folder.
        num_classes: Outputs of the classifier; None, with ``pretrained``, is the number of the weights.
        pretrained: Download the weights of timm or torchvision. A torchvision network then has its own classes.

    Raises:
        UsageError: The network does not exist or cannot be built.
        AlphaNetError: The weights cannot be downloaded.
        MissingDependencyError: timm is not installed.
    """
    library, _, inner = name.partition("/")
    if library == "timm" and inner:
        try:
            import timm
        except ImportError as error:
            raise MissingDependencyError("timm", "timm") from error
        if not timm.is_model(inner.partition(".")[0]):
            raise UsageError(f"timm has no network {inner!r}; timm.list_models() lists them")
        with _download_errors(name, pretrained):
            net: nn.Module = timm.create_model(inner, pretrained=pretrained, num_classes=num_classes)
        return net
    if library == "torchvision" and inner:
        from torchvision import models

        if inner not in models.list_models(models):
            raise UsageError(f"torchvision has no classifier {inner!r}; torchvision.models.list_models() lists them")
        chosen = {"weights": "DEFAULT"} if pretrained else {"weights": None, "num_classes": num_classes}
        with _download_errors(name, pretrained):
            net = models.get_model(inner, **chosen)
        return net
    if pretrained or num_classes is None:
        raise UsageError(f"{name} has no published weights; pass the path of a file as weights")
    return _called(name, num_classes)


@contextlib.contextmanager
def _download_errors(name: str, pretrained: bool) -> Iterator[None]:
    """Turns the errors of a download into one line; HTTP, TLS, proxy and Hub errors have no common base class."""
    try:
        yield
    except Exception as error:
        if not pretrained:
            raise
        raise AlphaNetError(
            f"cannot get the published weights of {name} ({one_line(error)}); pass the path of a file with its "
            "state dict"
        ) from error


def _function(name: str) -> Callable[..., Any]:
    """The function of ``module:function``."""
    module, colon, function = name.partition(":")
    if not module or not colon or not function.isidentifier():
        raise UsageError(f"the network {name!r} is not a name; pass {_MEANING}")
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise UsageError(f"the module of the network {name} cannot be imported: {error}") from error
        raise UsageError(
            f"the network {name} needs {module.replace('.', '/')}.py, which is neither in the current folder nor "
            "installed; run the command in its folder, or add the folder to PYTHONPATH"
        ) from error
    except Exception as error:
        raise UsageError(f"the module of the network {name} cannot be imported: {_located(error)}") from error
    finally:
        sys.path.remove(folder)
    if not callable(found):
        raise UsageError(f"the module {module} has no function {function!r} (network {name})")
    return cast(Callable[..., Any], found)


def _called(name: str, num_classes: int) -> nn.Module:
    """The result of ``module:function``."""
    found = _function(name)
    try:
        net = found(num_classes=num_classes)
    except AlphaNetError:
        raise
    except Exception as error:
        raise UsageError(f"{name} fails with num_classes={num_classes}: {_located(error)}") from error
    if not isinstance(net, nn.Module):
        raise UsageError(f"{name} returns a {type(net).__name__}; it must return a torch.nn.Module")
    return net


def _located(error: Exception) -> str:
    """An error on one line, with the file and line that raised it."""
    text = one_line(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__ and not f.filename.startswith("<")]
    return f"{text} ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else text


def image_settings(name: str) -> dict[str, Any]:
    """The mean and deviation of the images that a network expects, if they are recorded; else none.

    timm records them, and a function of the user's may have them in an attribute ``pretrained_cfg``.
    """
    library, _, inner = name.partition("/")
    if library == "timm":
        import timm

        cfg = timm.get_pretrained_cfg(inner)
        return {} if cfg is None else {"mean": tuple(cfg.mean), "std": tuple(cfg.std)}
    own = {} if library == "torchvision" else getattr(_function(name), "pretrained_cfg", {})
    return {key: tuple(own[key]) for key in ("mean", "std") if key in own}


def named_slimmable(
    name: str,
    num_classes: int,
    input_size: Sequence[int] = (3, 96, 96),
    *,
    importance: Importance | None = "norm",
    images: Tensor | None = None,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
    **options: Any,
) -> Slimmable:
    """`alphanet_zoo.slim.supernet.slimmable` of a network's name, which can be saved and opened again.

    The space depends on the name and the options only, not on weights and ``seed``.

    Args:
        name: See `build_network`.
        num_classes: Outputs of the classifier.
        input_size: Channels, height and width of the images; a square.
        importance: Order of the channels before training, see `slimmable`.
        images: Normalised training images for ``importance='data'``, see `slimmable`.
        weights: A file with the network's state dict (.safetensors, .pt or .pth), or 'pretrained' to download those of
            timm or torchvision. A classifier for other classes is not loaded, but newly initialised with small weights
            (normal, deviation 0.01), because those of a library can be large: of timm's EfficientNets with 10 classes,
            0.18, so that the first loss is 6.6 instead of 2.3. None: random weights.
        seed: Seed of random weights.
        options: ``widths``, ``divisor``, ``tie``, ``depth``, ``resolutions`` and ``keep`` of `slimmable`.

    Raises:
        UsageError: The network does not exist or is not suitable, or the weights are those of another network.
        MissingDependencyError: timm is not installed.
    """
    check_importance(importance, images)
    supernet = slimmable(
        _seeded(name, num_classes, 0), input_size, importance=None, origin=name,
        name=name.rpartition("/")[2].rpartition(":")[2], **options,
    )  # fmt: skip
    if supernet.num_classes != num_classes:
        raise UsageError(
            f"{name} returns {supernet.num_classes} outputs for num_classes={num_classes}; use num_classes as the "
            "number of outputs of its last layer"
        )
    supernet.pretrained_cfg |= image_settings(name)
    found = _seeded(name, num_classes, seed).state_dict()
    if weights is not None:
        found |= _weights(name, weights, found, num_classes, seed)
    supernet.net.load_state_dict(found)
    if importance is not None:
        supernet.reorder(importance, images)
    return supernet


def _seeded(name: str, num_classes: int, seed: int) -> nn.Module:
    """The network with random weights that depend on the seed only."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(name, num_classes)


def with_classes(net: SlimNetwork, num_classes: int) -> SlimNetwork:
    """A network with the weights of another one, and a new classifier for other classes.

    Raises:
        UsageError: The network was passed as a module, or its function builds other layers for these classes.
    """
    if net.origin is None:
        raise UsageError("the network was passed as a module, which cannot be built again for other classes")
    supernet = named_slimmable(net.origin, num_classes, importance=None, **asdict(net.options))
    fresh: SlimNetwork = supernet if net.supernet else supernet.subnet(net.arch)
    expected, seed = fresh.net.state_dict(), torch.initial_seed() % 2**63
    fresh.net.load_state_dict(_fitted(net.origin, net.net.state_dict(), "the network", expected, num_classes, seed))
    fresh.calibration = net.calibration
    fresh.pretrained_cfg |= {key: net.pretrained_cfg[key] for key in ("mean", "std", "crop_pct", "interpolation")}
    return fresh.train(net.training)


def _weights(
    name: str, weights: str | os.PathLike[str], expected: Mapping[str, Tensor], num_classes: int, seed: int
) -> dict[str, Tensor]:
    """The weights for a network; a classifier for other classes is replaced by a new one."""
    if weights == PRETRAINED:
        found, source = build_network(name, num_classes, pretrained=True).state_dict(), f"the weights of {name}"
    else:
        found, source = read_weights(Path(weights)), os.fspath(weights)
    return _fitted(name, found, source, expected, num_classes, seed)


def _fitted(
    name: str, found: Mapping[str, Tensor], source: str, expected: Mapping[str, Tensor], num_classes: int, seed: int
) -> dict[str, Tensor]:
    """The tensors of a state dict; a classifier for other classes is replaced by a new one."""
    shared = {key: tensor for key, tensor in found.items() if key in expected}
    other = [key for key, tensor in shared.items() if tensor.shape != expected[key].shape]
    head = [key for key in other if expected[key].shape[:1] == (num_classes,) != found[key].shape[:1]]
    wrong = sorted({*other} - {*head}) + sorted(expected.keys() - found.keys()) + sorted(found.keys() - expected.keys())
    if wrong:
        raise UsageError(
            f"{source} does not contain the weights of {name}: {', '.join(wrong[:4])} "
            f"{f'and {len(wrong) - 4} more ' if len(wrong) > 4 else ''}missing, unexpected or of another shape"
        )
    generator = torch.Generator().manual_seed(seed)
    new = {key: torch.zeros_like(expected[key]) for key in head}
    for tensor in new.values():
        if tensor.ndim > 1:
            tensor.normal_(std=0.01, generator=generator)
    return shared | new


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file with a state dict (.safetensors, .pt or .pth) by name.

    Raises:
        UsageError: The file does not exist, or contains something else.
        AlphaNetError: It cannot be read.
    """
    if not path.is_file():
        raise UsageError(f"the weights {path} are not a file; pass a .safetensors, .pt or .pth file, or {PRETRAINED}")
    if path.suffix.lower() == ".safetensors":
        return read_tensor_file(path).tensors
    return read_tensors(path, keys=("state_dict", "model"), bare=True)


def from_config(config: Mapping[str, Any]) -> SlimNetwork:
    """The network of a `SlimNetwork.config`, with random weights.

    Raises:
        ValueError: The config is malformed, or the network now has other channels than when it was saved.
        UsageError: (a ValueError) The network cannot be built.
    """
    if config.get("model_type") != FAMILY:
        raise ValueError(f"not the config of a slimmable network: its model_type must be {FAMILY!r}")
    missing = {"network", "options", "space", "arch", "supernet", "calibration", "pretrained_cfg"} - set(config)
    if missing:
        raise ValueError(f"the config of a slimmable network lacks {', '.join(sorted(missing))}")
    supernet = named_slimmable(config["network"], config["num_classes"], importance=None, **config["options"])
    if supernet.space.to_dict() != config["space"]:
        raise ValueError(
            f"{config['network']} now has other channels than when it was saved; install the versions of torch, timm "
            "and torchvision that trained it"
        )
    arch = SlimArch.from_dict(config["arch"])
    net: SlimNetwork = supernet if config["supernet"] else supernet.subnet(arch)
    net.calibration = as_calibration(config["calibration"])
    net.pretrained_cfg = restored_cfg(config["pretrained_cfg"])
    return net
