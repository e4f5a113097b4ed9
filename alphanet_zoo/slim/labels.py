"""Channel labels: which channels of which tensors have to be kept or removed together.

Every index of every dimension of every parameter gets a label. While the network runs once, each operator states which
labels are equal: an addition equates the channels of its operands, a convolution equates the channels of its input
with the second dimension of its weight. Labels that have been equated form one *atom*, the smallest part of a network
that can be removed. Label 0 stands for what cannot be removed, such as the colours of the image or the classes.

The labels of a tensor are a list of *labellings*. A labelling is an integer array with as many dimensions as the
tensor; each dimension has the tensor's length, or 1 if the label does not vary along it. The map ``(N, C, H, W)`` of a
convolution has one labelling, of shape ``(1, C, 1, 1)``; a weight ``(O, I, 3, 3)`` has one along each dimension. A
dimension without a labelling is fixed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Labelling = npt.NDArray[np.int64]
Labellings = list[Labelling]


class Conflict(Exception):
    """A narrowed network equates channels that are different in the full network.

    Args:
        message: What happened, and in which module.
        labels: The labels concerned.
        module: Name of the module that was running.
    """

    def __init__(self, message: str, labels: Iterable[Labelling], module: str = "") -> None:
        """Keeps the labels."""
        super().__init__(message)
        self.labels = list(labels)
        self.module = module


class Labels:
    """Sets of equal labels (union-find). The least label of a set represents it.

    Attributes:
        changed: Number of times that labels have been equated or fixed.
        place: Name of the module that is running; part of the reasons.
    """

    def __init__(self) -> None:
        """There is label 0 only."""
        self._parent = np.zeros(1, dtype=np.int64)
        self._reason = np.zeros(1, dtype=np.int64)
        self._reasons = [""]
        self.changed = 0
        self.place = ""

    def __len__(self) -> int:
        """Number of labels."""
        return len(self._parent)

    def new(self, count: int) -> Labelling:
        """``count`` labels that are equal to no other, ``(count,)``."""
        first = len(self._parent)
        self._parent = np.concatenate([self._parent, np.arange(first, first + count)])
        self._reason = np.concatenate([self._reason, np.zeros(count, dtype=np.int64)])
        return np.arange(first, first + count)

    def roots(self, labels: Labelling) -> Labelling:
        """The representative of each label; 0 for a fixed one."""
        return self._parent[labels]

    def reason(self, label: int) -> str:
        """Why a label is fixed; empty if it is not."""
        return self._reasons[int(self._reason[label])]

    def unify(self, a: Labelling, b: Labelling, reason: str) -> None:
        """Equates two arrays of labels element by element (with broadcasting).

        Args:
            a: Labels.
            b: Labels.
            reason: Reason for labels that become fixed because their partner is.
        """
        a, b = (self.roots(array).ravel() for array in np.broadcast_arrays(a, b))
        differs = a != b
        if not differs.any():
            return
        a, b = a[differs], b[differs]
        self.freeze(np.concatenate([a[b == 0], b[a == 0]]), reason)
        parent, late = self._parent, []
        for one, other in zip(a.tolist(), b.tolist(), strict=True):
            while parent[one] != one:
                one = int(parent[one])
            while parent[other] != other:
                other = int(parent[other])
            if one and other and one != other:
                parent[max(one, other)] = min(one, other)
            elif one != other:
                late.append(max(one, other))
        self._flatten()
        self.freeze(np.array(late, dtype=np.int64), reason)
        self.changed += 1

    def _flatten(self) -> None:
        """Makes every label refer to its representative directly."""
        while not np.array_equal(above := self._parent[self._parent], self._parent):
            self._parent = above

    def freeze(self, labels: Labelling, reason: str) -> None:
        """Fixes labels, and with them all that are equal."""
        roots = np.unique(self.roots(labels))
        roots = roots[roots > 0]
        if not len(roots):
            return
        everyone = np.arange(len(self._parent))
        concerned = np.isin(self.roots(everyone), roots)
        text = f"{reason} in {self.place}" if self.place else reason
        if text not in self._reasons:
            self._reasons.append(text)
        self._reason[concerned] = self._reasons.index(text)
        self._parent[concerned] = 0
        self.changed += 1

    def canonical(self, labellings: Iterable[Labelling]) -> Labellings:
        """The labellings with representatives, without the dimensions along which they do not vary.

        A labelling that does not vary at all is left out, and its label is fixed: one channel that a whole tensor
        depends on cannot be removed.
        """
        result: Labellings = []
        for labelling in labellings:
            found = self.roots(labelling)
            for dim, length in enumerate(found.shape):
                first = found.take([0], dim) if length > 1 else found
                if length > 1 and bool((found == first).all()):
                    found = first
            if found.size > 1:
                result.append(found)
            elif found.size and labelling.size:
                self.freeze(found, "one channel is selected")
        return result


class FixedLabels(Labels):
    """The labels of a network that has been analysed: any further equation is a `Conflict`.

    Args:
        count: Number of labels of the analysis.
    """

    def __init__(self, count: int) -> None:
        """Every label represents itself."""
        super().__init__()
        self.new(count - 1)

    def unify(self, a: Labelling, b: Labelling, reason: str) -> None:
        """Raises `Conflict` if the labels differ."""
        a, b = np.broadcast_arrays(a, b)
        differs = a != b
        if differs.any():
            raise Conflict(f"{reason} combines different channels in {self.place}", [a[differs], b[differs]])

    def freeze(self, labels: Labelling, reason: str) -> None:
        """Raises `Conflict` if a label is not fixed."""
        if labels.any():
            raise Conflict(f"{reason} in {self.place}", [labels])


def varying(labelling: Labelling) -> tuple[int, ...]:
    """The dimensions along which a labelling varies."""
    return tuple(dim for dim, length in enumerate(labelling.shape) if length > 1)


def along(labels: Labelling, dim: int, ndim: int) -> Labelling:
    """Labels ``(n,)`` as a labelling of a tensor of ``ndim`` dimensions, along dimension ``dim``."""
    shape = [1] * ndim
    shape[dim] = len(labels)
    return labels.reshape(shape)


def restricted(labelling: Labelling, kept: npt.NDArray[np.bool_]) -> Labelling | None:
    """What is left of a labelling if only some atoms are kept.

    Args:
        labelling: Representatives.
        kept: Whether each label is kept, ``(labels,)``; true for label 0.

    Returns:
        The smaller labelling; None if what is left is not a rectangular array.
    """
    mask = kept[labelling]
    if mask.all():
        return labelling
    dims = varying(labelling)
    if len(dims) == 1:
        return along(labelling[mask], dims[0], labelling.ndim)
    index = [np.flatnonzero(mask.any(axis=tuple(d for d in range(mask.ndim) if d != dim))) for dim in range(mask.ndim)]
    return labelling[np.ix_(*index)] if mask[np.ix_(*index)].all() else None


def aligned(shape: Sequence[int], labellings: Labellings, ndim: int) -> tuple[tuple[int, ...], Labellings]:
    """A shape and its labellings with leading dimensions of length 1, as broadcasting adds them."""
    pad = (1,) * (ndim - len(shape))
    return (*pad, *shape), [labelling.reshape(*pad, *labelling.shape) for labelling in labellings]
