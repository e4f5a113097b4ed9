"""Communication between the processes of a run, which torchrun starts. A single process needs no torchrun.

All messages are sent by `Ranks`, which counts their bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed
from torch import Tensor

from alphanet_zoo.errors import AlphaNetError, UsageError
from alphanet_zoo.train.config import DistributedConfig

T = TypeVar("T")


class Ranks:
    """This process and its communication with the other processes of the run.

    Args:
        rank: Number of this process, from 0.
        world_size: Number of processes.
        device: Device of this process.
        leads_machine: Whether this process is the first one on its machine.

    Attributes:
        bytes_sent: Bytes that this process has contributed to sums over all processes.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device, *, leads_machine: bool = True) -> None:
        """Stores the arguments; `joined` determines them from the environment."""
        self.rank, self.world_size, self.device, self.leads_machine = rank, world_size, device, leads_machine
        self.bytes_sent = 0

    @property
    def first(self) -> bool:
        """Whether this process writes checkpoints, logs and results."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor on ``device`` by its sum over all processes, in place."""
        if self.world_size > 1:
            self.bytes_sent += tensor.nbytes
            torch.distributed.all_reduce(tensor)
        return tensor

    def mean(self, values: list[float]) -> list[float]:
        """The mean of each number over all processes, computed in float32."""
        if self.world_size == 1:
            return values
        sums = self.sum_(torch.tensor(values, dtype=torch.float32, device=self.device))
        return cast(list[float], (sums / self.world_size).tolist())

    def from_first(self, make: Callable[[], T]) -> T:
        """Calls ``make`` in the first process and returns its result in all processes. If it raises, all raise."""
        if self.world_size == 1:
            return make()
        packet: list[Any] = [None, None]
        if self.first:
            try:
                packet[0] = make()
            except Exception as error:
                packet[1] = error
        torch.distributed.broadcast_object_list(packet, src=0, device=self.device)
        if packet[1] is not None:
            raise packet[1]
        return cast(T, packet[0])

    def barrier(self) -> None:
        """Waits for all processes."""
        if self.world_size > 1:
            torch.distributed.barrier()

    @contextmanager
    def leader_goes_ahead(self) -> Iterator[None]:
        """Runs the block in the first process of each machine before the other processes (it may write files)."""
        if not self.leads_machine:
            self.barrier()
        try:
            yield
        finally:
            if self.leads_machine:
                self.barrier()


@contextmanager
def joined(device: str, config: DistributedConfig) -> Iterator[Ranks]:
    """Joins the process group described by torchrun's environment variables; a single process without them.

    Args:
        device: 'cpu', 'cuda', or 'auto' (a GPU if there is one). Process i of a machine uses its i-th GPU.
        config: Timeout of the communication.

    Raises:
        UsageError: There is no such GPU, or torchrun would restart processes that then hang.
        AlphaNetError: In the block, another process did not answer within the timeout, or ended.
    """
    world_size, rank, local = (int(os.environ.get(name, default))
                               for name, default in (("WORLD_SIZE", 1), ("RANK", 0), ("LOCAL_RANK", 0)))  # fmt: skip
    chosen = find_device(device, local if world_size > 1 else None)
    if world_size == 1:
        yield Ranks(0, 1, chosen)
        return
    _check_restarts()
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    torch.distributed.init_process_group(
        "nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=config.timeout_seconds)
    )
    try:
        yield Ranks(rank, world_size, chosen, leads_machine=local == 0)
    except RuntimeError as error:
        problem = _communication_problem(error, config.timeout_seconds)
        if problem is None:
            raise
        raise AlphaNetError(f"{problem}; the same command continues from the newest checkpoint") from error
    finally:
        torch.distributed.destroy_process_group()


def _communication_problem(error: RuntimeError, seconds: float) -> str | None:
    """What an error of gloo or NCCL means; None if it is not about another process."""
    lower = str(error).lower()
    if not isinstance(error, torch.distributed.DistError) and "gloo" not in lower:
        return None
    if "timed out" in lower or "timeout" in lower:
        return (
            f"another process of the run did not answer within {seconds:g} s (distributed.timeout_seconds): it hangs, "
            "or its machine is not reachable"
        )
    if "connection closed by peer" in lower or "connection reset" in lower:
        return "another process of the run ended or lost its connection"
    return None


def _check_restarts() -> None:
    """Rejects restarts by torchrun if the new processes would get the addresses of dead ones.

    Source: https://github.com/pytorch/pytorch/issues/135712
    """
    restarts, shared = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"), os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
    if restarts != "0" and shared == "True":
        raise UsageError(
            "with --max-restarts, PyTorch passes the addresses of dead processes to restarted ones, which then hang; "
            "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun"
        )


def find_device(name: str, index: int | None = None) -> torch.device:
    """The device with this name.

    Args:
        name: 'cpu', 'cuda', or 'auto' (a GPU if there is one).
        index: Number of the GPU, if there are several.

    Raises:
        UsageError: torch finds no GPU, or too few.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and count == 0:
        raise UsageError("device is cuda, but torch finds no GPU; pass device=cpu or device=auto")
    if name == "cpu" or count == 0:
        return torch.device("cpu")
    if index is not None and index >= count:
        raise UsageError(f"process {index} of this machine has no GPU (torch finds {count}); start fewer processes")
    return torch.device("cuda") if index is None else torch.device("cuda", index)
