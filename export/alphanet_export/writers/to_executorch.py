"""Writes a frozen network for ExecuTorch: a ``.pte`` program for its XNNPACK backend."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from alphanet_export.freeze import FrozenNet
from alphanet_export.packages import require_package
from alphanet_export.quiet import quiet
from alphanet_zoo.errors import UsageError


def write_executorch(frozen: FrozenNet, path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Writes a ``.pte`` file.

    The constant method ``alphanet_metadata`` of the program returns the metadata as one JSON object.

    Raises:
        MissingDependencyError: ExecuTorch is not installed.
        UsageError: The batch size is dynamic; XNNPACK plans memory for a fixed one.
    """
    require_package("executorch", "executorch")
    if frozen.dynamic_batch:
        raise UsageError("an ExecuTorch file takes one image at a time; freeze with dynamic_batch=False")
    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from alphanet_export.runtimes.executorch_xnnpack import METADATA_METHOD

        text = json.dumps(dict(metadata or {}), ensure_ascii=False, sort_keys=True)
        edge = to_edge_transform_and_lower(
            frozen.program, partitioner=[XnnpackPartitioner()], constant_methods={METADATA_METHOD: text}
        )
        content = edge.to_executorch().buffer
    path.write_bytes(content)
