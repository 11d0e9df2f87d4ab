"""Interventions: shuffled inputs, weights that follow a shuffle, and units taken away for a while.

Section 3.4 and Figure 4 of the paper train on shuffled images; here the shuffles, and the proof by
weights that a Mixer cannot notice the first of them. :mod:`mixer_lite.explain` offers these names
too.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mixer_lite.filters import block_at
from mixer_lite.model import MlpBlock, MlpMixer, mixer_blocks


def _checked(order: Tensor | None, size: int, name: str) -> Tensor:
    if order is None:
        return torch.arange(size)
    order = torch.as_tensor(order)
    if sorted(order.flatten().tolist()) != list(range(size)):
        raise ValueError(
            f"{name} must hold each number from 0 to {size - 1} once: torch.randperm({size})."
        )
    return order


def shuffle_patches(
    images: Tensor,
    patch_size: int,
    *,
    patch_order: Tensor | None = None,
    pixel_order: Tensor | None = None,
) -> Tensor:
    """Move patches, and pixels within patches, alike in all images: ``(..., h, w) -> same shape``.

    With both orders this is the first setting of the paper's Figure 4.

    Args:
        images: any leading axes; all channels of a pixel move together.
        patch_size: P, in pixels; must divide both sides.
        patch_order: ``(S,)``: place k gets patch ``patch_order[k]``. ``None``: patches stay.
        pixel_order: ``(P * P,)``, for all patches: place q gets pixel ``pixel_order[q]``.

    Raises:
        ValueError: P does not divide the images, or an order is not a permutation.
    """
    h, w = images.shape[-2:]
    if h % patch_size or w % patch_size:
        raise ValueError(f"patch_size {patch_size} does not divide images of {h} x {w} pixels.")
    cut, p = "... (gh p1) (gw p2) -> ... (gh gw) (p1 p2)", patch_size
    x = rearrange(images, cut, p1=p, p2=p)
    patches = _checked(patch_order, x.shape[-2], "patch_order").to(x.device)
    pixels = _checked(pixel_order, p * p, "pixel_order").to(x.device)
    x = x[..., patches, :][..., pixels]  # (..., S, P*P)
    return rearrange(x, " -> ".join(reversed(cut.split(" -> "))), gh=h // p, p1=p)


def shuffle_pixels(images: Tensor, order: Tensor) -> Tensor:
    """Move all pixels, alike in all images: ``(..., h, w) -> same shape``.

    The second setting of the paper's Figure 4: place q, counted row by row, gets pixel
    ``order[q]``. Unlike :func:`shuffle_patches` it cannot be made up for by moving weights:
    pixels that the stem saw together are now in different patches. Where C is less than the
    ``3 * P * P`` numbers in a patch, no weights at all can do it, since all logits depend on a
    patch through C numbers only.

    Raises:
        ValueError: ``order`` is not a permutation of the ``h * w`` pixels.
    """
    h, w = images.shape[-2:]
    order = _checked(order, h * w, "order").to(images.device)
    return images.flatten(-2)[..., order].unflatten(-1, (h, w))  # (..., h*w) -> (..., h, w)


@torch.no_grad()
def reparametrise(
    model: MlpMixer, *, patch_order: Tensor | None = None, pixel_order: Tensor | None = None
) -> MlpMixer:
    """A copy that makes of shuffled images what the model makes of the originals.

    ``reparametrise(model, **orders)(shuffle_patches(images, P, **orders)) == model(images)`` to
    rounding: columns of the stem follow the pixels; columns of W1, rows of W2 and the bias of W2
    in every token-mixing MLP follow the patches. Nothing else knows positions.

    Raises:
        ValueError: an order is not a permutation.
    """
    p, twin = model.patch_size, copy.deepcopy(model)
    patches = _checked(patch_order, model.num_tokens, "patch_order")
    pixels = _checked(pixel_order, p * p, "pixel_order")
    stem = rearrange(model.stem.weight, "c (rgb pixel) -> c rgb pixel", pixel=p * p)
    twin.stem.weight.copy_(stem[..., pixels].flatten(1))  # (C, c, P*P) -> (C, c*P*P)
    for old, new in zip(mixer_blocks(model), mixer_blocks(twin), strict=True):
        new.mlp_tokens.fc1.weight.copy_(old.mlp_tokens.fc1.weight[:, patches])  # (D_S, S)
        new.mlp_tokens.fc2.weight.copy_(old.mlp_tokens.fc2.weight[patches])  # (S, D_S)
        new.mlp_tokens.fc2.bias.copy_(old.mlp_tokens.fc2.bias[patches])  # (S,)
    return twin


def _hold(_: nn.Module, __: object, out: Tensor, *, units: list[int], to: Tensor) -> Tensor:
    # A forward hook after GELU: these units answer alike, whatever they read. (b, C, D_S)
    out = out.clone()
    out[..., units] = to[:, units]
    return out


@torch.no_grad()
def _mean_answers(model: MlpMixer, images: Tensor) -> list[Tensor]:
    # Each unit's mean activation over images, channel by channel: (C, D_S) for each block.
    sums: list[Tensor] = [torch.zeros(())] * model.num_blocks

    def add(block: int, _: nn.Module, __: object, out: Tensor) -> None:
        sums[block] = sums[block] + out.sum(dim=0)  # (b, C, D_S) -> (C, D_S)

    hooks = [
        block.mlp_tokens.act.register_forward_hook(partial(add, b))
        for b, block in enumerate(mixer_blocks(model))
    ]
    try:
        for part in images.split(100):
            model(part)
    finally:
        for hook in hooks:
            hook.remove()
    return [total / len(images) for total in sums]


class Edits:
    """Changes to token-mixing units, while :func:`edit` lasts; ``block`` counts from 0."""

    def __init__(self, model: MlpMixer, means: list[Tensor] | None = None):
        self._model: MlpMixer | None = model
        self._means = means  # (C, D_S) for each block, or None: removed units write nothing
        self._hooks: list[RemovableHandle] = []

    def _mlp(self, block: int, units: Iterable[int]) -> MlpBlock:
        if self._model is None:
            raise RuntimeError("This edit is over and its model restored: begin another.")
        wrong = [u for u in units if not 0 <= u < self._model.tokens_mlp_dim]
        if wrong:
            last = self._model.tokens_mlp_dim - 1
            raise ValueError(f"A unit must be from 0 to {last}, not {wrong[0]}.")
        return block_at(self._model, block).mlp_tokens

    @torch.no_grad()
    def scale(self, block: int, units: int | Iterable[int], factor: float) -> None:
        """Multiply what these units write (their columns of W2) by a factor.

        Raises:
            ValueError: there is no such block or unit.
            RuntimeError: the edit is over.
        """
        units = sorted({units} if isinstance(units, int) else {int(u) for u in units})
        self._mlp(block, units).fc2.weight[:, units] *= factor  # (S, D_S)

    def remove(self, block: int, units: int | Iterable[int]) -> None:
        """Take these units away: they write nothing, or always their mean. The bias of W2 stays.

        Raises:
            ValueError: there is no such block or unit.
            RuntimeError: the edit is over.
        """
        if self._means is None:
            return self.scale(block, units, 0.0)
        units = sorted({units} if isinstance(units, int) else {int(u) for u in units})
        act = self._mlp(block, units).act
        hook = partial(_hold, units=units, to=self._means[block])
        self._hooks.append(act.register_forward_hook(hook))

    @torch.no_grad()
    def swap(self, block: int, unit: int, other: int) -> None:
        """Let each of two units write what the other wrote, while it reads what it read.

        To swap what they read as well would change nothing: units have no order.

        Raises:
            ValueError: there is no such block or unit.
            RuntimeError: the edit is over.
        """
        weight = self._mlp(block, (unit, other)).fc2.weight  # (S, D_S)
        weight[:, [unit, other]] = weight[:, [other, unit]]


def independent(model: MlpMixer) -> MlpMixer:
    """A copy with its own token-mixing MLPs; it shares all other weights with this model.

    For edits that must not meet other uses of the model, on another thread for example.
    """
    own = {id(p) for block in mixer_blocks(model) for p in block.mlp_tokens.parameters()}
    return copy.deepcopy(model, {id(p): p for p in model.parameters() if id(p) not in own})


@contextmanager
def edit(
    model: MlpMixer, *, to: Literal["zero", "mean"] = "zero", images: Tensor | None = None
) -> Iterator[Edits]:
    """Change token-mixing units for as long as a ``with`` block lasts.

    ``with edit(model) as units: units.remove(0, [3, 5]); model(images)``. At the end, also after
    an error, all weights and biases of the token-mixing MLPs are what they were, bit for bit. An
    edit inside an edit ends at the outer one's state.

    Args:
        model: changed in place, for a while.
        to: what :meth:`Edits.remove` leaves of a unit. ``"zero"``: nothing, so that the blocks
            behind get tables that they never met. ``"mean"``: in every channel its mean activation
            over ``images``, as the model was when the edit began: what the unit says of *this*
            image is gone, and what it says of all images stays.
        images: ``(n, c, h, w)``, preprocessed, for ``to="mean"``.

    Raises:
        ValueError: ``to`` is neither of the two, or ``"mean"`` has no images.
    """
    if to not in ("zero", "mean"):
        raise ValueError(f'to must be "zero" or "mean", not {to!r}.')
    if to == "mean" and (images is None or not len(images)):
        raise ValueError('to="mean" needs images to take the mean over: edit(..., images=x).')
    means = _mean_answers(model, images) if to == "mean" and images is not None else None
    weights = [p for block in mixer_blocks(model) for p in block.mlp_tokens.parameters()]
    kept = [p.detach().clone() for p in weights]
    edits = Edits(model, means)
    try:
        yield edits
    finally:
        edits._model = None
        for hook in edits._hooks:
            hook.remove()
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)
