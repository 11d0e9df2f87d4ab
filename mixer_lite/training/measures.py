"""What a training measures: a model's accuracy, and how its filters look."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from mixer_lite.filters import smoothness, token_filters, variety
from mixer_lite.model import MlpMixer, mixer_blocks


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Bytes to normalised floats: ``(b, 3, h, w) -> (b, 3, h, w)``."""
    shape = (1, -1, 1, 1)
    m, s = (torch.tensor(v, device=images.device).view(shape) for v in (mean, std))
    return (images.float() / 255 - m) / s


def accuracy(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    batch_size: int = 250,
    each: Callable[..., Iterable[int]] = map,
    prepare: Callable[[Tensor], Tensor] = lambda x: x,
) -> float:
    """Share of images whose highest logit is the right class; images are normalised floats.

    ``each`` is how to go over the batches: :meth:`~mixer_lite.training.workers.Workers.each` takes
    all cores.
    ``prepare`` makes a batch what the model takes, for images that are still bytes.
    """

    @torch.no_grad()
    def count(batch: tuple[Tensor, Tensor]) -> int:
        x, y = batch
        return int((model(prepare(x)).argmax(1) == y).sum())

    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return sum(each(count, batches)) / len(labels)


def filter_figures(model: MlpMixer) -> tuple[list[float], list[float]]:
    """Per block: mean smoothness of the fc1 filters, and their variety."""
    filters = [token_filters(model, i) for i in range(model.num_blocks)]
    return [smoothness(f).mean().item() for f in filters], [variety(f) for f in filters]


def token_weights(model: MlpMixer) -> dict[str, Tensor]:
    """All token-mixing matrices in half precision: ``fc1 (L, D_S, S)``, ``fc2 (L, S, D_S)``."""
    layers = ("fc1", "fc2")
    stacks = {k: [getattr(b.mlp_tokens, k).weight for b in mixer_blocks(model)] for k in layers}
    return {k: torch.stack(v).detach().half().cpu() for k, v in stacks.items()}


def snapshot_steps(total: int, count: int) -> list[int]:
    """Steps after which to keep the filters: from 0 to the end, closer together early on."""
    if count < 2:
        return [total]
    return sorted({round(total * (i / (count - 1)) ** 2) for i in range(count)})
