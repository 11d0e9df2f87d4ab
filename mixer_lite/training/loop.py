"""The loop that trained the bundled weights; ``recipe.py`` has its choices.

    mixer-lite train mixer_nano_cifar10 --out runs/nano

goes on where it was interrupted and gives the same weights from the same seed on the same kind of
machine. ``--holdout 5000`` keeps training images back, to compare choices on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from mixer_lite._support.words import say
from mixer_lite.model import MlpMixer
from mixer_lite.specs import CIFAR10_CLASSES, create_model
from mixer_lite.training.measures import accuracy, filter_figures, snapshot_steps, token_weights
from mixer_lite.training.prepare import Task, prepare
from mixer_lite.training.processes import processes
from mixer_lite.training.recipe import RECIPES, Recipe
from mixer_lite.training.runs import Curves, Moment, alone_in, load_state, save_state, write_log
from mixer_lite.training.steps import Step, steps
from mixer_lite.training.workers import Workers

__all__ = ["RECIPES", "Moment", "Recipe", "train"]


def train(
    name: str,
    out: str | Path,
    *,
    recipe: Recipe | None = None,
    start: MlpMixer | None = None,
    teacher: nn.Module | None = None,
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
    build: Callable[..., nn.Module] = create_model,
) -> MlpMixer:
    """Train a named model from random or given weights, or go on where ``out`` was left.

    Started by ``torchrun`` or ``accelerate launch``, every process computes its part of each
    batch; the first one alone writes, reports and watches.

    Args:
        name: one of ``list_models()``.
        out: folder for checkpoints, ``log.csv``, TensorBoard's curves where it is installed, and
            at the end ``weights.safetensors`` (float32) and ``snapshots.safetensors``.
        recipe: the choices; by default those of the bundled weights of this name.
        start: a trained model of the same sizes to start from; its GELU, LayerNorm epsilon and
            preprocessing come with it, and its head where the classes have the same names.
        teacher: a trained network for the same images and classes, for example from
            :func:`mixer_lite.training.teacher.load_teacher`. The model learns its answers in
            place of the labels (Beyer et al. 2022; see there).
        images, labels: bytes ``(n, 3, h, w)`` of the model's size, and their classes ``(n,)``.
        class_names: one name a class.
        mean, std: of each channel, on a 0-1 scale; by default those of ``start``, or CIFAR-10's.
        source: what the images are, for the model's own record.
        holdout: so many of the training images are kept out and measured after each epoch.
        seed: of initial weights, order and augmentation.
        device: ``"cpu"``, ``"cuda"`` or another of PyTorch's.
        bfloat16: matrix products in half the bits: faster on a GPU and on a CPU with
            AVX-512-BF16 or AMX, far slower on others. By default on a GPU alone.
        compile: let ``torch.compile`` rewrite the model for this machine.
        stop_after: leave after this many epochs, as an interruption would.
        save_every: seconds between checkpoints; one is also made at the end of each epoch.
        progress: show a bar with the time left, on a terminal or in a notebook.
        report: called with each row of the log.
        watch: called with a :class:`Moment` after each step; when it returns True, the run saves
            a checkpoint of this very step and ends. Called again, it goes on from there.
        build: makes the model, called like ``create_model(name, num_classes=10)``: any module with
            the named Mixer's weights, by the same names. Give each variant its own ``out``.

    Returns:
        The model as far as it is trained, averaged where the recipe says so. For your own module,
        a Mixer with its weights and answers; ``module`` is your module.

    Raises:
        ValueError: the settings or images do not fit the model or each other, or ``out`` holds
            another run's checkpoint or only damaged ones; the message says which.
        OSError: another process trains in ``out``, or its files could not be written.
        Diverged: a ``RuntimeError``: the loss is no number; ``out`` keeps the last good checkpoint.
    """
    if not save_every >= 0:  # which NaN is not either
        raise ValueError(f"save_every must be 0 seconds or more, not {save_every:g}.")
    team, out = processes(device), Path(out)
    task = prepare(
        name, recipe or RECIPES.get(name, Recipe()), team, images, labels, class_names,
        start=start, teacher=teacher, mean=mean, std=std, source=source, holdout=holdout,
        seed=seed, bfloat16=team.device.type != "cpu" if bfloat16 is None else bfloat16,
        compile=compile, build=build,
    )  # fmt: skip
    with ExitStack() as stack:
        # Only one program may write to the folder.
        team.first(lambda: stack.enter_context(alone_in(out)))
        _go_on(task, out)
        last = task.total if stop_after is None else stop_after * task.batches.each_epoch
        _train(task, out, min(task.total, last), save_every, progress, report, watch)
    return task.run.best


def _train(
    task: Task,
    out: Path,
    last: int,
    save_every: float,
    progress: bool,
    report: Callable[[dict[str, Any]], None],
    watch: Callable[[Moment], bool | None] | None,
) -> None:
    """The steps up to the last one, and what they leave in the folder."""
    from tqdm.auto import tqdm

    run, first = task.run, task.batches.team.rank == 0
    saver = _Saver(task, out)
    curves = Curves(out, run.log) if first and run.step < last else None

    def tell(row: dict[str, Any]) -> None:
        write_log(out, run.log)
        if curves:
            curves.add(row)
        report(row)

    bar = tqdm(
        total=task.total,
        initial=run.step,
        unit="step",
        disable=None if progress and first else True,
    )
    with task.workers() as workers, bar:
        stopped = _learn(task, workers, last, saver, save_every, bar, tell, watch)
    if curves:
        curves.close()
    if stopped and first and saver.step < run.step:
        raise OSError(
            f"The run was stopped at step {run.step}, but its last checkpoint is of step "
            f"{saver.step}: start it again, and it goes on from there."
        )
    if run.step == task.total:
        if task.recipe.start_share:
            run.go_back(task.origin, task.recipe.start_share)
        if first:
            write_log(out, run.log)
            run.export(out)


def _learn(
    task: Task,
    workers: Workers,
    last: int,
    saver: _Saver,
    save_every: float,
    bar: Any,
    tell: Callable[[dict[str, Any]], None],
    watch: Callable[[Moment], bool | None] | None,
) -> bool:
    """Step after step up to the last one; whether ``watch`` has stopped it before."""
    run, total, each_epoch = task.run, task.total, task.batches.each_epoch
    doing = steps(
        workers, run.optimizers, task.batches, task.recipe, first=run.step, last=last, total=total
    )
    with closing(doing):
        for done in doing:
            seconds = _take_over(task, done)
            epoch, place = divmod(run.step - 1, each_epoch)
            bar.set_postfix(epoch=epoch + 1, loss=f"{done.loss:.3f}", refresh=False)
            bar.update()
            ends, stop = place == each_epoch - 1, False
            row = _end_of_epoch(task, done, workers) if ends else None
            if watch is not None:
                moment = Moment(
                    run.step, total, epoch + 1, done.loss, done.lr_share, seconds,
                    run.best, run.snapshots, run.log,
                )  # fmt: skip
                stop = bool(task.batches.team.first(partial(watch, moment)))
            if ends or stop or time.monotonic() - saver.at > save_every:
                saver.save()
            if row:
                tell(row)
            if stop:
                return True
    return False


def _go_on(task: Task, out: Path) -> None:
    # From the last checkpoint, where there is one.
    team = task.batches.team
    state = team.first(lambda: load_state(out, task.identity))
    if state is not None:
        task.run.load(state)
    elif task.new_head and team.rank == 0:
        say("The head starts untrained, because the weights to start from name other classes.")


class _Saver:
    """Keeps a run's state; knows when it last did, and of which step the kept one is."""

    def __init__(self, task: Task, out: Path):
        self.task, self.out = task, out
        self.at, self.step = time.monotonic(), task.run.step

    def save(self) -> None:
        """Keep what there is now, in the first process alone."""
        task = self.task
        if task.batches.team.rank == 0 and save_state(self.out, task.identity, task.run.state()):
            self.step = task.run.step
        self.at = time.monotonic()


def _take_over(task: Task, done: Step) -> float:
    """What a step changes beside the weights: average, snapshots, sums; the seconds of all."""
    started, run, recipe = time.perf_counter(), task.run, task.recipe
    run.step = done.number
    if run.average and (recipe.ema or run.step > task.total * (1 - recipe.average_share)):
        run.average.update_parameters(run.model)
    if run.step in snapshot_steps(task.total, recipe.snapshots):
        run.snapshots[run.step] = token_weights(run.best)
    seconds = done.seconds + time.perf_counter() - started
    run.loss, run.seconds = run.loss + done.loss, run.seconds + seconds
    return seconds


def _end_of_epoch(task: Task, done: Step, workers: Workers) -> dict[str, Any] | None:
    """The epoch's row of the log, in the first process alone."""
    run, each_epoch = task.run, task.batches.each_epoch
    loss, seconds, run.loss, run.seconds = run.loss, run.seconds, 0.0, 0.0
    if task.batches.team.rank:
        return None
    row: dict[str, Any] = dict(epoch=run.step // each_epoch, steps=run.step)
    row |= dict(loss=round(loss / each_epoch, 4), lr_share=round(done.lr_share, 4))
    images, classes = task.held
    if len(images):
        row["held_out_accuracy"] = accuracy(run.best, images, classes, each=workers.each)
    smooth, varied = filter_figures(run.best)
    row |= dict(
        smoothness=round(sum(smooth) / len(smooth), 4),
        variety=round(sum(varied) / len(varied), 4),
        seconds=round(seconds, 1),
    )
    run.log.append(row)
    return row
