"""Rejects networks and arguments that cannot be made slimmable, with the name of the module."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from alphanet_zoo.errors import UsageError, one_line

_WRAPPERS = ("OptimizedModule", "DataParallel", "DistributedDataParallel", "FullyShardedDataParallel")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_arguments(
    input_size: Sequence[int], widths: Sequence[float], divisor: int, tie: str | None, resolutions: Sequence[int]
) -> None:
    """Checks the arguments of `slimmable`.

    Raises:
        UsageError: One is out of its domain.
    """
    if not _is_list(input_size) or len(input_size) != 3 or any(not isinstance(n, int) or n < 1 for n in input_size):
        raise UsageError(f"input_size is {input_size!r}; pass (channels, height, width), such as (3, 96, 96)")
    if input_size[1] != input_size[2]:
        raise UsageError(f"input_size is {tuple(input_size)}; pass a square size, such as (3, 96, 96)")
    ascending = _is_list(widths) and len(widths) > 0 and list(widths) == sorted(set(widths))
    if not ascending or not 0 < widths[0] <= widths[-1] <= 1:
        raise UsageError(f"widths is {widths!r}; pass ascending shares from above 0 to 1, such as (0.25, 1.0)")
    if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
        raise UsageError(f"divisor is {divisor!r}; pass a positive integer")
    if tie not in ("uniform", "stage", None):
        raise UsageError(f"tie is {tie!r}; pass 'uniform', 'stage' or None")
    if list(resolutions) != sorted(set(resolutions)) or any(not isinstance(r, int) or r < 1 for r in resolutions):
        raise UsageError(f"resolutions is {resolutions!r}; pass ascending positive integers")


def _is_list(value: object) -> bool:
    """Whether a value is a sequence other than text."""
    return isinstance(value, Sequence) and not isinstance(value, str)


def check_importance(importance: object, images: Tensor | None) -> None:
    """Checks the measure of importance.

    Raises:
        UsageError: It is unknown, or requires images.
    """
    if isinstance(importance, str) and importance not in ("norm", "l1", "data"):
        raise UsageError(f"importance is {importance!r}; pass 'norm', 'l1', 'data' or None")
    if importance == "data" and images is None:
        raise UsageError("importance='data' requires images; pass images=, 64 or more normalised training images")


def check_network(net: nn.Module) -> None:
    """Checks that a network is an ordinary, trainable tree of modules.

    Raises:
        UsageError: It is not; the message names the module.
    """
    if not isinstance(net, nn.Module):
        raise UsageError(f"net is a {type(net).__name__}; pass a torch.nn.Module")
    owners: dict[int, str] = {}
    for name, module in net.named_modules():
        where = f"module {name} ({type(module).__name__})" if name else f"the network ({type(module).__name__})"
        if isinstance(module, torch.jit.ScriptModule):
            raise UsageError(f"{where} is TorchScript; pass the network that was scripted")
        if type(module).__name__ in _WRAPPERS:
            raise UsageError(f"{where} is a wrapper; pass the network inside it")
        if any(getattr(module, hooks, None) for hooks in _HOOKS):
            raise UsageError(f"{where} has hooks, which a smaller network would not keep; remove them")
        if is_parametrized(module):
            raise UsageError(f"{where} is parametrized; call torch.nn.utils.parametrize.remove_parametrizations")
        for key, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{name}.{key}" if name else key
            if is_lazy(parameter):
                raise UsageError(f"{where} is not initialised; run the network once")
            if owners.setdefault(id(parameter), full) != full:
                raise UsageError(f"{owners[id(parameter)]} and {full} are the same parameter; copy it for one of them")
    if not owners:
        raise UsageError(f"the network ({type(net).__name__}) has no parameters")
    if not any(parameter.requires_grad for parameter in net.parameters()):
        raise UsageError(
            f"no parameter of the network ({type(net).__name__}) requires gradients, so it cannot be trained; call "
            "net.requires_grad_(True)"
        )


def check_names(net: nn.Module, keep: Sequence[str]) -> None:
    """Checks the names of the layers to keep.

    Raises:
        UsageError: One is not a module with a convolution or a linear layer.
    """
    if isinstance(keep, str):
        raise UsageError(f"keep is {keep!r}; pass a list of names, such as [{keep!r}]")
    layers = [name for name, module in net.named_modules() if isinstance(module, _ConvNd | nn.Linear)]
    for name in keep:
        if not any(layer == name or layer.startswith(f"{name}.") for layer in layers):
            near = difflib.get_close_matches(str(name), layers, 1)
            known = f"its layers are {', '.join(layers[:3])}, ..." if layers else "it has no layers to name"
            hint = f"did you mean {near[0]}?" if near else known
            raise UsageError(f"keep names {name!r}, which is not a layer of {type(net).__name__}; {hint}")


def copied(net: nn.Module) -> nn.Module:
    """A copy of a network in training mode.

    Raises:
        UsageError: It cannot be copied or trained.
    """
    try:
        twin = copy.deepcopy(net)
    except Exception as error:
        raise UsageError(f"the network ({type(net).__name__}) cannot be copied: {one_line(error)}") from error
    try:
        return twin.train()
    except Exception as error:
        raise UsageError(
            f"the network ({type(net).__name__}) runs in evaluation only: {one_line(error)}; pass the network that "
            "it was made from"
        ) from error
