"""The devices of a run: one by default, several if `torchrun` started this process."""

import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class ProcessGroup:
    """This process within the group.

    Attributes:
        rank: Number of this process, from 0.
        size: Number of processes.
        device: Device of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this process writes and reports."""
        return self.rank == 0

    def share(self, model: Any) -> Any:
        """Wrap the model so that gradients are averaged over all processes."""
        if self.size == 1:
            return model
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=ids)

    def unshared(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Accumulate gradients within this process only."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def sum(self, tensor: Tensor) -> Tensor:
        """Return the sum over all processes."""
        total = tensor.clone()
        if self.size > 1:
            distributed.all_reduce(total)
        return total

    def wait(self) -> None:
        """Wait until all processes arrive here."""
        if self.size > 1:
            distributed.barrier()

    def facts(self) -> dict[str, Any]:
        """Describe the hardware of the run."""
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if cuda else platform.processor() or platform.machine()
        peak = torch.cuda.max_memory_allocated(self.device) if cuda else 0
        return {"device": name, "devices": self.size, "peak_bytes": peak, "torch": torch.__version__}


def count_cores() -> int:
    """Count the cores that this process may use; a container or a cluster job may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def join_process_group() -> Iterator[ProcessGroup]:
    """Join the process group if there is one, and leave it at the end."""
    several = "RANK" in os.environ and "WORLD_SIZE" in os.environ
    cuda = torch.cuda.is_available()
    local = int(os.environ.get("LOCAL_RANK", "0")) if several else 0
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not several:
        yield ProcessGroup(0, 1, device)
        return
    distributed.init_process_group("nccl" if cuda else "gloo")
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
