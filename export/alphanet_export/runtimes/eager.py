"""PyTorch as it is: a net in memory."""

from __future__ import annotations

from torch import nn

from alphanet_export.runtimes.torch_runtime import TorchRuntime


class Eager(TorchRuntime):
    """A net in eval mode, run layer by layer.

    Args:
        net: The net, which is not copied. It takes any size that it resizes itself.
        threads: As `Runtime`.
        precision: As `Runtime`.

    Raises:
        ValueError: The net is in training mode.
    """

    name, title = "pytorch", "PyTorch"

    def __init__(self, net: nn.Module, threads: int | None = None, precision: str = "fp32") -> None:
        """Takes the net."""
        super().__init__(type(net).__name__, threads, precision)
        if net.training:
            raise ValueError("a runtime takes a network in eval mode; call net.eval() first")
        self._engine = net
