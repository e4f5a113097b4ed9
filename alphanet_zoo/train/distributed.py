"""The processes of a run. torchrun starts them; one of them alone is a run too.

Everything that is sent goes through `Ranks`, which counts the bytes.
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

from alphanet_zoo.errors import UsageError
from alphanet_zoo.train.sections import DistributedConfig

T = TypeVar("T")


class Ranks:
    """This process among those of a run.

    Args:
        rank: Its number, from 0.
        world_size: How many there are.
        device: Where it computes.
        leads_machine: Whether it is the first of its machine.

    Attributes:
        bytes_sent: What this process has put into sums over all processes so far.
    """

    def __init__(self, rank: int, world_size: int, device: torch.device, *, leads_machine: bool = True) -> None:
        """Takes the figures as they are; `joined` finds them."""
        self.rank, self.world_size, self.device, self.leads_machine = rank, world_size, device, leads_machine
        self.bytes_sent = 0

    @property
    def first(self) -> bool:
        """Whether this process writes checkpoints, logs and results."""
        return self.rank == 0

    def sum_(self, tensor: Tensor) -> Tensor:
        """Replaces a tensor on ``device`` by its sum over all processes."""
        if self.world_size > 1:
            self.bytes_sent += tensor.nbytes
            torch.distributed.all_reduce(tensor)
        return tensor

    def mean(self, values: list[float]) -> list[float]:
        """The mean over all processes of each number (float32 on the way)."""
        if self.world_size == 1:
            return values
        sums = self.sum_(torch.tensor(values, dtype=torch.float32, device=self.device))
        return cast(list[float], (sums / self.world_size).tolist())

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first process makes, in all of them; where it raises, all raise."""
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
        """Waits for the other processes."""
        if self.world_size > 1:
            torch.distributed.barrier()

    @contextmanager
    def leader_goes_ahead(self) -> Iterator[None]:
        """The first process of each machine does the block (which may write files) before the others do."""
        if not self.leads_machine:
            self.barrier()
        try:
            yield
        finally:
            if self.leads_machine:
                self.barrier()


@contextmanager
def joined(device: str, config: DistributedConfig) -> Iterator[Ranks]:
    """Joins the processes that torchrun's environment speaks of; without it this process is alone.

    Args:
        device: 'cpu', 'cuda', or 'auto': the GPU where there is one. Process i of a machine takes its i-th GPU.
        config: How long to wait for each other.

    Raises:
        UsageError: There is no such GPU, or torchrun is to restart processes and could not.
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
    finally:
        torch.distributed.destroy_process_group()


def _check_restarts() -> None:
    """Refuses torchrun's restarts where the new processes would be given the addresses of the dead ones.

    Source: https://github.com/pytorch/pytorch/issues/135712
    """
    restarts, shared = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0"), os.environ.get("TORCHELASTIC_USE_AGENT_STORE")
    if restarts != "0" and shared == "True":
        raise UsageError(
            "with --max-restarts, PyTorch gives restarted processes the addresses of the dead ones, and they wait for "
            "ever; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in the environment of torchrun"
        )


def find_device(name: str, index: int | None = None) -> torch.device:
    """The device that a config names; ``index`` picks one of several GPUs.

    Raises:
        UsageError: It is a GPU and there is none, or there are too few.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cuda" and count == 0:
        raise UsageError("device is cuda, and torch finds no GPU; give device=cpu or device=auto")
    if name == "cpu" or count == 0:
        return torch.device("cpu")
    if index is not None and index >= count:
        raise UsageError(f"process {index} of this machine has no GPU, torch finds {count}; start fewer processes")
    return torch.device("cuda") if index is None else torch.device("cuda", index)
