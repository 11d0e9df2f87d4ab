"""The choices of the training recipe: numbers, optimizers, first weights, learning rates."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import nn

from mixer_lite._support.words import did_you_mean
from mixer_lite.model import MlpMixer, mixer_blocks
from mixer_lite.training.muon import Muon


@dataclass(frozen=True)
class Recipe:
    """Every choice of the recipe. Learning rates are peaks; decay is decoupled from them.

    What a choice was found to be worth is in points of accuracy on held-out images, of a single
    run (``data/ablation.csv``): *short*, two passes over 45,000 images, and *few*, ten passes over
    10,000. Less than two points may be chance, and neither shows a training of sixty passes, for
    which the strong augmentation is meant.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step. Short: 64 in place of 256 gains 3.5, 128 gains 2.7.
        warmup_epochs: linear rise of the learning rates from zero. Short: none at all costs
            nothing (+0.2).
        decay_share: last part of the training in which they fall linearly to zero. Short: 0.6
            gains 1.6 over 1.
        channel_lr, channel_decay: Muon on the channel-mixing matrices.
        token_lr, token_decay, token_momentum: of the token-mixing matrices' own optimizer.
            Short: no decay anywhere +0.2; few: +0.1.
        token_rank: directions of a token-mixing matrix that learn (see :class:`Muon`). Short: the
            accuracy hardly depends on it (4: 0.0, 16: -0.3, all: +0.2), the filters do: smoothness
            0.59, 0.37 and 0.11, where 8 gives 0.50; variety 0.10, 0.33 and 0.70 for 0.19.
        token_std: initial standard deviation of these matrices. Short: PyTorch's own start in
            place of a small one costs 2.6, and the filters look like noise (smoothness 0.06).
        other_lr, other_decay: AdamW on the rest (stem, head, biases, LayerNorms).
        shift: largest shift of the random crops, pixels. They cost a short run 1.2, and 0.9 with
            few images.
        auto_augment: share of the images that go through AutoAugment's policy for CIFAR-10. On
            half of them it costs a short run 1.9 and 2.6 with few; on all with few 4.4.
        cutmix: probability that a step pastes rectangles between images (CutMix). 0.5 costs a
            short run 2.2 and 2.8 with few.
        label_smoothing: share of the target spread over all classes. Short: gains 1.0.
        snapshots: how many times the token-mixing weights are kept along the way.
        token_optimizer, channel_optimizer: ``"muon"``, or ``"adamw"`` with the same names of
            learning rate and decay. Short: AdamW on token mixing -0.4 (smooth filters, 0.68, all
            alike, variety 0.07), on channel mixing -12.1; on everything, with the usual start and
            schedule, -21.7.
        adam_beta2: how slowly AdamW forgets the gradients' squares.
        decay_shape: of the fall at the end: ``"linear"`` or half a ``"cosine"``. Short: a cosine
            -0.6.
        mixup: probability that a step blends images in pairs (Mixup). Short: 0.5 costs 1.2.
        erase: probability that a rectangle of an image is painted over (random erasing). 0.25 in
            a short run -0.2, with few images +1.0.
        clip: largest length of the whole gradient; 0 leaves it as it is. 1 in a short run +0.2,
            with few images 0.0.
        ema: the weights that are measured and kept are a moving average of all steps', of which
            each step forgets ``1 - ema``; 0 takes the last step's. Short: 0.99 costs 2.5, and 2.2
            with few.
        average_share: last part of the training whose steps' weights are averaged, all alike; the
            mean is measured and kept. 0 takes the last step's. Short: 0.3 costs 0.7.
        teacher_temperature: what the teacher's and the model's logits are divided by, where a
            teacher trains the model. Short: a teacher in place of labels gains 1.5 at 1, 0.4 at 4.
        start_share: of a run that starts from trained weights, how far the kept weights lie back
            on the straight way to those (Wortsman et al. 2022, "Robust fine-tuning of zero-shot
            models"). The bundled ``mixer_nano_cifar10``, half-way, is right more often than both
            ends: its card has the numbers.
    """

    epochs: int = 60
    batch_size: int = 256
    warmup_epochs: float = 1.0
    decay_share: float = 0.6
    channel_lr: float = 0.02
    channel_decay: float = 0.02
    token_lr: float = 0.004
    token_decay: float = 0.05
    token_momentum: float = 0.98
    token_rank: int | None = 8
    token_std: float | None = 0.004
    other_lr: float = 2e-3
    other_decay: float = 0.02
    shift: int = 4
    auto_augment: float = 0.5
    cutmix: float = 0.5
    label_smoothing: float = 0.1
    snapshots: int = 22
    token_optimizer: Literal["muon", "adamw"] = "muon"
    channel_optimizer: Literal["muon", "adamw"] = "muon"
    adam_beta2: float = 0.98
    decay_shape: Literal["linear", "cosine"] = "linear"
    mixup: float = 0.0
    erase: float = 0.0
    clip: float = 0.0
    ema: float = 0.0
    average_share: float = 0.0
    teacher_temperature: float = 1.0
    start_share: float = 0.0

    def __post_init__(self) -> None:
        for name, allowed in _ALLOWED.items():
            if getattr(self, name) not in allowed:
                wanted = " or ".join(map(repr, allowed))
                raise ValueError(f"{name} must be {wanted}, not {getattr(self, name)!r}.")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if value is None and name in _MAY_BE_NONE:
                continue
            if not (low <= value <= high and math.isfinite(value)):  # which NaN is not either
                wanted = f"from {low} to {high}" if math.isfinite(high) else f"{low} or more"
                raise ValueError(f"{name} must be {wanted}, not {value}.")
        if self.cutmix + self.mixup > 1:
            raise ValueError(
                f"cutmix and mixup share one draw, so together they are at most 1, "
                f"not {self.cutmix + self.mixup}."
            )
        if self.ema and self.average_share:
            raise ValueError(
                "ema and average_share are two ways to average the same weights: set one to 0."
            )


_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("epochs", "batch_size", "token_rank"), (1, math.inf)),
    "snapshots": (0, math.inf),
    **dict.fromkeys(
        ("warmup_epochs", "channel_lr", "channel_decay", "token_lr", "token_decay", "token_std",
         "other_lr", "other_decay", "shift", "clip"), (0, math.inf)),
    **dict.fromkeys(
        ("decay_share", "auto_augment", "cutmix", "mixup", "erase", "label_smoothing",
         "average_share", "start_share"), (0, 1)),
    "teacher_temperature": (0.01, 1000),
    **dict.fromkeys(("token_momentum", "adam_beta2", "ema"), (0, 0.999999)),
}  # fmt: skip
_MAY_BE_NONE = ("token_rank", "token_std")
_ALLOWED = {
    "token_optimizer": ("muon", "adamw"),
    "channel_optimizer": ("muon", "adamw"),
    "decay_shape": ("linear", "cosine"),
}

# For a lesson: few epochs leave no time to learn the same from images that are changed much.
LESSON = Recipe(epochs=6, batch_size=128, warmup_epochs=0.2, shift=2, auto_augment=0.0, cutmix=0.0)

# The bundled models' own choices, where they differ. Fewer epochs need less augmentation; four
# times as many tokens and twice as many units hold more patterns.
RECIPES = {
    "mixer_femto_cifar10": LESSON,
    "mixer_grid16_cifar10": Recipe(epochs=20, token_rank=12, auto_augment=0.25, cutmix=0.25),
}


def with_choices(recipe: Recipe, choices: Iterable[str]) -> Recipe:
    """The recipe with choices that are written as ``name=value``, for example ``clip=1.0``.

    Raises:
        ValueError: there is no such choice, or the value is of another kind.
    """
    known = {field.name: getattr(Recipe(), field.name) for field in fields(Recipe)}
    changes: dict[str, Any] = {}
    for choice in choices:
        name, _, text = choice.partition("=")
        if name not in known:
            hint = did_you_mean(name, known, f"Choose from {', '.join(known)}.")
            raise ValueError(f"The recipe has no choice named {name!r}. {hint}")
        kind = type(known[name])
        try:
            nothing = text == "None" and name in _MAY_BE_NONE
            changes[name] = None if nothing else kind(text)
        except ValueError:
            number = "whole number" if kind is int else "number"
            raise ValueError(
                f"{name} must be a {number} like {known[name]}, not {text!r}."
            ) from None
    return replace(recipe, **changes)


def adamw_throughout(lr: float, decay: float) -> dict[str, Any]:
    """The choices that put AdamW on every parameter, as is usual."""
    parts = ("token", "channel", "other")
    rates = {f"{part}_lr": lr for part in parts} | {f"{part}_decay": decay for part in parts}
    return dict(token_optimizer="adamw", channel_optimizer="adamw", **rates)


def make_optimizers(model: MlpMixer, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon on channel mixing, its low-rank form on token mixing, AdamW on everything else."""
    matrices: dict[tuple[str, str], list[nn.Parameter]] = {}
    for block in mixer_blocks(model):
        for mixing in ("mlp_tokens", "mlp_channels"):
            for layer in ("fc1", "fc2"):
                weight = getattr(getattr(block, mixing), layer).weight
                matrices.setdefault((mixing, layer), []).append(weight)
    known = {id(p) for params in matrices.values() for p in params}
    rest = [p for p in model.parameters() if id(p) not in known]
    muon: list[dict[str, Any]] = []
    adamw = [dict(params=rest, lr=recipe.other_lr, weight_decay=recipe.other_decay)]
    for (mixing, _), params in matrices.items():
        group: dict[str, Any]
        if mixing == "mlp_channels":
            group = dict(lr=recipe.channel_lr, weight_decay=recipe.channel_decay)
            which = recipe.channel_optimizer
        else:
            group = dict(lr=recipe.token_lr, weight_decay=recipe.token_decay)
            which = recipe.token_optimizer
        if which == "muon" and mixing == "mlp_tokens":
            group |= dict(momentum=recipe.token_momentum, rank=recipe.token_rank)
        (muon if which == "muon" else adamw).append(dict(params=params, **group))
    # One for each kind of matrix, so that several cores can make a step.
    optimizers: list[torch.optim.Optimizer] = [Muon([group], lr=0.0) for group in muon]
    optimizers.append(torch.optim.AdamW(adamw, betas=(0.9, recipe.adam_beta2)))
    return remember_peaks(optimizers)


def remember_peaks(optimizers: list[torch.optim.Optimizer]) -> list[torch.optim.Optimizer]:
    """The same optimizers; they now store the peak learning rates, of which a step takes a part."""
    for group in (group for optimizer in optimizers for group in optimizer.param_groups):
        group["initial_lr"] = group["lr"]
    return optimizers


def init_weights(model: MlpMixer, recipe: Recipe) -> None:
    """Small token-mixing matrices, so that no initial noise outlives the training; zero head.

    ``token_std=None`` leaves them as PyTorch makes them.
    """
    for block in mixer_blocks(model):
        for layer in (block.mlp_tokens.fc1, block.mlp_tokens.fc2):
            if recipe.token_std is not None:
                nn.init.normal_(layer.weight, std=recipe.token_std)
                nn.init.zeros_(layer.bias)
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)  # as in the official code


def learning_rate_share(progress: float, recipe: Recipe) -> float:
    """Share of the peak learning rate: warm-up, plateau, fall to zero.

    ``progress`` is the part of the training that is done, from 0 to 1.
    """
    rise = progress * recipe.epochs / recipe.warmup_epochs if recipe.warmup_epochs else 1.0
    fall = (1 - progress) / recipe.decay_share if recipe.decay_share else 1.0
    if recipe.decay_shape == "cosine":
        fall = (1 - math.cos(math.pi * min(1.0, fall))) / 2
    return max(0.0, min(1.0, rise, fall))
