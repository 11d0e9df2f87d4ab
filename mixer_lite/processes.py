"""One process or several, by Hugging Face Accelerate: who this is, and what all of them agree on.

Accelerate reads what ``torchrun`` and ``accelerate launch`` tell their processes and picks device
and transport. One process on its own does without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

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
    """

    device: torch.device
    rank: int = 0
    count: int = 1
    mean: Callable[[Tensor], Tensor] = lambda tensor: tensor
    broadcast: Callable[[list[Any]], list[Any]] = lambda objects: objects

    def first(self, function: Callable[[], T]) -> T:
        """What ``function`` returns or raises in the first process, in all of them."""
        box: list[Any] = [None, None]
        if self.rank == 0:
            try:
                box[0] = function()
            except Exception as error:  # the others would wait for ever
                box[1] = error
        value, failure = self.broadcast(box)
        if failure is not None:
            raise failure
        return value


def processes(device: str | torch.device) -> Processes:
    """This process among those that were started together.

    Raises:
        RuntimeError: there are several, and Accelerate is not installed.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        return Processes(torch.device(device))
    try:
        from accelerate import Accelerator
        from accelerate.utils import broadcast_object_list
    except ImportError:
        raise RuntimeError(
            "Training in several processes needs the package accelerate: pip install accelerate."
        ) from None
    accelerator = Accelerator(cpu=torch.device(device).type == "cpu")
    return Processes(
        device=accelerator.device,
        rank=accelerator.process_index,
        count=accelerator.num_processes,
        mean=lambda tensor: accelerator.reduce(tensor, "mean"),
        broadcast=broadcast_object_list,
    )
