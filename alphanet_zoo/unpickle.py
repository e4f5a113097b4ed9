"""Reads the tensors of a file of ``torch.save`` in a process of its own, with limits on memory and time.

The file is a pickle of somebody else. PyTorch's restricted unpickler (``weights_only=True``) runs no code from it, but
a file of a few hundred bytes can make it run for hours or end the process. So a child process reads the file. On POSIX
systems its memory and CPU time are limited; it may not connect, start programs or open files for writing, and on Linux
it has no network at all if the system allows an unprivileged process to give that up. It passes the tensors on as a
safetensors file.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from alphanet_zoo.errors import AlphaNetError, UsageError

CPU_SECONDS = 5.0
"""CPU time that any file may take; `BYTES_PER_SECOND` more per second."""
BYTES_PER_SECOND = 10e6
MEMORY = 2 * 2**30
"""Bytes of memory that any file may take, beside four times its size."""

_NEW_USER, _NEW_NETWORK = 0x10000000, 0x40000000
_DENIED = (
    "socket.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.spawn",
    "os.posix_spawn",
    "os.fork",
    "shutil.",
    "ctypes",
)


def read_tensors(
    path: str | os.PathLike[str], *, keys: Sequence[str] = ("state_dict",), bare: bool = False, foreign: str = ""
) -> dict[str, Any]:
    """The tensors of a file of ``torch.save`` by name, contiguous and on the CPU.

    Args:
        path: The file, of any format of ``torch.save``.
        keys: Entries of the saved mapping that may contain the tensors, in this order.
        bare: Whether the saved mapping itself may contain them.
        foreign: The dotted name of a class that is read as a dict; '' for none.

    Raises:
        UsageError: The file does not exist.
        AlphaNetError: It is not such a file, contains other classes, has no such entry, contains something that is not
            a dense tensor, or takes too much time or memory.
    """
    from alphanet_zoo.tensor_file import read_tensor_file

    name = os.fspath(path)
    if not Path(path).is_file():
        raise UsageError(f"no such file: {name}; pass a file of torch.save")
    with tempfile.TemporaryDirectory(prefix="alphanet-unpickle-") as folder:
        target = Path(folder) / "tensors.safetensors"
        request = {"source": os.path.abspath(path), "target": str(target), "keys": list(keys), "bare": bare}
        answer = _ask(name, request | {"foreign": foreign})
        check_answer(name, answer, list(keys))
        return dict(read_tensor_file(target).tensors)


def _ask(name: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """The answer of a child process."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    size = os.path.getsize(request["source"])
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-m", "alphanet_zoo.unpickle", json.dumps(request)],
            stdin=subprocess.DEVNULL, capture_output=True, env=environment, timeout=10 * _seconds(size) + 100,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise AlphaNetError(f"{name} takes too long to read; it is not a checkpoint of tensors") from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer
    except (ValueError, IndexError) as error:
        reason = f"exit code {done.returncode}"
        if done.returncode < 0:
            reason = signal.Signals(-done.returncode).name
        if reason in ("SIGXCPU", "SIGKILL"):
            reason = "it takes too much time or memory"
        raise AlphaNetError(
            f"{name} is not a readable checkpoint ({reason}): truncated, corrupt or another format"
        ) from error


def check_answer(name: str, answer: Mapping[str, Any], keys: list[str]) -> None:
    """Raises the error that the child process reports."""
    remedy = "pass a file of tensors, such as the authors' checkpoint (.pth.tar)"
    match answer.get("problem"):
        case None:
            return
        case "foreign":
            raise AlphaNetError(
                f"{name} contains {answer['what']}, which an AlphaNet checkpoint does not; it was not run"
            )
        case "no entry":
            raise AlphaNetError(f"{name} has no {' or '.join(map(repr, keys))}; {remedy}")
        case "tensors":
            raise AlphaNetError(f"the {keys[0]!r} of {name} is not valid: {answer['what']}; {remedy}")
        case _:
            raise AlphaNetError(
                f"{name} is not a readable checkpoint ({answer.get('what')}): truncated, corrupt or another format"
            )


def _seconds(size: int) -> float:
    """CPU time that a file of so many bytes may take."""
    return CPU_SECONDS + size / BYTES_PER_SECOND


def main(request: Mapping[str, Any]) -> dict[str, Any]:
    """Reads a file in this process, which is limited first; returns the answer for the parent process."""
    _leave_network()
    for module in ("torch", "safetensors.torch"):  # The limits also apply to imports.
        import_module(module)
    _limit(os.path.getsize(request["source"]), request["target"])
    return answer(request)


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Reads the tensors of the file ``source``, and writes them to ``target``; returns the problem, if there is one."""
    import torch
    from safetensors.torch import save_file

    foreign: list[Any] = [(OrderedDict, request["foreign"])] if request["foreign"] else []
    try:
        with open(request["source"], "rb") as file, torch.serialization.safe_globals(foreign):
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged pickle can make the unpickler raise almost any type.
        found = re.search(r"(?:GLOBAL|Unsupported (?:class|type)) ([\w.]+)", str(error))
        return {"problem": "foreign", "what": found[1]} if found else {"problem": "file", "what": type(error).__name__}
    tensors = _entry(content, request)
    if tensors is None:
        return {"problem": "no entry"}
    names = [str(key) for key in tensors]
    others = [
        key for key, value in tensors.items() if not isinstance(value, torch.Tensor) or value.layout != torch.strided
    ]
    if others or len(set(names)) != len(names):
        what = f"{others[0]} is not a dense tensor" if others else "two entries have the same name"
        return {"problem": "tensors", "what": what[:200]}
    try:
        plain = {
            n: t.detach().clone(memory_format=torch.contiguous_format)
            for n, t in zip(names, tensors.values(), strict=True)
        }
        save_file(plain, request["target"])
    except Exception as error:
        return {"problem": "file", "what": type(error).__name__}
    return {}


def _entry(content: object, request: Mapping[str, Any]) -> Mapping[Any, Any] | None:
    """The mapping of tensors in what was unpickled."""
    if not isinstance(content, Mapping):
        return None
    for key in request["keys"]:
        if isinstance(content.get(key), Mapping):
            found: Mapping[Any, Any] = content[key]
            return found
    return content if request["bare"] else None


def _leave_network() -> None:
    """Gives up the network if the system allows it."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).unshare(_NEW_USER | _NEW_NETWORK)


def _limit(size: int, target: str) -> None:
    """Limits memory and CPU time, and what Python code in this process may do from now on."""
    try:
        import resource
    except ImportError:  # Windows
        pass
    else:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(usage.ru_utime + usage.ru_stime + _seconds(size)) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if sys.platform == "linux":
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            memory = pages * resource.getpagesize() + MEMORY + 4 * size
            resource.setrlimit(resource.RLIMIT_AS, (memory, memory))

    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")
        if event.startswith(_DENIED) or (writes and arguments[0] != target):
            raise PermissionError(f"{event} is not allowed while a pickle is read")

    sys.addaudithook(refuse)


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))), flush=True)
    os._exit(0)
