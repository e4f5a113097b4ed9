"""PyTorch compiled: a net in memory, made into C++ on the spot."""

from __future__ import annotations

import torch
from torch import nn

from alphanet_export.packages import require_compiler
from alphanet_export.runtimes.torch_runtime import TorchRuntime, torch_threads


class Compiled(TorchRuntime):
    """A net in eval mode through ``torch.compile``.

    It is compiled for every new shape of its input, on the first images of that shape.

    Args:
        net: The net, which is not copied.
        threads: As `Runtime`; the compiled code is made for that many.
        precision: As `Runtime`.

    Raises:
        ValueError: The net is in training mode.
        MissingProgramError: There is no C++ compiler.
    """

    name, title = "pytorch-compiled", "compiled PyTorch"

    def __init__(self, net: nn.Module, threads: int | None = None, precision: str = "fp32") -> None:
        """Prepares the net for compilation."""
        super().__init__(type(net).__name__, threads, precision)
        if net.training:
            raise ValueError("a runtime takes a network in eval mode; call net.eval() first")
        require_compiler()
        with torch_threads(self.threads):
            self._engine = torch.compile(net, dynamic=False)
