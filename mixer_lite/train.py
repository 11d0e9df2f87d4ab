"""The recipe that trained the bundled weights, in one readable file.

    mixer-lite train mixer_nano_cifar10 --out runs/nano

goes on where it was interrupted, gives the same weights from the same seed on the same kind of
machine, and holds out training images to choose by with ``--holdout 5000``.
"""

from __future__ import annotations

import csv
import ctypes
import os
import platform
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixer_lite.checkpoints import save_checkpoint
from mixer_lite.filters import smoothness, token_filters, variety
from mixer_lite.model import MlpMixer, mixer_blocks
from mixer_lite.specs import create_model

# Per-channel mean and standard deviation of CIFAR-10's training images, on a 0-1 scale.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True)
class Recipe:
    """Every choice of the recipe. Learning rates are peaks; decay is decoupled from them.

    Attributes:
        epochs: passes over the training images.
        batch_size: images a step.
        warmup_epochs: linear rise of the learning rates from zero.
        decay_share: last part of the training in which they fall linearly to zero.
        channel_lr, channel_decay: Muon on the channel-mixing matrices.
        token_lr, token_decay, token_momentum, token_rank, token_std: the token-mixing
            matrices' own optimizer (see :class:`Muon`) and initial standard deviation.
        other_lr, other_decay: AdamW on the rest (stem, head, biases, LayerNorms).
        shift: largest shift of the random crops, pixels.
        auto_augment: share of the images that go through AutoAugment's policy for CIFAR-10.
        cutmix: probability that a step pastes rectangles between images (CutMix).
        label_smoothing: share of the target spread over all classes.
        snapshots: how many times the token-mixing weights are kept along the way.
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
    token_rank: int = 8
    token_std: float = 0.004
    other_lr: float = 2e-3
    other_decay: float = 0.02
    shift: int = 4
    auto_augment: float = 0.5
    cutmix: float = 0.5
    label_smoothing: float = 0.1
    snapshots: int = 22


# The bundled models' own choices, where they differ. Fewer epochs ask for less augmentation; four
# times as many tokens and twice as many units hold more patterns.
RECIPES = {
    "mixer_grid16_cifar10": Recipe(epochs=20, token_rank=12, auto_augment=0.25, cutmix=0.25),
}


def flatten_spectrum(matrices: Tensor, rank: int | None = None, steps: int = 5) -> Tensor:
    """Make the directions of each matrix equally long: ``U S V^T -> U V^T``, ``(n, rows, cols)``.

    With ``rank=None`` all of them, approximately: five steps of the quintic Newton-Schulz
    iteration of Muon (Jordan et al. 2024), in float32 because many CPUs are a hundred times
    slower in bfloat16. With a rank the strongest so many alone, by singular value
    decomposition, scaled to the Frobenius norm that all of them would have.
    """
    if rank is not None:
        u, s, vt = torch.linalg.svd(matrices, full_matrices=False)
        scale = (s.shape[1] / rank) ** 0.5
        keep = (s[:, :rank] > 0).to(s.dtype) * scale  # a gradient of zero gives no update
        return (u[:, :, :rank] * keep[:, None]) @ vt[:, :rank]
    x = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    for _ in range(steps):
        a = x @ x.mT  # (n, rows, rows)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Nesterov momentum whose update has equally long directions (Jordan et al. 2024).

    ``rank=None`` is Muon (the tests compare it with ``torch.optim.Muon``): every direction of a
    matrix learns at one rate, noise included. With a rank only the strongest directions of the
    moment learn: those that many steps agree on, yet several of them, and not the first alone.

    All parameters of a group must be matrices of one shape; they are updated as one stack.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        rank: int | None = None,
    ):
        defaults = dict(lr=lr, weight_decay=weight_decay, momentum=momentum, rank=rank)
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            updates = []
            for p in params:
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffer = state["momentum_buffer"].lerp_(p.grad, 1 - group["momentum"])
                updates.append(p.grad.lerp(buffer, group["momentum"]))
            update = flatten_spectrum(torch.stack(updates), group["rank"])  # (n, rows, cols)
            rows, cols = params[0].shape
            length = group["lr"] * max(1.0, rows / cols) ** 0.5
            for p, u in zip(params, update, strict=True):
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(u, alpha=length)


def make_optimizers(model: MlpMixer, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon on channel mixing, its low-rank form on token mixing, AdamW on everything else."""
    groups: dict[tuple[str, str], list[nn.Parameter]] = {}
    for block in mixer_blocks(model):
        for mixing in ("mlp_tokens", "mlp_channels"):
            for layer in ("fc1", "fc2"):
                weight = getattr(getattr(block, mixing), layer).weight
                groups.setdefault((mixing, layer), []).append(weight)
    tokens = [{"params": params} for (m, _), params in groups.items() if m == "mlp_tokens"]
    channels = [{"params": params} for (m, _), params in groups.items() if m == "mlp_channels"]
    matrices = {id(p) for params in groups.values() for p in params}
    rest = [p for p in model.parameters() if id(p) not in matrices]
    return [
        Muon(channels, lr=recipe.channel_lr, weight_decay=recipe.channel_decay),
        Muon(
            tokens,
            lr=recipe.token_lr,
            weight_decay=recipe.token_decay,
            momentum=recipe.token_momentum,
            rank=recipe.token_rank,
        ),
        torch.optim.AdamW(
            rest, lr=recipe.other_lr, weight_decay=recipe.other_decay, betas=(0.9, 0.98)
        ),
    ]


def init_weights(model: MlpMixer, recipe: Recipe) -> None:
    """Small token-mixing matrices, so that no initial noise outlives the training; zero head."""
    for block in mixer_blocks(model):
        for layer in (block.mlp_tokens.fc1, block.mlp_tokens.fc2):
            nn.init.normal_(layer.weight, std=recipe.token_std)
            nn.init.zeros_(layer.bias)
    for parameter in model.head.parameters():
        nn.init.zeros_(parameter)  # as in the official code


def learning_rate_share(progress: float, recipe: Recipe) -> float:
    """Share of the peak learning rate: warm-up, plateau, linear fall to zero.

    ``progress`` is the part of the training that is done, from 0 to 1.
    """
    rise = progress * recipe.epochs / recipe.warmup_epochs if recipe.warmup_epochs else 1.0
    fall = (1 - progress) / recipe.decay_share if recipe.decay_share else 1.0
    return max(0.0, min(1.0, rise, fall))


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Bytes to normalised floats: ``(b, 3, h, w) -> (b, 3, h, w)``."""
    shape = (1, -1, 1, 1)
    m, s = (torch.tensor(v, device=images.device).view(shape) for v in (mean, std))
    return (images.float() / 255 - m) / s


@torch.no_grad()
def accuracy(model: MlpMixer, images: Tensor, labels: Tensor, batch_size: int = 250) -> float:
    """Share of images whose highest logit is the right class; images are normalised floats."""
    batches = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in batches)
    return right / len(labels)


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


class _Workers:
    """Gradient of a batch, computed in fixed parts on all cores at once.

    A part of 4096 tokens stays in the processor's cache, and one thread a part beats all threads
    on one operation by about a quarter. Parts are summed in their order, so the result does not
    depend on the number of cores.
    """

    def __init__(self, model: MlpMixer, bfloat16: bool = False, part: int | None = None):
        self.model, self.bfloat16 = model, bfloat16
        self.part = part or max(1, 4096 // model.num_tokens)  # images
        self.params = list(model.parameters())
        self.on_cpu = self.params[0].device.type == "cpu"
        if self.on_cpu:
            torch.set_num_threads(1)
            self.pool = ThreadPoolExecutor(
                os.cpu_count() or 1, initializer=torch.set_num_threads, initargs=(1,)
            )

    def _part(self, x: Tensor, y: Tensor, share: float, smoothing: float) -> tuple[Any, ...]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.model(x)
        loss = F.cross_entropy(logits.float(), y, label_smoothing=smoothing) * share
        return loss.detach(), torch.autograd.grad(loss, self.params)

    def gradient(self, x: Tensor, y: Tensor, smoothing: float) -> float:
        """Set every parameter's ``grad``; return the mean loss."""
        size = self.part if self.on_cpu else len(x)
        parts = [
            (a, b, len(a) / len(x), smoothing)
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
        run = self.pool.map if self.on_cpu else map
        losses, grads = zip(*run(lambda args: self._part(*args), parts), strict=True)
        for param, pieces in zip(self.params, zip(*grads, strict=True), strict=True):
            param.grad = sum(pieces[1:], start=pieces[0])
        return float(sum(losses))


def _augment(recipe: Recipe, num_classes: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    from torchvision.transforms import v2

    one = v2.Compose(
        [
            v2.RandomCrop(32, padding=recipe.shift, padding_mode="reflect"),
            v2.RandomHorizontalFlip(),
        ]
    )
    grey = [round(255 * m) for m in CIFAR10_MEAN]
    policy = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10, fill=grey)
    some = v2.RandomApply([policy], p=recipe.auto_augment)
    cutmix = v2.CutMix(num_classes=num_classes)

    def augment(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        images = torch.stack([one(image) for image in images])
        # Four images share a draw of the policy, which takes a quarter of the time.
        images = torch.cat([some(few) for few in images.split(4)])
        if torch.rand(()) < recipe.cutmix:
            return cutmix(images, labels)  # labels become (b, num_classes) shares
        return images, F.one_hot(labels, num_classes).float()

    return augment


def _save(path: Path, state: dict[str, Any]) -> None:
    # Written aside and moved into place: an interruption leaves the old file or the new one.
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _keep_memory() -> None:
    # glibc hands big blocks back to the system after every operation; keeping them saves time.
    if platform.system() == "Linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD
            libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def train(
    name: str,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    images: Tensor,
    labels: Tensor,
    holdout: int = 0,
    seed: int = 0,
    device: str = "cpu",
    bfloat16: bool | None = None,
    stop_after: int | None = None,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
) -> MlpMixer:
    """Train a named model from scratch, or go on where ``out`` was left.

    Args:
        name: one of ``list_models()``, for 32-pixel images.
        out: folder for ``checkpoint.pt``, ``log.csv``, and at the end ``weights.safetensors``
            (float32) and ``snapshots.safetensors``.
        recipe: the choices; those of the bundled weights of this name unless given.
        images: training images, bytes ``(n, 3, 32, 32)``.
        labels: their classes ``(n,)``.
        holdout: so many of the training images are kept out and measured after each epoch.
        seed: of initial weights, order and augmentation.
        device: ``"cpu"`` or ``"cuda"``.
        bfloat16: matrix products in half the bits. Twice as fast on a CPU with AVX-512-BF16 or
            AMX, far slower on one without; as a rule on a GPU and not on a CPU.
        stop_after: leave after this many epochs, as an interruption would.
        report: called with each row of the log.

    Raises:
        ValueError: ``out`` holds another run's checkpoint, or too few images are left to train on.
    """
    recipe = recipe or RECIPES.get(name, Recipe())
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    steps_per_epoch = (len(images) - holdout) // recipe.batch_size
    if steps_per_epoch < 1:
        raise ValueError(
            f"{len(images) - holdout} images are fewer than one batch of {recipe.batch_size}."
        )
    total = recipe.epochs * steps_per_epoch
    bfloat16 = device != "cpu" if bfloat16 is None else bfloat16
    _keep_memory()

    torch.manual_seed(seed)
    model = create_model(name)
    init_weights(model, recipe)
    model.to(device)
    optimizers = make_optimizers(model, recipe)
    peaks = [[group["lr"] for group in o.param_groups] for o in optimizers]
    split = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, kept = split[:holdout], split[holdout:]
    held_images = normalize(images[held], CIFAR10_MEAN, CIFAR10_STD).to(device)

    identity = dict(
        name=name, recipe=asdict(recipe), seed=seed, holdout=holdout, images=len(images),
        bfloat16=bfloat16,
    )  # fmt: skip
    checkpoint = out / "checkpoint.pt"
    log: list[dict[str, Any]] = []
    snapshots: dict[int, dict[str, Tensor]] = {0: token_weights(model)}
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        if state["identity"] != identity:
            raise ValueError(
                f"{checkpoint} belongs to a run with other settings: give another folder, "
                f"or the settings it was started with."
            )
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        log, snapshots, first = state["log"], state["snapshots"], state["epochs_done"]

    assert model.config is not None  # named models have one
    model.config = replace(
        model.config,
        mean=CIFAR10_MEAN,
        std=CIFAR10_STD,
        source=f"trained on CIFAR-10 with Mixer Lite's recipe, {recipe.epochs} epochs, seed {seed}",
    )
    workers = _Workers(model, bfloat16)
    augment = _augment(recipe, model.num_classes)
    keep_at = set(snapshot_steps(total, recipe.snapshots))
    for epoch in range(first, min(recipe.epochs, stop_after or recipe.epochs)):
        started, loss = time.monotonic(), 0.0
        # Everything random in an epoch follows from the seed and the epoch's number.
        torch.manual_seed(seed * 100_003 + epoch + 1)
        order = kept[torch.randperm(len(kept))][: steps_per_epoch * recipe.batch_size]
        for i, index in enumerate(order.split(recipe.batch_size)):
            step = epoch * steps_per_epoch + i
            share = learning_rate_share((step + 1) / total, recipe)
            for optimizer, base in zip(optimizers, peaks, strict=True):
                for group, lr in zip(optimizer.param_groups, base, strict=True):
                    group["lr"] = lr * share
            x, y = augment(images[index], labels[index])
            x = normalize(x.to(device), CIFAR10_MEAN, CIFAR10_STD)
            loss += workers.gradient(x, y.to(device), recipe.label_smoothing)
            for optimizer in optimizers:
                optimizer.step()
            if step + 1 in keep_at:
                snapshots[step + 1] = token_weights(model)
        smooth, varied = filter_figures(model)
        row: dict[str, Any] = dict(epoch=epoch + 1, steps=(epoch + 1) * steps_per_epoch)
        row |= dict(loss=round(loss / steps_per_epoch, 4), lr_share=round(share, 4))
        if holdout:
            row["held_out_accuracy"] = accuracy(model, held_images, labels[held].to(device))
        row |= dict(
            smoothness=round(sum(smooth) / len(smooth), 4),
            variety=round(sum(varied) / len(varied), 4),
            seconds=round(time.monotonic() - started, 1),
        )
        log.append(row)
        _save(
            checkpoint,
            dict(
                identity=identity,
                model=model.state_dict(),
                optimizers=[o.state_dict() for o in optimizers],
                log=log,
                snapshots=snapshots,
                epochs_done=epoch + 1,
            ),
        )
        with (out / "log.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(row))
            writer.writeheader()
            writer.writerows(log)
        report(row)
    if log and log[-1]["epoch"] == recipe.epochs:
        _export(model, snapshots, out)
    return model


def _export(model: MlpMixer, snapshots: dict[int, dict[str, Tensor]], out: Path) -> None:
    from safetensors.torch import save_file

    save_checkpoint(model, out / "weights.safetensors")
    steps = sorted(snapshots)
    stacks = {k: torch.stack([snapshots[s][k] for s in steps]) for k in ("fc1", "fc2")}
    save_file({**stacks, "step": torch.tensor(steps)}, out / "snapshots.safetensors")
