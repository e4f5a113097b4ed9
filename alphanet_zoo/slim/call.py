"""One call of an operator, as the rules see it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from alphanet_zoo.slim.labels import Labelling, Labellings, Labels, varying


@dataclass(frozen=True, eq=False)
class Product:
    """The multiply-accumulates of one operator for one image: a constant times the lengths of some dimensions.

    Attributes:
        module: The module that runs it.
        constant: The constant factor.
        factors: Labels of the dimensions, ``(n,)`` each.
    """

    module: str
    constant: int
    factors: tuple[Labelling, ...]


@dataclass
class Call:
    """One call of an operator.

    Attributes:
        name: Its name, such as ``convolution``.
        arguments: Its arguments by name.
        outputs: The tensors that it returned.
        labels: The labels of the network.
        known: Labellings of the tensors seen so far, by ``id``.
        free: ``id`` of tensors filled with constants, which fit any label.
        module: Name of the module that runs it.
        products: Its multiply-accumulates are added here.
        batch: Images in the batch; 1 if the operator's inputs do not depend on the images.
        ordered: Labels whose order matters are added here.
    """

    name: str
    arguments: dict[str, Any]
    outputs: list[Tensor]
    labels: Labels
    known: dict[int, Labellings]
    free: set[int]
    module: str
    products: list[Product]
    batch: int
    ordered: list[Labelling] = field(default_factory=list)

    def of(self, tensor: Tensor) -> Labellings:
        """The labellings of a tensor, in canonical form."""
        found = self.known.get(id(tensor))
        if not found:
            return []
        return self.labels.canonical(found)

    def axis(self, tensor: Tensor, dim: int) -> Labelling:
        """The labels along one dimension, ``(n,)``: 0 if it is fixed."""
        dim %= tensor.dim()
        for labelling in self.of(tensor):
            if varying(labelling) == (dim,):
                return labelling.ravel()
        return np.zeros(tensor.shape[dim], dtype=np.int64)

    def only(self, tensor: Tensor, dims: Sequence[int]) -> None:
        """Fixes the labels of a tensor that do not vary along exactly one of ``dims``."""
        allowed = {(dim % tensor.dim(),) for dim in dims}
        for labelling in self.of(tensor):
            if varying(labelling) not in allowed:
                self.labels.freeze(labelling, f"operator {self.name}")

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments."""
        return [tensor for value in self.arguments.values() for tensor in flat(value)]

    def count(self, constant: int, *factors: Labelling) -> None:
        """Records the multiply-accumulates of the call."""
        dims = [self.labels.roots(factor) for factor in factors]
        constant *= math.prod(len(factor) for factor in dims if not factor.any())
        kept = tuple(factor for factor in dims if factor.any())
        assert constant % self.batch == 0
        self.products.append(Product(self.module, constant // self.batch, kept))


def flat(value: Any) -> list[Tensor]:
    """The tensors in an argument or a result."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in flat(item)] if isinstance(value, tuple | list) else []
