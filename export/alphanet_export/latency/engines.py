"""Runs parts of networks in a runtime: each runtime is a function from parts to a callable that runs them once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from alphanet_export.latency.graphs import graph_bytes, input_shape
from alphanet_export.packages import require_package
from alphanet_zoo.errors import UsageError
from alphanet_zoo.search.device import Part

Run = Callable[[], object]
Engine = Callable[[Sequence[Part], int], Run]
"""Loads parts for a number of threads, and returns a function that runs them once on one image."""


def onnxruntime_engine(parts: Sequence[Part], threads: int) -> Run:
    """ONNX Runtime on the CPU, with the settings of `alphanet_export.runtimes.onnx_runtime` for a file run alone."""
    import onnxruntime

    from alphanet_export.onnx_model import INPUT_NAME, OUTPUT_NAME, open_session

    session = open_session(graph_bytes(parts), "all", threads, spin=True, sleep_between=True)
    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(_images(parts))
    binding.bind_ortvalue_input(INPUT_NAME, value)
    binding.bind_output(OUTPUT_NAME)
    session.run_with_iobinding(binding)
    binding.bind_ortvalue_output(OUTPUT_NAME, binding.get_outputs()[0])
    return lambda: session.run_with_iobinding(binding)


def openvino_engine(parts: Sequence[Part], threads: int) -> Run:
    """OpenVINO on the CPU, tuned for latency as in `alphanet_export.runtimes.open_vino`."""
    require_package("openvino", "openvino")
    import openvino

    from alphanet_export.runtimes.open_vino import compiled_for_cpu

    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": "f32"}  # fmt: skip
    compiled = compiled_for_cpu(openvino.Core().read_model(graph_bytes(parts), b""), settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(_images(parts)))
    return lambda: request.infer()


def pytorch_engine(parts: Sequence[Part], threads: int) -> Run:
    """PyTorch, layer by layer."""
    import torch

    from alphanet_export.latency.modules import module_of

    module, images = module_of(parts), torch.from_numpy(_images(parts))

    def run() -> object:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with torch.inference_mode():
                return module(images)
        finally:
            torch.set_num_threads(before)

    return run


def executorch_engine(parts: Sequence[Part], threads: int) -> Run:
    """ExecuTorch with its XNNPACK backend."""
    require_package("executorch", "executorch")
    import torch

    from alphanet_export.quiet import quiet
    from alphanet_export.runtimes.executorch_xnnpack import _set_threads

    content = _lowered(tuple(parts))
    with quiet():
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

    _set_threads(portable_lib, threads)
    program = Runtime.get().load_program(content)
    method, images = program.load_method("forward"), [torch.from_numpy(_images(parts))]

    def run() -> object:
        assert program is not None  # The method uses the memory of the program.
        return method.execute(images)

    return run


@cache
def _lowered(parts: tuple[Part, ...]) -> bytes:
    """The ``.pte`` file of parts, lowered once."""
    import torch

    from alphanet_export.latency.modules import folded, module_of
    from alphanet_export.quiet import quiet

    with quiet():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        example = (torch.from_numpy(_images(parts)),)
        program = torch.export.export(folded(copy.deepcopy(module_of(parts))), example)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    return bytes(lowered.buffer)


ENGINES: dict[str, Engine] = {
    "onnxruntime": onnxruntime_engine,
    "openvino": openvino_engine,
    "executorch": executorch_engine,
    "pytorch": pytorch_engine,
}
"""The runtimes by name."""
PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "executorch": "executorch", "pytorch": "torch"}
"""The distribution of each runtime."""


def engine_of(name: str) -> Engine:
    """The engine of a runtime.

    Raises:
        UsageError: The runtime does not exist.
        MissingDependencyError: It is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"unknown runtime {name!r}; choose from {', '.join(ENGINES)}")
    if name in ("openvino", "executorch"):
        require_package(name, name)
    return ENGINES[name]


def _images(parts: Sequence[Part]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """A random input, the same on every call."""
    return np.random.default_rng(0).random(input_shape(parts[0]), dtype=np.float32)
