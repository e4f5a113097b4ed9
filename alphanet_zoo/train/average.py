"""An exponential mean of a net's weights over the steps."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from alphanet_zoo.nn.model import AlphaNet


class WeightAverage:
    """The exponential mean of all floating-point tensors of a net; the others are its latest.

    Args:
        net: The net; the mean starts from its weights.
        decay: Share of the old mean that a step keeps.

    Attributes:
        tensors: The mean by name, as in ``net.state_dict()``.
    """

    def __init__(self, net: AlphaNet, decay: float) -> None:
        """Copies the weights."""
        self._decay = decay
        self.tensors = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}

    @torch.no_grad()
    def update(self, net: AlphaNet) -> None:
        """Moves the mean towards the weights."""
        for name, tensor in net.state_dict().items():
            mean = self.tensors[name]
            if mean.is_floating_point():
                mean.lerp_(tensor, 1.0 - self._decay)
            else:
                mean.copy_(tensor)

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes a mean up again."""
        for name, mean in self.tensors.items():
            mean.copy_(tensors[name])

    def as_net(self, net: AlphaNet) -> AlphaNet:
        """A net like ``net`` with the mean as its weights."""
        with torch.device("meta"):
            averaged = AlphaNet.from_config(net.config())
        averaged.load_state_dict({name: tensor.clone() for name, tensor in self.tensors.items()}, assign=True)
        return averaged.train(net.training)
