"""Random weights under which every layer affects the output, for timing and parity checks."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from alphanet_zoo.nn.model import AlphaNet

Net = TypeVar("Net", bound=nn.Module)


def _live_value(name: str, tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The value of one parameter or buffer, by its kind."""
    if not tensor.is_floating_point():
        return torch.zeros_like(tensor)
    if name.endswith("running_var") or (name.endswith("weight") and tensor.dim() == 1):
        return torch.rand(tensor.shape, generator=generator) + 0.5
    normal = torch.randn(tensor.shape, generator=generator)
    if tensor.dim() == 1:
        return normal * 0.1
    return normal / math.sqrt(tensor[0].numel())


@torch.no_grad()
def fill_live(net: Net, seed: int = 0) -> Net:
    """Fills every parameter and buffer from ``seed`` so that all blocks affect the output.

    Weights have the standard deviation fan-in ** -0.5, batch norm's weight and variance lie in 0.5 to 1.5, means
    and biases are small. (Under PyTorch's own initialisation the zeroed last batch norm of each block hides the
    block from a parity check.) An AlphaNet's ``calibration`` is then 'random'.

    Returns:
        ``net`` itself.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        tensor.copy_(_live_value(name, tensor, generator))
    if isinstance(net, AlphaNet):
        net.calibration = "random"
    return net
