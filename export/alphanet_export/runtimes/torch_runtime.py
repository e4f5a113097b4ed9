"""What the runtimes inside PyTorch share: their threads, and their tensors."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from alphanet_export.runtimes.interface import FloatArray, Runtime, only_ours


class TorchRuntime(Runtime):
    """A runtime whose engine is a callable from a tensor to a tensor."""

    def _run(self, images: FloatArray) -> FloatArray:
        """Runs the engine on its own number of threads."""
        with torch_threads(self.threads), torch.inference_mode():
            logits: Tensor = self._engine(torch.from_numpy(images))
            return logits.float().numpy()


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch on ``count`` threads; the number is the process's, so it is put back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def extra_files(path: Path) -> dict[str, str]:
    """The ``alphanet.*`` entries that a ``.pt2`` archive keeps as extra files."""
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/extra/")[2]: name for name in archive.namelist() if "/extra/" in name}
        return {key: archive.read(names[key]).decode("utf-8") for key in only_ours(names)}
