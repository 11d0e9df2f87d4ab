"""The loop that trained the bundled weights; ``recipe.py`` has its choices.

    mixer-lite train mixer_nano_cifar10 --out runs/nano

goes on where it was interrupted, at whatever moment, gives the same weights from the same seed on
the same kind of machine, and holds out training images to choose by with ``--holdout 5000``.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import lru_cache, partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mixer_lite.augment import augmentation
from mixer_lite.datasets import CIFAR10_MEAN, CIFAR10_STD
from mixer_lite.measures import accuracy, filter_figures, normalize, snapshot_steps, token_weights
from mixer_lite.model import MlpMixer
from mixer_lite.processes import Processes, processes
from mixer_lite.recipe import (
    RECIPES,
    Recipe,
    init_weights,
    learning_rate_share,
)
from mixer_lite.runs import (
    ADVICE,
    Curves,
    Diverged,
    Moment,
    Run,
    alone_in,
    load_state,
    save_state,
    say,
    write_log,
)
from mixer_lite.specs import CIFAR10_CLASSES, create_model, list_models, spec
from mixer_lite.workers import Workers

__all__ = ["RECIPES", "Moment", "Recipe", "train", "train_step"]


_random = Lock()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """PyTorch's random numbers from a seed; the caller's own stay as they were."""
    # Two runs at once do not mix theirs.
    with _random, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def step_seed(seed: int, step: int) -> int:
    """All that is random in a step follows from this number, so a run can go on from any step."""
    return int(np.random.SeedSequence([abs(seed), step]).generate_state(1, np.uint64)[0])


@lru_cache(maxsize=4)
def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch, from 0, takes ``count`` images."""
    return torch.randperm(
        count, generator=torch.Generator().manual_seed(seed * 100_003 + epoch + 1)
    )


def train_step(
    workers: Workers,
    optimizers: Sequence[torch.optim.Optimizer],
    x: Tensor,
    y: Tensor,
    share: float,
    recipe: Recipe,
    team: Processes | None = None,
) -> float:
    """One step on a batch, or on this process's part of it; the mean loss of the whole batch.

    Args:
        workers: they compute the gradient.
        optimizers: of :func:`make_optimizers`.
        x: normalised images ``(b, 3, h, w)``.
        y: their classes as shares ``(b, num_classes)``.
        share: of the peak learning rates.
        recipe: smoothing and clipping.
        team: the processes that share the batch.

    Raises:
        Diverged: the loss or its gradient is not finite; no weight has changed.
    """
    loss = workers.gradient(x, y, recipe.label_smoothing)
    if team is not None and team.count > 1:
        loss = _average(workers.params, loss, team)
    length = float(nn.utils.clip_grad_norm_(workers.params, recipe.clip or math.inf))
    for what, value in (("loss", loss), ("gradient", length)):
        if not math.isfinite(value):
            raise Diverged(f"The {what} is {value}. {ADVICE}")
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * share
    list(workers.each(lambda optimizer: optimizer.step(), optimizers))
    return loss


def _average(params: list[nn.Parameter], loss: float, team: Processes) -> float:
    # Every process has as many images, so the batch's gradient is the mean of theirs.
    grads = [p.grad.flatten() for p in params if p.grad is not None]
    flat = torch.cat([*grads, grads[0].new_tensor([loss])])  # one message for all
    *pieces, mean = team.mean(flat).split([p.numel() for p in params] + [1])
    for param, piece in zip(params, pieces, strict=True):
        param.grad = piece.view_as(param)
    return float(mean)


_SIZES = ("image_size", "patch_size", "num_blocks", "hidden_dim", "tokens_mlp_dim",
          "channels_mlp_dim", "in_channels")  # fmt: skip


def check_start(model: MlpMixer, trained: MlpMixer) -> None:
    """Whether a model can start from a trained one's weights.

    Raises:
        ValueError: their sizes differ.
    """
    ours, theirs = ({size: getattr(m, size) for size in _SIZES} for m in (model, trained))
    if ours != theirs:
        differ = [f"{k} {theirs[k]} and not {ours[k]}" for k in _SIZES if theirs[k] != ours[k]]
        side = theirs["image_size"][0]
        alike = [
            name for name in list_models()
            if theirs | spec(name) | dict(image_size=(side, side), num_classes=0)
            == theirs | dict(num_classes=0) and spec(name)["image_size"] == side
        ]  # fmt: skip
        other = f", or train {' or '.join(alike)}, which has theirs" if alike else ""
        raise ValueError(
            f"The weights to start from have other sizes than the model to train "
            f"({', '.join(differ)}): choose weights of the same sizes{other}."
        )


def start_from(model: MlpMixer, trained: MlpMixer, class_names: Sequence[str]) -> bool:
    """Give a model the weights of a trained one; its own head stays where the classes differ.

    Returns:
        Whether the trained head was taken too.

    Raises:
        ValueError: their sizes differ.
    """
    check_start(model, trained)
    known = trained.config.class_names if trained.config else ()
    same = tuple(known) == tuple(class_names)
    weights = trained.state_dict()
    model.load_state_dict(
        {k: v for k, v in weights.items() if same or not k.startswith("head.")}, strict=False
    )
    return same


def fingerprint(model: MlpMixer) -> int:
    """A number that changes with any weight."""
    value = 1
    for tensor in model.state_dict().values():
        value = zlib.adler32(tensor.float().cpu().numpy().tobytes(), value)
    return value


def train(
    name: str,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    start: MlpMixer | None = None,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str] = CIFAR10_CLASSES,
    mean: tuple[float, float, float] | None = None,
    std: tuple[float, float, float] | None = None,
    source: str = "CIFAR-10",
    holdout: int = 0,
    seed: int = 0,
    device: str = "cpu",
    bfloat16: bool | None = None,
    compile: bool = False,
    stop_after: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    report: Callable[[dict[str, Any]], None] = lambda row: None,
    watch: Callable[[Moment], bool | None] | None = None,
    build: Callable[..., MlpMixer] = create_model,
) -> MlpMixer:
    """Train a named model from random or given weights, or go on where ``out`` was left.

    Started by ``torchrun`` or ``accelerate launch``, every process computes its part of each
    batch; the first one alone writes, reports and watches.

    Args:
        name: one of ``list_models()``.
        out: folder for ``checkpoint.pt`` and the one before it, ``log.csv``, TensorBoard's curves
            where it is installed, and at the end ``weights.safetensors`` (float32) and
            ``snapshots.safetensors``.
        recipe: the choices; those of the bundled weights of this name unless given.
        start: a trained model of the same sizes whose weights the run starts from, instead of
            random ones; its GELU, LayerNorm epsilon and preprocessing come with them, and its head
            where the classes have the same names.
        images: training images, bytes ``(n, 3, h, w)`` of the model's size.
        labels: their classes ``(n,)``.
        class_names: one name a class.
        mean, std: of each channel, on a 0-1 scale: what the images are normalised by; those of
            ``start``, or CIFAR-10's, unless given.
        source: what the images are, for the model's own record.
        holdout: so many of the training images are kept out and measured after each epoch.
        seed: of initial weights, order and augmentation.
        device: ``"cpu"``, ``"cuda"`` or another of PyTorch's.
        bfloat16: matrix products in half the bits. Twice as fast on a CPU with AVX-512-BF16 or
            AMX, far slower on one without; as a rule on a GPU and not on a CPU.
        compile: let ``torch.compile`` rewrite the model for this machine.
        stop_after: leave after this many epochs, as an interruption would.
        save_every: seconds between checkpoints; one is also made at the end of each epoch.
        progress: show a bar with the time left, on a terminal or in a notebook.
        report: called with each row of the log.
        watch: called with a :class:`Moment` after each step. When it returns True, the run saves
            a checkpoint of this very step and ends; another call with the same ``out`` goes on
            as if there had been no stop.
        build: makes the model, as ``create_model`` does; a variant has a folder of its own.

    Returns:
        The model as far as it is trained; with ``recipe.ema`` the averaged one.

    Raises:
        ValueError: ``out`` holds another run's checkpoint or damaged ones alone, ``start`` has
            other sizes, too few images are left to train on, or they are not of the model's size
            or number of classes.
        OSError: another process trains in ``out``, the run was stopped and its checkpoint could
            not be written, or the trained weights could not.
        Diverged: the loss is no longer a number; ``out`` keeps the last good checkpoint. A
            ``RuntimeError``.
    """
    from tqdm.auto import tqdm

    recipe = recipe or RECIPES.get(name, Recipe())
    team = processes(device)
    known = None if start is None else start.config
    like_it = {} if start is None else dict(gelu=start.gelu, norm_eps=start.norm_eps)
    with seeded(seed):
        model = build(name, num_classes=len(class_names), **like_it)
        init_weights(model, recipe)
    new_head = start is not None and not start_from(model, start, class_names)
    mean = mean or (known.mean if known else CIFAR10_MEAN)
    std = std or (known.std if known else CIFAR10_STD)
    if min(std) <= 0:
        raise ValueError(f"std must be above 0 in each channel, not {tuple(std)}.")
    steps_per_epoch = _check(model, recipe, images, labels, holdout, team)
    total = recipe.epochs * steps_per_epoch
    bfloat16 = team.device.type != "cpu" if bfloat16 is None else bfloat16
    assert model.config is not None  # named models have one
    model.config = replace(
        model.config, mean=mean, std=std, class_names=tuple(class_names),
        source=f"trained on {source} with Mixer Lite's recipe, {recipe.epochs} epochs, seed {seed}"
        + (f", from weights {known.source}" if known else ""),
        **{k: getattr(known, k) for k in ("interpolation", "crop", "resize") if known},
    )  # fmt: skip
    run = Run(model.to(team.device), recipe)
    split = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, kept = split[:holdout], split[holdout:]
    held_images = normalize(images[held], mean, std).to(team.device)

    out = Path(out)
    identity = dict(
        name=name, recipe=asdict(recipe), seed=seed, holdout=holdout, bfloat16=bfloat16,
        compile=compile, class_names=list(class_names), mean=list(mean), std=list(std),
        images=len(images), start=None if start is None else fingerprint(start),
        content=[zlib.adler32(data.contiguous().numpy().data) for data in (images, labels)],
    )  # fmt: skip
    with ExitStack() as stack:
        # One program alone writes to the folder.
        team.first(lambda: stack.enter_context(alone_in(out)))
        state = team.first(lambda: load_state(out, identity))
        if state is not None:
            run.load(state)
        elif new_head and team.rank == 0:
            say("The head starts anew, because the weights to start from name other classes.")

        saved_at, saved_step = time.monotonic(), run.step

        def save() -> None:
            nonlocal saved_at, saved_step
            if team.rank == 0 and save_state(out, identity, run.state()):
                saved_step = run.step
            saved_at = time.monotonic()

        def batch(step: int) -> tuple[Tensor, Tensor]:
            epoch, place = divmod(step, steps_per_epoch)
            index = kept[epoch_order(len(kept), seed, epoch)].split(recipe.batch_size)[place]
            with seeded(step_seed(seed, step)):
                x, y = augment(images[index], labels[index])
            # All processes augment the same whole batch, and each takes its part of it.
            x, y = (whole.chunk(team.count)[team.rank].to(team.device) for whole in (x, y))
            return normalize(x, mean, std), y

        last = total if stop_after is None else min(total, stop_after * steps_per_epoch)
        keep_at = set(snapshot_steps(total, recipe.snapshots))
        augment = augmentation(recipe, model.num_classes, model.image_size, mean)
        curves = Curves(out, run.log) if team.rank == 0 and run.step < last else None
        shown = progress and team.rank == 0
        with (
            Workers(model, bfloat16, compile=compile) as workers,
            tqdm(
                total=total, initial=run.step, unit="step", disable=None if shown else True
            ) as bar,
        ):
            stop = False
            while run.step < last and not stop:
                started = time.perf_counter()
                share = learning_rate_share((run.step + 1) / total, recipe)
                x, y = batch(run.step)
                loss = train_step(workers, run.optimizers, x, y, share, recipe, team)
                if run.average:
                    run.average.update_parameters(model)
                epoch = run.step // steps_per_epoch + 1
                run.step += 1
                if run.step in keep_at:
                    run.snapshots[run.step] = token_weights(run.best)
                seconds = time.perf_counter() - started
                run.loss, run.seconds = run.loss + loss, run.seconds + seconds
                bar.set_postfix(epoch=epoch, loss=f"{loss:.3f}", refresh=False)
                bar.update()

                ends = run.step % steps_per_epoch == 0
                if ends and team.rank == 0:
                    row: dict[str, Any] = dict(epoch=epoch, steps=run.step)
                    row |= dict(loss=round(run.loss / steps_per_epoch, 4), lr_share=round(share, 4))
                    if holdout:
                        classes = labels[held].to(team.device)
                        right = accuracy(run.best, held_images, classes, each=workers.each)
                        row["held_out_accuracy"] = right
                    smooth, varied = filter_figures(run.best)
                    row |= dict(
                        smoothness=round(sum(smooth) / len(smooth), 4),
                        variety=round(sum(varied) / len(varied), 4),
                        seconds=round(run.seconds, 1),
                    )
                    run.log.append(row)
                if ends:
                    run.loss, run.seconds = 0.0, 0.0
                if watch is not None:
                    moment = Moment(
                        run.step, total, epoch, loss, share, seconds,
                        run.best, run.snapshots, run.log,
                    )  # fmt: skip
                    stop = bool(team.first(partial(watch, moment)))
                if ends or stop or time.monotonic() - saved_at > save_every:
                    save()
                if ends and curves:
                    write_log(out, run.log)
                    curves.add(row)
                    report(row)
        if curves:
            curves.close()
        if stop and team.rank == 0 and saved_step < run.step:
            raise OSError(
                f"The run was stopped at step {run.step}, but its last checkpoint is of step "
                f"{saved_step}: start it again, and it goes on from there."
            )
        if run.step == total and team.rank == 0:
            write_log(out, run.log)
            run.export(out)
    return run.best


def _check(
    model: MlpMixer,
    recipe: Recipe,
    images: Tensor,
    labels: Tensor,
    holdout: int,
    team: Processes,
) -> int:
    """Steps of an epoch.

    Raises:
        ValueError: as :func:`train` says.
    """
    wanted = (3, *model.image_size)
    if not (isinstance(images, Tensor) and images.dtype == torch.uint8) or (
        tuple(images.shape[1:]) != wanted
    ):
        raise ValueError(f"images must be a tensor of bytes (n, {', '.join(map(str, wanted))}), "
                         f"not {_kind(images)}.")  # fmt: skip
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        raise ValueError(f"labels must be a tensor of int64 (n,), not {_kind(labels)}.")
    if len(labels) != len(images) or not 0 <= int(labels.min()) <= int(labels.max()) < (
        model.num_classes
    ):
        raise ValueError(
            f"labels must be {len(images)} numbers from 0 to {model.num_classes - 1}, one an image."
        )
    if holdout < 0:
        raise ValueError(f"holdout must be 0 images or more, not {holdout}.")
    if recipe.shift >= min(model.image_size):
        raise ValueError(f"shift must be less than the image's side of {min(model.image_size)} "
                         f"pixels, not {recipe.shift}.")  # fmt: skip
    count, batch = len(images) - holdout, recipe.batch_size
    if count < batch:
        raise ValueError(f"{count} images are fewer than one batch of {batch}: choose a smaller "
                         f"batch_size, or more images.")  # fmt: skip
    if recipe.epochs * (count // batch) < 2:
        raise ValueError("One step is no training, for the learning rate ends at zero: make more "
                         "epochs or smaller batches.")  # fmt: skip
    if batch % team.count:
        raise ValueError(
            f"A batch of {batch} cannot be shared equally by {team.count} processes: choose a "
            f"number of processes that divides it."
        )
    return count // batch


def _kind(data: Any) -> str:
    what = type(data).__name__
    return f"{what} of {data.dtype} {tuple(data.shape)}" if hasattr(data, "dtype") else what
