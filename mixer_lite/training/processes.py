"""One process or several, by Hugging Face Accelerate: which one this is, and how they agree.

Accelerate reads what ``torchrun`` and ``accelerate launch`` tell their processes and picks device
and transport. One process alone needs neither.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor

from mixer_lite._support.words import reason

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Which process this is, of how many; alone it is the first of one.

    Attributes:
        device: where it computes.
        rank: its number, from 0.
        count: how many there are.
        mean: a tensor's mean over all of them.
        broadcast: the first one's list of objects, in all of them.
        gather: every process's list of objects, one after the other, in all of them.
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor
    broadcast: Callable[[list[Any]], list[Any]] = lambda objects: objects
    gather: Callable[[list[Any]], list[Any]] = lambda objects: objects

    def first(self, function: Callable[[], T]) -> T:
        """What ``function`` returns or raises in the first process, in all of them."""
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = function()
            except Exception as error:  # the others would wait forever
                box[1] = error
        value, failure = self.broadcast(box)
        if failure is not None:
            raise failure
        return value


def usable_device(name: str | torch.device) -> torch.device:
    """A device that this machine's PyTorch can compute on.

    Raises:
        ValueError: it cannot.
    """
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it has no memory")
        torch.zeros(1, device=device)
    except Exception as error:  # each kind of device raises its own
        raise ValueError(
            f"PyTorch cannot compute on {str(name)!r} here ({reason(error, 100)}): leave out "
            f"--device, or give cpu."
        ) from error
    return device


def processes(device: str | torch.device) -> Processes:
    """This process among those that were started together.

    Raises:
        RuntimeError: there are several, and Accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return Processes(torch.device(device))
    try:
        from accelerate import Accelerator, InitProcessGroupKwargs
        from accelerate.utils import broadcast_object_list, gather_object
    except ImportError:
        raise RuntimeError(
            "Work in several processes needs the package accelerate: pip install accelerate."
        ) from None
    # They wait for the slowest one, whose images may take days.
    patient = InitProcessGroupKwargs(timeout=timedelta(days=7))
    accelerator = Accelerator(cpu=torch.device(device).type == "cpu", kwargs_handlers=[patient])
    return Processes(
        device=accelerator.device,
        rank=accelerator.process_index,
        count=accelerator.num_processes,
        mean=lambda tensor: accelerator.reduce(tensor, "mean"),
        broadcast=broadcast_object_list,
        gather=gather_object,
    )
