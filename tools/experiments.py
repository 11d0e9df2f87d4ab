"""The experiments of notebook 07: small networks, trained alike but for one thing.

    python tools/experiments.py --seeds 0 1 2

trains every run of the list below on CIFAR-10, once a seed, and writes a row for each moment at
which it was measured to data/experiments.csv, and the filters of some runs of the first seed to
data/experiments_filters.safetensors. Stop it whenever you like: the same command goes on with the
runs that are missing. ``--runs mixer vit`` takes only these. A run takes one to two minutes on
two cores.

All measure accuracy on CIFAR-10's test images, of the last weights; nothing is chosen by it.
"""

from __future__ import annotations

import argparse
import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeGuard

import torch
from einops import einsum
from torch import Tensor, nn

from mixer_lite.augment import augmentation
from mixer_lite.datasets import CIFAR10_MEAN, CIFAR10_STD, Cifar10, cifar10
from mixer_lite.interventions import shuffle_patches, shuffle_pixels
from mixer_lite.measures import accuracy, filter_figures, normalize, token_weights
from mixer_lite.model import MlpBlock, MlpMixer, mixer_blocks
from mixer_lite.recipe import LESSON, Recipe, init_weights, learning_rate_share, make_optimizers
from mixer_lite.specs import create_model
from mixer_lite.train import epoch_order, step_seed, train_step
from mixer_lite.workers import Workers

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "data/experiments.csv"
FILTERS = ROOT / "data/experiments_filters.safetensors"
MODEL = "mixer_femto_cifar10"
COLUMNS = (
    "run", "seed", "step", "images", "parameters", "loss", "accuracy", "test_images",
    "smoothness", "variety", "processor_seconds",
)  # fmt: skip
POINTS = 6  # measurements a run, at equal distances; only the last on all test images
SEEN = 100_000  # images that every run learns from, counting each as often as it comes

RECIPE = replace(LESSON, epochs=SEEN // 50_000)
# The usual choice, and the same for three kinds of network: AdamW on everything.
ADAMW = dict(
    token_optimizer="adamw", token_lr=2e-3, token_decay=0.05,
    channel_optimizer="adamw", channel_lr=2e-3, channel_decay=0.05,
    other_lr=2e-3, other_decay=0.05,
)  # fmt: skip


class UntiedMlp(nn.Module):
    """Token mixing with two matrices of its own for every channel: ``(b, C, S) -> (b, C, S)``."""

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
    from timm.layers import GroupNorm
    from timm.models.resnet import BasicBlock, ResNet

    # Group norms, as the Mixer's, know no batch.
    net = ResNet(
        BasicBlock,  # type: ignore[arg-type]
        layers=(1, 1, 1, 1), num_classes=10, channels=(16, 32, 48, 88), stem_width=16,
        norm_layer=partial(GroupNorm, num_groups=8),
    )  # fmt: skip
    net.maxpool = nn.Identity()  # type: ignore[assignment]  # (b, 64, 16, 16) goes on
    return net


def vit(recipe: Recipe) -> nn.Module:
    """A Vision Transformer on the Mixer's patches, of about its size."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32, patch_size=4, num_classes=10, embed_dim=72, depth=4, num_heads=4,
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
    "tokens_muon": Experiment(
        choices=dict(token_rank=None, token_lr=0.02, token_decay=0.02, token_momentum=0.95,
                     token_std=None), keep=True),
    "tokens_adamw_small": Experiment(
        choices=dict(token_optimizer="adamw", token_lr=2e-3, token_decay=0.15), keep=True),
    "tokens_adamw": Experiment(
        choices=dict(token_optimizer="adamw", token_lr=2e-3, token_decay=0.15, token_std=None),
        keep=True),
    # What a shuffle costs three kinds of network.
    "adamw": Experiment(choices=ADAMW, keep=True),
    "adamw_patches": Experiment(choices=ADAMW, shuffle="patches", keep=True),
    "adamw_pixels": Experiment(choices=ADAMW, shuffle="pixels", keep=True),
    "conv": Experiment(conv, ADAMW),
    "conv_patches": Experiment(conv, ADAMW, shuffle="patches"),
    "conv_pixels": Experiment(conv, ADAMW, shuffle="pixels"),
    "vit": Experiment(vit, ADAMW),
    "vit_patches": Experiment(vit, ADAMW, shuffle="patches"),
    "vit_pixels": Experiment(vit, ADAMW, shuffle="pixels"),
    # One pair of matrices for all channels, or a pair for each ("adamw" is the tied one).
    "untied": Experiment(untied, ADAMW),
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


def shuffled(kind: str, seed: int, patch_size: int = 4) -> dict[str, Tensor]:
    """The permutations of one seed, the same for all images: places of patches and of pixels."""
    generator = torch.Generator().manual_seed(1000 + seed)
    tokens = (32 // patch_size) ** 2
    orders = dict(
        patches=torch.randperm(tokens, generator=generator),
        inside=torch.randperm(patch_size**2, generator=generator),
        pixels=torch.randperm(32 * 32, generator=generator),
    )
    return {name: orders[name] for name in _PARTS[kind]}


_PARTS = {"": (), "patches": ("patches", "inside"), "pixels": ("pixels",)}


def shuffle_first(net: nn.Module, kind: str, seed: int) -> None:
    """Let the network see its images shuffled, after their augmentation."""
    orders = shuffled(kind, seed)
    if kind == "patches":
        net.register_forward_pre_hook(
            lambda _, images: shuffle_patches(
                images[0], 4, patch_order=orders["patches"], pixel_order=orders["inside"]
            )
        )
    elif kind == "pixels":
        net.register_forward_pre_hook(lambda _, images: shuffle_pixels(images[0], orders["pixels"]))


def _plain(net: nn.Module) -> TypeGuard[MlpMixer]:
    # A Mixer as model.py has it, whose filters can be looked at.
    return isinstance(net, MlpMixer) and isinstance(net.blocks[0].mlp_tokens, MlpBlock)


def adamw(net: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The same choices for a network that is not a plain Mixer."""
    rate, decay = recipe.other_lr, recipe.other_decay
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=rate, weight_decay=decay, betas=(0.9, recipe.adam_beta2)
    )
    optimizer.param_groups[0]["initial_lr"] = rate
    return [optimizer]


def fit(experiment: Experiment, seed: int, data: Cifar10) -> tuple[nn.Module, list[dict]]:
    """Train one network; it and a row for every measurement."""
    recipe = replace(RECIPE, **experiment.choices)
    torch.manual_seed(seed)
    net = experiment.build(recipe)
    shuffle_first(net, experiment.shuffle, seed)
    optimizers = make_optimizers(net, recipe) if _plain(net) else adamw(net, recipe)
    parameters = sum(p.numel() for p in net.parameters())
    images, labels = data.train_images[: experiment.images], data.train_labels[: experiment.images]
    test = normalize(data.test_images, CIFAR10_MEAN, CIFAR10_STD)
    augment = augmentation(recipe, 10)
    batch = recipe.batch_size
    steps, each = SEEN // batch, len(images) // batch
    points = [round(steps * (i + 1) / POINTS) for i in range(POINTS)]
    rows: list[dict] = []
    total, count, spent = 0.0, 0, 0.0
    with Workers(net, part=64) as workers:
        for step in range(steps):
            started = time.process_time()
            number, place = divmod(step, each)
            index = epoch_order(len(images), seed, number).split(batch)[place]
            torch.manual_seed(step_seed(seed, step))
            x, y = images[index], nn.functional.one_hot(labels[index], 10).float()
            if experiment.augment:
                x, y = augment(x, labels[index])
            share = learning_rate_share((step + 1) / steps, recipe)
            x = normalize(x, CIFAR10_MEAN, CIFAR10_STD)
            total += train_step(workers, optimizers, x, y, share, recipe)
            count += 1
            spent += time.process_time() - started
            if step + 1 in points:
                every = 1 if step + 1 == steps else 5
                right = accuracy(net, test[::every], data.test_labels[::every])
                row = dict(
                    step=step + 1, images=experiment.images, parameters=parameters,
                    loss=round(total / count, 4), accuracy=round(right, 4),
                    test_images=len(data.test_labels[::every]), processor_seconds=round(spent, 1),
                )  # fmt: skip
                if _plain(net):
                    smooth, varied = filter_figures(net)
                    row["smoothness"] = round(sum(smooth) / len(smooth), 4)
                    row["variety"] = round(sum(varied) / len(varied), 4)
                rows.append(row)
                total, count = 0.0, 0
    return net, rows


def read(table: Path) -> list[dict[str, str]]:
    """The rows that are there."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(table: Path, rows: list[dict]) -> None:
    """All rows, in the order of the list, whole or not at all."""
    places = list(RUNS)
    rows = sorted(rows, key=lambda r: (places.index(r["run"]), int(r["seed"]), int(r["step"])))
    partial_file = table.with_suffix(".partial")
    with partial_file.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial_file, table)


def keep_filters(path: Path, run: str, net: MlpMixer, kind: str, seed: int) -> None:
    """Add the run's token-mixing matrices, and the permutations of its images."""
    from safetensors.torch import load_file, save_file

    kept = load_file(path) if path.exists() else {}
    kept[run] = token_weights(net)["fc1"]  # (L, D_S, S)
    kept |= {f"{run}.{name}": order for name, order in shuffled(kind, seed).items()}
    save_file(kept, path)


def main(argv: list[str] | None = None) -> None:
    """Run what is missing in the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NAME",
                        help=f"of {', '.join(RUNS)} (default: all)")  # fmt: skip
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--filters", type=Path, default=FILTERS)
    args = parser.parse_args(argv)
    data = cifar10()
    for seed in args.seeds:
        for run in args.runs:
            if any(r["run"] == run and r["seed"] == str(seed) for r in read(args.table)):
                continue
            net, rows = fit(RUNS[run], seed, data)
            if RUNS[run].keep and seed == 0:
                assert isinstance(net, MlpMixer)
                keep_filters(args.filters, run, net, RUNS[run].shuffle, seed)
            named: list[dict] = [dict(run=run, seed=seed, **row) for row in rows]
            write(args.table, [*read(args.table), *named])
            print(f"{run}, seed {seed}: {rows[-1]['accuracy']:.2%}", flush=True)


if __name__ == "__main__":
    main()
