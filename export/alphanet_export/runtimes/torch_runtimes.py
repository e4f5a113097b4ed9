"""PyTorch's runtimes: eager, compiled, an ExportedProgram and AOTInductor."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from alphanet_export.metadata import weights_facts
from alphanet_export.packages import require_compiler
from alphanet_export.quiet import quiet
from alphanet_export.runtimes.runtime import PREFIX, FloatArray, Runtime, alphanet_entries
from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.nn.family import Network
from alphanet_zoo.zoo.files import load_net

INPUT_SHAPE = "alphanet.input_shape"
"""Metadata entry of AOTInductor packages only: the input shape ``[1 or null, 3, S, S]``, which machine code lacks."""


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Runs PyTorch with ``count`` threads; restores the previous number, which is global to the process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class TorchRuntime(Runtime):
    """A runtime whose engine maps a tensor to a tensor."""

    def _run(self, images: FloatArray) -> FloatArray:
        """Runs the engine with its own number of threads."""
        with torch_threads(self.threads), torch.inference_mode():
            logits: Tensor = self._engine(torch.from_numpy(images))
            return logits.float().numpy()


class Eager(TorchRuntime):
    """A network in eval mode, run layer by layer.

    Args:
        net: The network, which is not copied; or a ``.safetensors`` file with a static network.
        threads: See `Runtime`.
        precision: See `Runtime`.

    Raises:
        ValueError: The network is in training mode.
        UsageError: The file contains a supernet.
        AlphaNetError: The file cannot be read.
    """

    name, title = "pytorch", "PyTorch"

    def __init__(
        self, net: nn.Module | str | os.PathLike[str], threads: int | None = None, precision: str = "fp32"
    ) -> None:
        """Keeps the network, or loads the file."""
        super().__init__(type(net).__name__ if isinstance(net, nn.Module) else str(net), threads, precision)
        if not isinstance(net, nn.Module):
            net, self.metadata = _static_net(net)
        if net.training:
            raise ValueError("a runtime takes a network in eval mode; call net.eval() first")
        self._engine = net


class Compiled(TorchRuntime):
    """A network in eval mode through ``torch.compile``.

    It is compiled for every new input shape, when the first images of that shape arrive.

    Args:
        net: The network, which is not copied.
        threads: See `Runtime`; the compiled code is generated for that number.
        precision: See `Runtime`.

    Raises:
        ValueError: The network is in training mode.
        MissingProgramError: There is no C++ compiler.
    """

    name, title = "pytorch-compiled", "compiled PyTorch"

    def __init__(self, net: nn.Module, threads: int | None = None, precision: str = "fp32") -> None:
        """Prepares the network for compilation."""
        super().__init__(type(net).__name__, threads, precision)
        if net.training:
            raise ValueError("a runtime takes a network in eval mode; call net.eval() first")
        require_compiler()
        with torch_threads(self.threads):
            self._engine = torch.compile(net, dynamic=False)


class Program(TorchRuntime):
    """A ``.pt2`` file of ``torch.export``, run operator by operator.

    Args:
        path: The file.
        threads: See `Runtime`.
        precision: See `Runtime`.

    Raises:
        AlphaNetError: The file cannot be read.
    """

    name, title = "exported-program", "PyTorch ExportedProgram"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, precision: str = "fp32") -> None:
        """Loads the file."""
        super().__init__(str(path), threads, precision)
        try:
            program = torch.export.load(os.fspath(path))
            self.metadata = _extra_files(path)
            (name,) = program.graph_signature.user_inputs
            shape = next(node.meta["val"].shape for node in program.graph.nodes if node.name == name)
            self._engine = program.module()
        except Exception as error:  # A damaged archive fails in many ways.
            raise AlphaNetError(f"PyTorch {torch.__version__} cannot load {path}: {error}; export it again") from error
        self.batch = shape[0] if isinstance(shape[0], int) else None
        self.input_size = int(shape[2])


class AotInductor(TorchRuntime):
    """An ``.aoti.pt2`` package: a graph compiled to machine code. Open only packages that you trust.

    A package that was not written by ``alphanet export`` does not name its input shape: it gets one image at a time.

    Args:
        path: The package.
        threads: See `Runtime`.
        precision: See `Runtime`.

    Raises:
        AlphaNetError: The package cannot be read, or was compiled for another kind of machine.
    """

    name, title = "aot-inductor", "AOTInductor"

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None, precision: str = "fp32") -> None:
        """Loads the package."""
        super().__init__(str(path), threads, precision)
        try:
            with torch_threads(self.threads), quiet():
                engine = torch._inductor.aoti_load_package(os.fspath(path))
            entries = dict(engine.get_metadata())
            self.batch, _, self.input_size, _ = json.loads(entries.pop(INPUT_SHAPE, "[1, 3, null, null]"))
        except Exception as error:  # A damaged archive, or one for another processor: many types.
            raise AlphaNetError(
                f"PyTorch {torch.__version__} cannot load {path}: {error}; export it again on the kind of machine "
                "that it is to run on"
            ) from error
        self.metadata = alphanet_entries(entries)
        self._engine = engine


def _static_net(path: str | os.PathLike[str]) -> tuple[Network, dict[str, str]]:
    """The static network in a ``.safetensors`` file, and its ``alphanet.*`` entries."""
    net = load_net(path)
    if net.supernet:
        raise UsageError(
            f"{os.fspath(path)} is a supernet, which has no outputs of its own; write a subnet with alphanet export "
            "--arch FILE|NAME --format safetensors"
        )
    return net, {PREFIX + key: json.dumps(value) for key, value in weights_facts(net, Path(path)).items()}


def _extra_files(path: str | os.PathLike[str]) -> dict[str, str]:
    """The ``alphanet.*`` entries that a ``.pt2`` archive stores as extra files."""
    with zipfile.ZipFile(path) as archive:
        names = {name.rpartition("/extra/")[2]: name for name in archive.namelist() if "/extra/" in name}
        return {key: archive.read(names[key]).decode("utf-8") for key in alphanet_entries(names)}
