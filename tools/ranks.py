"""The processes of one training run, as `torchrun` starts them."""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together; one process alone is rank 0 of 1.

    Attributes:
        rank: In [0, world_size).
        world_size: Number of processes.
        local: Number of this process on its machine: its GPU.
    """

    rank: int = 0
    world_size: int = 1
    local: int = 0

    @property
    def writes(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        values = [value]
        if self.world_size > 1:
            values *= self.world_size
            dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world_size > 1:
            dist.barrier()


def join_ranks(device: str, /) -> Ranks:
    """Join the process group that `torchrun` describes, if there is one: NCCL on GPUs, gloo on CPUs."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    local = int(os.environ["LOCAL_RANK"])
    if device == "gpu":
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device == "gpu" else "gloo")
    return Ranks(dist.get_rank(), world_size, local)


def leave_ranks() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
