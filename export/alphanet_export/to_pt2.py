"""From a frozen net to a PyTorch ExportedProgram in a file."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor

from alphanet_export.freeze import FrozenNet
from alphanet_export.parity import TOLERANCE
from alphanet_zoo.errors import ParityError


def program_bytes(frozen: FrozenNet, metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a ``.pt2`` file, which ``torch.export.load`` reads.

    ``metadata`` goes in as extra files, one an entry (``extra_files`` of ``torch.export.load``).
    """
    buffer = io.BytesIO()
    torch.export.save(frozen.program, buffer, extra_files=dict(metadata or {}))
    return buffer.getvalue()


def check_program(content: bytes, frozen: FrozenNet, images: Tensor) -> float:
    """The largest relative error of the program in a file's content against the net it was made from.

    Args:
        content: What `program_bytes` gave.
        frozen: What that was made from.
        images: ``(N, 3, S, S)`` normalised pixels at the program's input size.

    Raises:
        ParityError: The error is over `TOLERANCE`, or an output is not finite.
    """
    program = torch.export.load(io.BytesIO(content)).module()
    worst = 0.0
    with torch.inference_mode():
        for index in range(len(images)):
            image = images[index : index + 1]
            expected, actual = frozen.net(image), program(image)
            error = ((actual - expected).abs().max() / expected.abs().max()).item()
            if not error <= TOLERANCE:
                raise ParityError(
                    f"the exported program does not compute what its network computes: relative error {error:.2e} "
                    f"(tolerance {TOLERANCE:.0e}); report this with the versions of torch and alphanet-zoo"
                )
            worst = max(worst, error)
    return worst
