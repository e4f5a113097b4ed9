"""What a graph includes besides the network."""

from __future__ import annotations

from dataclasses import dataclass

from alphanet_zoo.data.preprocess import Preprocessing


@dataclass(frozen=True)
class Embedding:
    """Preprocessing inside the graph.

    Args:
        preprocessing: From a uint8 RGB image ``(H, W, 3)`` to the pixels of the network.
        probabilities: Whether the output is the softmax of the logits instead of the logits.
    """

    preprocessing: Preprocessing
    probabilities: bool = False
