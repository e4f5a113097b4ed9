"""McNemar's test: whether two classifiers differ significantly in accuracy on the same images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn

from alphanet_zoo.evaluate.statistics import mcnemar_p_value


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of a file against its reference, on labelled images.

    Args:
        both_right: Images that both classify correctly.
        only_reference: Images that only the reference classifies correctly (b).
        only_file: Images that only the file classifies correctly (c).
        both_wrong: Images that neither classifies correctly.
        p_value: Probability of a split of b + c at least as uneven if both are equally accurate; two-sided.
    """

    both_right: int
    only_reference: int
    only_file: int
    both_wrong: int
    p_value: float

    @property
    def images(self) -> int:
        """Number of images."""
        return self.both_right + self.only_reference + self.only_file + self.both_wrong

    @property
    def difference(self) -> float:
        """Top-1 of the file minus that of the reference, in percentage points."""
        return 100 * (self.only_file - self.only_reference) / self.images


def compare_right(reference: Tensor, file: Tensor) -> McNemar:
    """McNemar's test of two boolean tensors ``(N,)``: whether each image is classified correctly."""
    assert reference.shape == file.shape
    only_reference, only_file = int((reference & ~file).sum()), int((file & ~reference).sum())
    return McNemar(
        both_right=int((reference & file).sum()),
        only_reference=only_reference,
        only_file=only_file,
        both_wrong=int((~reference & ~file).sum()),
        p_value=mcnemar_p_value(only_reference, only_file),
    )


@contextmanager
def recorded_classes(net: nn.Module | None) -> Iterator[list[Tensor]]:
    """Records the classes that ``net`` predicts inside the block, one tensor per batch."""
    classes: list[Tensor] = []
    if net is None:
        yield classes
        return
    handle = net.register_forward_hook(lambda module, images, logits: classes.append(logits.argmax(dim=1).cpu()))
    try:
        yield classes
    finally:
        handle.remove()
