"""CUDA graphs of the passes that every step repeats."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple

import torch
from torch import Tensor

WARM_UP = 3
"""Passes before a capture, in which libraries allocate what a capture must not."""

Pass = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""From images and targets to detached results; adds to the gradients."""


class _Captured(NamedTuple):
    """A graph, the tensors that it reads, and those that it writes besides the gradients."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, Tensor]
    outputs: tuple[Tensor, ...]


class GraphedPasses:
    """Runs forward and backward passes as CUDA graphs, captured when they first run.

    A graph launches all kernels of a pass at once, so that the GPU does not wait for Python. The kernels and the
    results are those of the pass itself.

    Args:
        gradients: ``(parameters,)``, which all passes add to in place.
    """

    def __init__(self, gradients: Tensor) -> None:
        """Captures nothing yet."""
        self._gradients = gradients
        self._pool = torch.cuda.graph_pool_handle()
        self._captured: dict[Hashable, _Captured] = {}
        self._resolution: int | None = None

    def __call__(
        self, key: Hashable, resolution: int | None, one_pass: Pass, images: Tensor, target: Tensor
    ) -> tuple[Tensor, ...]:
        """The results of a pass.

        Args:
            key: What the pass computes; for the same key it must launch the same kernels.
            resolution: Largest resolution of the step. If it changes, the graphs of the last one are freed.
            one_pass: The pass.
            images: ``(N, 3, H, W)``.
            target: Labels, or logits of the teacher.
        """
        if resolution != self._resolution:
            self._captured, self._resolution = {}, resolution
        key = (key, images.shape, target.shape)
        if key not in self._captured:
            self._captured[key] = self._capture(one_pass, images, target)
        captured = self._captured[key]
        for static, value in zip(captured.inputs, (images, target), strict=True):
            static.copy_(value)
        captured.graph.replay()
        return tuple(output.clone() for output in captured.outputs)

    def _capture(self, one_pass: Pass, images: Tensor, target: Tensor) -> _Captured:
        """Captures a pass. Gradients and the state of the random generator are as before."""
        inputs, gradients, random = (
            (images.clone(), target.clone()),
            self._gradients.clone(),
            torch.cuda.get_rng_state(),
        )
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                one_pass(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        # Threads that pin the memory of the next batches may call CUDA meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = one_pass(*inputs)
        self._gradients.copy_(gradients)
        torch.cuda.set_rng_state(random)
        return _Captured(graph, inputs, outputs)
