"""The experiments of notebook 07: small networks on CIFAR-10, trained alike but for one thing.

:data:`RUNS` lists them, :func:`fit` trains one, :func:`curves` and :func:`filters_of` read what is
bundled of all of them: ``data/experiments.csv``, which ``tools/experiments.py`` writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeGuard, cast

import numpy as np
import torch
from einops import einsum, rearrange
from torch import Tensor, nn

from mixer_lite._support.files import data_path
from mixer_lite._support.tables import read_table
from mixer_lite._support.words import did_you_mean
from mixer_lite.datasets.cifar import CIFAR10_MEAN, CIFAR10_STD, Cifar10, cifar10
from mixer_lite.interventions import shuffle_patches, shuffle_pixels
from mixer_lite.model import MlpBlock, MlpMixer, mixer_blocks
from mixer_lite.specs import create_model
from mixer_lite.training.augmentation import augmentation
from mixer_lite.training.measures import accuracy, filter_figures, normalize
from mixer_lite.training.muon import Muon
from mixer_lite.training.processes import Processes
from mixer_lite.training.recipe import (
    LESSON,
    Recipe,
    adamw_throughout,
    init_weights,
    make_optimizers,
    remember_peaks,
)
from mixer_lite.training.steps import Batches, seeded, steps
from mixer_lite.training.workers import Workers

MODEL, PATCH = "mixer_femto_cifar10", 4  # pixels
SEEN = 100_000  # images that every run learns from, counting each as often as it comes
POINTS = 6  # measurements a run, at equal distances; only the last on all test images

# As the lesson's recipe was when they were made, before the ablation improved it.
RECIPE = replace(LESSON, epochs=SEEN // 50_000, batch_size=256, decay_share=1.0)
ADAMW = adamw_throughout(lr=2e-3, decay=0.05)
TOKENS_ADAMW = dict[str, Any](token_optimizer="adamw", token_lr=2e-3, token_decay=0.15)


class UntiedMlp(nn.Module):
    """Token mixing with two matrices for each channel: ``(b, C, S) -> (b, C, S)``."""

    def __init__(self, channels: int, tokens: int, hidden: int, std: float):
        super().__init__()
        self.fc1 = nn.Parameter(std * torch.randn(channels, hidden, tokens))
        self.fc2 = nn.Parameter(std * torch.randn(channels, tokens, hidden))
        self.bias1 = nn.Parameter(torch.zeros(channels, hidden))
        self.bias2 = nn.Parameter(torch.zeros(channels, tokens))

    def forward(self, x: Tensor) -> Tensor:
        """``(b, C, S) -> (b, C, S)``."""
        x = nn.functional.gelu(einsum(x, self.fc1, "b c s, c d s -> b c d") + self.bias1)
        return einsum(x, self.fc2, "b c d, c s d -> b c s") + self.bias2


def mixer(recipe: Recipe, **sizes: int) -> nn.Module:
    """The lesson's Mixer, or one of other sizes."""
    model = create_model(MODEL, **sizes)
    init_weights(model, recipe)
    return model


def untied(recipe: Recipe) -> nn.Module:
    """The same, its token mixing not shared between channels."""
    model = create_model(MODEL)
    init_weights(model, recipe)
    assert recipe.token_std is not None
    for block in mixer_blocks(model):
        block.mlp_tokens = UntiedMlp(  # type: ignore[assignment]
            model.hidden_dim, model.num_tokens, model.tokens_mlp_dim, recipe.token_std
        )
    return model


def conv(recipe: Recipe) -> nn.Module:
    """A residual network of 3 x 3 convolutions, of about the Mixer's size."""
    from timm.models.resnet import BasicBlock, ResNet

    net = ResNet(
        BasicBlock,  # type: ignore[arg-type]
        layers=(1, 1, 1, 1), num_classes=10, channels=(32, 48, 56, 56),
    )  # fmt: skip
    # Small images: a smaller first kernel, and no pooling after it.
    stem: Any = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
    none: Any = nn.Identity()
    net.conv1, net.maxpool = stem, none  # (b, 3, 32, 32) -> (b, 64, 16, 16)
    return net


def vit(recipe: Recipe) -> nn.Module:
    """A Vision Transformer on the Mixer's patches, of about its size."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=PATCH, num_classes=10, embed_dim=72, depth=4, num_heads=4,
        mlp_ratio=2, class_token=False, global_pool="avg",
    )  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """One run: what it trains, on what, and how."""

    build: Callable[[Recipe], nn.Module] = mixer
    choices: dict = field(default_factory=dict)
    images: int = 50_000
    shuffle: str = ""  # "patches" or "pixels", before the network sees them
    augment: bool = True
    keep: bool = False  # its filters


RUNS: dict[str, Experiment] = {
    "mixer": Experiment(keep=True),
    # The optimizer of the token-mixing matrices, and their start.
    "tokens_usual": Experiment(choices=dict(token_std=None), keep=True),
    "tokens_muon": Experiment(
        choices=dict(token_rank=None, token_lr=0.02, token_decay=0.02, token_momentum=0.95,
                     token_std=None), keep=True),
    "tokens_muon_small": Experiment(
        choices=dict(token_rank=None, token_lr=0.02, token_decay=0.02, token_momentum=0.95),
        keep=True),
    "tokens_adamw_small": Experiment(choices=TOKENS_ADAMW, keep=True),
    "tokens_adamw": Experiment(choices=TOKENS_ADAMW | dict(token_std=None), keep=True),
    # What a shuffle costs three kinds of network.
    "mixer_patches": Experiment(shuffle="patches", keep=True),
    "mixer_pixels": Experiment(shuffle="pixels"),
    "conv": Experiment(conv),
    "conv_patches": Experiment(conv, shuffle="patches"),
    "conv_pixels": Experiment(conv, shuffle="pixels"),
    "vit": Experiment(vit),
    "vit_patches": Experiment(vit, shuffle="patches"),
    "vit_pixels": Experiment(vit, shuffle="pixels"),
    # AdamW throughout; one pair of token-mixing matrices for all channels, or a pair for each.
    "adamw": Experiment(choices=ADAMW),
    "adamw_0.004": Experiment(choices=adamw_throughout(lr=4e-3, decay=0.05)),
    "adamw_0.008": Experiment(choices=adamw_throughout(lr=8e-3, decay=0.05)),
    # Muon on channel mixing at twice the rate of tokens_adamw_small.
    "channels_muon_0.04": Experiment(choices=TOKENS_ADAMW | dict(channel_lr=0.04)),
    "untied": Experiment(untied, ADAMW),
    # Untied with Muon on channel mixing; what is untied goes to AdamW.
    "untied_muon": Experiment(untied),
    # Depth and width at about the same number of weights.
    "wide": Experiment(partial(mixer, num_blocks=2, hidden_dim=144, channels_mlp_dim=288)),
    "deep": Experiment(partial(mixer, num_blocks=8, hidden_dim=64, channels_mlp_dim=128)),
    # Fewer images, seen more often.
    "images_2500": Experiment(images=2500),
    "images_10000": Experiment(images=10_000),
    "images_10000_plain": Experiment(images=10_000, augment=False),
    "images_10000_strong": Experiment(
        images=10_000, choices=dict(auto_augment=0.5, cutmix=0.5, shift=4)),
}  # fmt: skip


_PARTS = {"": (), "patches": ("patches", "inside"), "pixels": ("pixels",)}


def orders_of(shuffle: str, seed: int) -> dict[str, Tensor]:
    """The permutations of one seed, the same for all images: of patches, in them, of all pixels."""
    generator = torch.Generator().manual_seed(1000 + seed)
    orders = dict(
        patches=torch.randperm((32 // PATCH) ** 2, generator=generator),
        inside=torch.randperm(PATCH**2, generator=generator),
        pixels=torch.randperm(32 * 32, generator=generator),
    )
    return {name: orders[name] for name in _PARTS[shuffle]}


def shuffle_first(net: nn.Module, shuffle: str, seed: int) -> None:
    """Let a network see its images shuffled: what comes before, as augmentation, is not."""
    orders = orders_of(shuffle, seed)

    def before(_: nn.Module, inputs: tuple[Tensor]) -> Tensor:
        if shuffle == "pixels":
            return shuffle_pixels(inputs[0], orders["pixels"])
        places = dict(patch_order=orders["patches"], pixel_order=orders["inside"])
        return shuffle_patches(inputs[0], PATCH, **places)

    if shuffle:
        net.register_forward_pre_hook(before)


def _plain(net: nn.Module) -> TypeGuard[MlpMixer]:
    # A Mixer as model.py has it, whose filters can be looked at.
    return isinstance(net, MlpMixer) and isinstance(net.blocks[0].mlp_tokens, MlpBlock)


def optimizers_of(net: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The recipe's optimizers, for other networks too: Muon between the first layer and the head.

    As for a Mixer, AdamW takes the first layer, the head, and all that is no matrix.
    """
    if _plain(net):
        return make_optimizers(net, recipe)
    layers = [m for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    shapes: dict[torch.Size, list[nn.Parameter]] = {}
    if recipe.channel_optimizer == "muon":
        for layer in layers[1:-1]:
            weight = cast(nn.Parameter, layer.weight)
            shapes.setdefault(weight.shape, []).append(weight)
    known = {id(p) for params in shapes.values() for p in params}
    rest = [p for p in net.parameters() if id(p) not in known]
    adamw = dict(
        lr=recipe.other_lr, weight_decay=recipe.other_decay, betas=(0.9, recipe.adam_beta2)
    )
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, **adamw)]  # type: ignore[arg-type]
    if shapes:
        groups = [dict(params=params) for params in shapes.values()]
        optimizers.append(Muon(groups, recipe.channel_lr, recipe.channel_decay))
    return remember_peaks(optimizers)


class Fitted(NamedTuple):
    """A trained network, and a row of numbers for each moment at which it was measured."""

    net: nn.Module
    rows: list[dict[str, Any]]


def fit(
    run: str, seed: int = 0, data: Cifar10 | None = None, *, seen: int = SEEN, progress: bool = True
) -> Fitted:
    """Train one network of :data:`RUNS`: one to two minutes on two cores.

    Args:
        run: a name in :data:`RUNS`.
        seed: of weights, order, augmentation and permutations.
        data: CIFAR-10, fetched unless given.
        seen: images to learn from, each counted as often as it comes.
        progress: show a bar with the time left.

    Raises:
        ValueError: there is no such run.
        RuntimeError: CIFAR-10 could not be had, or the loss is no longer a number.
    """
    from tqdm.auto import tqdm

    if run not in RUNS:
        hint = did_you_mean(run, RUNS, f"Choose from {', '.join(RUNS)}.")
        raise ValueError(f"There is no run named {run!r}. {hint}")
    data, experiment = data or cifar10(), RUNS[run]
    recipe = replace(RECIPE, **experiment.choices)
    with seeded(seed):
        net = experiment.build(recipe)
    shuffle_first(net, experiment.shuffle, seed)
    optimizers = optimizers_of(net, recipe)
    images, labels = data.train_images[: experiment.images], data.train_labels[: experiment.images]
    augment = augmentation(recipe, 10) if experiment.augment else _as_they_are
    batches = Batches(
        images, labels, torch.arange(len(images)), recipe.batch_size, seed, augment,
        CIFAR10_MEAN, CIFAR10_STD, Processes(torch.device("cpu")),
    )  # fmt: skip
    batch, total = recipe.batch_size, seen // recipe.batch_size
    points = {round(total * (i + 1) / POINTS) for i in range(POINTS)}
    losses, rows = list[float](), list[dict[str, Any]]()
    # BatchNorm needs the statistics of the whole batch.
    part = batch if any(isinstance(m, nn.BatchNorm2d) for m in net.modules()) else 64
    with Workers(net, part=part) as workers:
        started = time.process_time()
        loop = steps(workers, optimizers, batches, recipe, last=total, total=total)
        for done in tqdm(loop, total=total, unit="step", disable=None if progress else True):
            losses.append(done.loss)
            if done.number not in points:
                continue
            measuring = time.process_time()
            every = 1 if done.number == total else 5
            rows.append(
                dict(
                    step=done.number, images=len(images), **_measure(net, data, every, workers),
                    loss=round(sum(losses) / len(losses), 4),
                    processor_seconds=round(measuring - started, 1),
                )
            )  # fmt: skip
            losses.clear()
            started += time.process_time() - measuring
    return Fitted(net, rows)


def _as_they_are(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images, nn.functional.one_hot(labels, 10).float()


def _measure(net: nn.Module, data: Cifar10, every: int, workers: Workers) -> dict[str, Any]:
    # On every so many of the test images.
    images = normalize(data.test_images[::every], CIFAR10_MEAN, CIFAR10_STD)
    right = accuracy(net.eval(), images, data.test_labels[::every], each=workers.each)
    net.train()
    parameters = sum(p.numel() for p in net.parameters())
    row = dict[str, Any](parameters=parameters, accuracy=round(right, 4), test_images=len(images))
    if _plain(net):
        means = (sum(figures) / len(figures) for figures in filter_figures(net))
        row |= zip(("smoothness", "variety"), (round(mean, 4) for mean in means), strict=True)
    return row


@lru_cache(maxsize=1)
def _table() -> list[dict[str, str]]:
    return read_table(data_path("experiments.csv"))


def curves(run: str, what: str = "accuracy") -> tuple[np.ndarray, np.ndarray]:
    """What is bundled of one run: a column of ``data/experiments.csv``, by seed and moment.

    Args:
        run: a name in :data:`RUNS`.
        what: the column.

    Returns:
        Images learned from so far ``(moments,)``, and the numbers ``(seeds, moments)``.

    Raises:
        ValueError: the table has no such run or column.
    """
    rows = [row for row in _table() if row["run"] == run]
    if not rows or not rows[0].get(what):
        raise ValueError(f"data/experiments.csv has no {what!r} of a run {run!r}.")
    steps = sorted({int(row["step"]) for row in rows})
    values = {(int(row["seed"]), int(row["step"])): float(row[what]) for row in rows}
    seeds = sorted({seed for seed, _ in values})
    seen = np.array(steps) * RECIPE.batch_size
    return seen, np.array([[values[seed, step] for step in steps] for seed in seeds])


def last(run: str, what: str = "accuracy") -> np.ndarray:
    """The same at the end of the run, ``(seeds,)``; accuracy then is of all 10,000 test images."""
    return curves(run, what)[1][:, -1]


def filters_of(run: str) -> Tensor:
    """The token-mixing filters of a run's first seed, ``(L, D_S, gh, gw)``.

    Raises:
        ValueError: none are bundled of this run.
    """
    from safetensors.torch import load_file

    fc1 = load_file(data_path("experiments_filters.safetensors")).get(run)
    if fc1 is None:
        kept = ", ".join(name for name, experiment in RUNS.items() if experiment.keep)
        raise ValueError(f"No filters are bundled of {run!r}; of these there are: {kept}.")
    side = round(fc1.shape[-1] ** 0.5)
    return rearrange(fc1.float(), "l u (gh gw) -> l u gh gw", gh=side)
