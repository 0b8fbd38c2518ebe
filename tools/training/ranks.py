"""The processes of one training run, as `torchrun` starts them."""

import gc
import io
import os
import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

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
        """True for the process that writes files and prints."""
        return self.rank == 0

    def total(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(value)
        return value

    def join(self, values: Sequence[Tensor], how: Literal["reduce", "broadcast", "off"], /) -> None:
        """Give floating-point tensors, in place, their mean over all ranks (`reduce`) or the values of rank 0."""
        if self.world_size == 1 or how == "off" or not values:
            return
        flat = torch.cat([value.detach().flatten() for value in values])
        if how == "broadcast":
            dist.broadcast(flat, 0)
        else:
            dist.all_reduce(flat.div_(self.world_size))
        with torch.no_grad():
            for value, joined in zip(values, torch.split(flat, [value.numel() for value in values]), strict=True):
                value.copy_(joined.view_as(value))

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks, in their order."""
        values = [value]
        if self.world_size > 1:
            values *= self.world_size
            dist.all_gather_object(values, value)
        return values

    def collect(self, value: Any) -> list[Any]:
        """The values of all ranks, plain ones and tensors, in their order, on rank 0; elsewhere none."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size if self.rank == 0 else []
        buffer = io.BytesIO()
        torch.save(value, buffer)  # pickle alone cannot read back tensors of uint16
        dist.gather_object(buffer.getvalue(), values or None)
        return [torch.load(io.BytesIO(each), weights_only=True) for each in values]

    def share(self, value: Any, source: int, /) -> Any:
        """The value of rank `source`, on all ranks: lists, tuples and dictionaries whose tensors travel as they are.

        A tensor arrives on the kind of device that it comes from. What the other ranks pass does not count.
        """
        if self.world_size == 1:
            return value
        tensors: list[Tensor] = []
        shape = [_take_tensors(value, tensors) if self.rank == source else None]
        dist.broadcast_object_list(shape, source)
        comes = torch.device("cuda", self.local) if dist.get_backend() == "nccl" else torch.device("cpu")
        sent = iter(tensors)

        def place(part: Any) -> Any:
            if isinstance(part, _Sent):
                own = self.rank == source
                tensor = next(sent) if own else torch.empty(part.size, dtype=part.dtype, device=comes)
                carried = tensor.detach().to(comes).clone(memory_format=torch.contiguous_format)
                dist.broadcast(carried.view(-1).view(torch.uint8), source)  # gloo knows no int16
                return tensor if own else carried.to(torch.device("cuda", self.local) if part.cuda else "cpu")
            if isinstance(part, dict):
                return {key: place(item) for key, item in part.items()}
            return type(part)(place(item) for item in part) if type(part) in (list, tuple) else part

        return place(shape[0])

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.world_size > 1:
            dist.barrier()


@dataclass(frozen=True, slots=True)
class _Sent:
    """Where a tensor stood that is sent by itself."""

    size: tuple[int, ...]
    dtype: torch.dtype
    cuda: bool


def _take_tensors(value: Any, tensors: list[Tensor]) -> Any:
    """The value with its tensors replaced, which are appended in the order of their places."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return _Sent(tuple(value.shape), value.dtype, value.is_cuda)
    if isinstance(value, dict):
        return {key: _take_tensors(item, tensors) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_take_tensors(item, tensors) for item in value)
    return value


def join_ranks(device: str, /) -> Ranks:
    """Join the process group that `torchrun` describes, if there is one: NCCL on GPUs, gloo on CPUs."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        return Ranks()
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "gpu":
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        with _default_signals():
            dist.init_process_group("nccl" if device == "gpu" else "gloo")
    # here some loaders are each process's own on purpose: of a child of a population, of the channels' statistics
    warnings.filterwarnings("ignore", message="torch.distributed has .* processes, but this loader")
    return Ranks(dist.get_rank(), world_size, local)


@contextmanager
def _default_signals() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the process at once: while C++ waits for the other ranks no handler of ours runs."""
    main = threading.current_thread() is threading.main_thread()
    usual = {each: signal.signal(each, signal.SIG_DFL) for each in (signal.SIGINT, signal.SIGTERM) if main}
    try:
        yield
    finally:
        for each, handler in usual.items():
            signal.signal(each, handler)


def leave_ranks() -> None:
    """Leave the process group, if there is one; all ranks together.

    A group that something still refers to would be destroyed behind the interpreter, where the threads of gloo now and
    then abort the process.
    """
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()
        gc.collect()
