"""What the search asks of a toolchain that quantises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from alphanet_export.onnx_model import FloatArray
from alphanet_export.quantize.layers import Layer


class Toolchain(ABC):
    """Makes int8 models of one float32 graph. A model is whatever the toolchain runs; None is the float32 one.

    Attributes:
        title: Name and version.
        methods: Ways to find the range of an activation, the default first.
        layers: That can be int8, in the order they run.
        reduced: Whether weights have 7 of the 8 bits, because this CPU's int8 kernels saturate with 8.
    """

    methods: ClassVar[tuple[str, ...]]
    title: str
    layers: tuple[Layer, ...]
    reduced: bool

    @abstractmethod
    def build(self, method: str, names: Collection[str]) -> Any:
        """The model whose layers called ``names`` are int8, their biases corrected."""

    @abstractmethod
    def runner(self, model: Any, threads: int = 0) -> Callable[[FloatArray], FloatArray]:
        """What computes logits ``(N, classes)`` of images ``(N, 3, S, S)``; with 0 threads the runtime chooses."""

    @abstractmethod
    def write(self, model: Any, path: Path, metadata: Mapping[str, str]) -> None:
        """Writes a model to ``path`` (and to the files that belong beside it)."""
