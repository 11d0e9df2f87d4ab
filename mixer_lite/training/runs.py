"""A training run: its state, and a folder with checkpoints that survive a crash or full disk."""

from __future__ import annotations

import errno
import importlib.util
import os
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mixer_lite._support.files import make_folder, replaced, sweep
from mixer_lite._support.tables import write_table
from mixer_lite._support.words import reason, say
from mixer_lite.model import MlpMixer
from mixer_lite.training.measures import token_weights
from mixer_lite.training.recipe import Recipe, make_optimizers
from mixer_lite.weights.checkpoints import save_checkpoint
from mixer_lite.weights.pickles import Reader

ADVICE = (
    "Training has diverged: begin again in another folder with lower learning rates, a longer "
    "warm-up or clipping (clip=1.0), and without bfloat16 if it was on."
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # what more space would help with
LAST, BEFORE, DAMAGED = "checkpoint.pt", "checkpoint.before.pt", "checkpoint.damaged"


class Diverged(RuntimeError):
    """Losses, gradients or weights are no longer finite."""


@dataclass(frozen=True)
class Moment:
    """What is known after a step, for those who watch a run.

    Attributes:
        step: steps done so far.
        total: steps of the whole run.
        epoch: the epoch that the step belongs to, from 1.
        loss: mean loss of this step's images, augmented and with smoothed labels.
        lr_share: this step's share of the peak learning rates.
        seconds: what the step took, without watching and saving.
        model: the model itself, live: look, or copy, before you return. With ``recipe.ema``, and
            in the share of the run that is averaged, the averaged one.
        snapshots: token-mixing weights by step, as :func:`token_weights` gives them; the run
            adds to it.
        log: the rows of the log, one an epoch; the run adds to it.
    """

    step: int
    total: int
    epoch: int
    loss: float
    lr_share: float
    seconds: float
    model: MlpMixer
    snapshots: Mapping[int, dict[str, Tensor]]
    log: Sequence[dict[str, Any]]


class Run:
    """All that changes while a model trains: what a checkpoint holds."""

    def __init__(self, model: MlpMixer, recipe: Recipe):
        self.model, self.optimizers = model, make_optimizers(model, recipe)
        self.average: AveragedModel | None = None
        if recipe.ema:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
        elif recipe.average_share:
            self.average = AveragedModel(model)  # the plain mean
        self.step = 0
        self.loss, self.seconds = 0.0, 0.0  # of this epoch so far
        self.log: list[dict[str, Any]] = []
        self.snapshots = {0: token_weights(model)}

    @property
    def best(self) -> MlpMixer:
        """The model that is measured and kept."""
        if self.average is None or not self.average.n_averaged:  # or nothing yet to average
            return self.model
        return cast(MlpMixer, self.average.module)

    def state(self) -> dict[str, Any]:
        """All of it, for :func:`save_state`.

        Raises:
            Diverged: weights are NaN or infinite: not worth keeping.
        """
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise Diverged(f"The weights are no longer finite. {ADVICE}")
        return dict(
            step=self.step, loss=self.loss, seconds=self.seconds, log=self.log,
            snapshots=self.snapshots, model=self.model.state_dict(),
            average=self.average and self.average.state_dict(),
            optimizers=[optimizer.state_dict() for optimizer in self.optimizers],
        )  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go back to what :meth:`state` returned.

        Raises:
            ValueError: another version of this module returned it.
        """
        try:
            _check(state)
            for name in ("step", "loss", "seconds", "log", "snapshots"):
                setattr(self, name, state[name])
            self.model.load_state_dict(state["model"])
            if self.average:
                self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (LookupError, ValueError, RuntimeError, TypeError, AttributeError) as error:
            raise ValueError(
                "The run's checkpoint is of another version of Mixer Lite: finish the run with "
                "that version, or give another folder."
            ) from error

    @torch.no_grad()
    def go_back(self, start: Mapping[str, Tensor], share: float) -> None:
        """Move the kept weights a share of the way to those of the start, at the end of a run."""
        for name, parameter in self.best.named_parameters():
            if name in start:
                parameter.lerp_(start[name], share)
        self.snapshots[self.step] = token_weights(self.best)

    def export(self, out: Path) -> None:
        """Write ``weights.safetensors`` and ``snapshots.safetensors``.

        Raises:
            OSError: the disk takes no more.
        """
        from safetensors.torch import save

        steps = sorted(self.snapshots)
        stacks = {k: torch.stack([self.snapshots[s][k] for s in steps]) for k in ("fc1", "fc2")}
        try:
            save_checkpoint(self.best, out / "weights.safetensors")
            stacks["step"] = torch.tensor(steps)
            with replaced(out / "snapshots.safetensors") as file:
                file.write(save(stacks))
        except OSError as error:
            raise OSError(
                f"The trained weights could not be written to {out} ({reason(error)}): free some "
                f"space and start the same run again; it goes on from its last checkpoint."
            ) from error


def _check(state: dict[str, Any]) -> None:
    # Checks the types of a state's parts; the model checks their values when it loads them.
    def numbers(*values: Any) -> bool:
        return all(type(v) in (int, float) for v in values)

    step, log, snapshots = state["step"], state["log"], state["snapshots"]
    well = (
        type(step) is int and step >= 0 and numbers(state["loss"], state["seconds"])
        and isinstance(log, list)
        and all(isinstance(row, dict) and all(isinstance(k, str) for k in row) for row in log)
        and isinstance(snapshots, dict) and all(type(at) is int for at in snapshots)
        and all(
            isinstance(kept, dict) and all(isinstance(kept.get(k), Tensor) for k in ("fc1", "fc2"))
            for kept in snapshots.values()
        )
    )  # fmt: skip
    if not well:
        raise ValueError("a part of the state is not what it is called")


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other programs out of a run's folder, and make it if there is none.

    Raises:
        OSError: one does already, or there is a file of that name.
    """
    from filelock import FileLock, Timeout

    make_folder(folder)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise OSError(
            f"Another program trains in {folder}: stop it there, or give another folder."
        ) from None
    try:
        sweep(folder)  # unfinished files of a run that was killed
        yield
    finally:
        lock.release()  # the system does so for a program that was killed


def save_state(folder: Path, identity: dict[str, Any], state: dict[str, Any]) -> bool:
    """Keep a run's state as the last checkpoint, and the one that was the last before it.

    ``identity`` is what the run was asked to do: :func:`load_state` wants the same.

    The file is written aside and moved into place, so there is always a whole one. If the disk is
    full, a message says so and the run goes on; the earlier checkpoints stay.

    Returns:
        Whether it was written.
    """

    def write(last: Path) -> None:
        with replaced(last, before=folder / BEFORE) as file:
            torch.save(dict(identity=identity, state=state), file)

    return _forgiven(folder / LAST, write)


def load_state(folder: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The state that :func:`save_state` kept last, or the one before it when that is damaged.

    The folder is made where there is none.

    Returns:
        The state, on the CPU; ``None`` when the folder holds none.

    Raises:
        ValueError: all that is there is damaged, or of a run that was asked something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    damaged = []
    for path in (folder / LAST, folder / BEFORE):
        if not path.exists():
            continue
        try:
            with Reader(path) as file:  # checks the checksums and runs no code
                saved = file.everything()
            found, state = saved["identity"], saved["state"]
            if not isinstance(found, dict) or not isinstance(state, dict):
                raise ValueError("it holds something else than a run's state")
            # Choices that the recipe gained later had their default values.
            if "recipe" in found:
                found["recipe"] = asdict(Recipe()) | found["recipe"]
        except Exception as error:  # a damaged file raises many kinds
            damaged.append(f"{path} is damaged ({reason(error)})")
            continue
        if other := "; ".join(_differences(found, identity)):
            raise ValueError(
                f"{path} belongs to a run with other settings ({other}): give another folder, or "
                f"the settings it was started with."
            )
        if damaged:
            os.replace(folder / LAST, folder / DAMAGED)  # so that it cannot overwrite the good one
            say(f"{damaged[0]}: the run goes on from the checkpoint before it.")
        return state
    if damaged:
        raise ValueError(
            f"{' and '.join(damaged)}: give another folder, or delete this one to begin again."
        )
    return None


# Only a checksum of these is kept, which tells a reader nothing.
_NUMBERED = {
    "content": "other images or labels",
    "start": "other weights to start from",
    "teacher": "another teacher",
}


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    # What a run was asked for, where it differs from what is asked now.
    for key, value in wanted.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(other, value)
        elif key in _NUMBERED and other != value:
            yield _NUMBERED[key]
        elif other != value:
            yield textwrap.shorten(f"{key} {other}, not {value}", 150, placeholder=" ...")


def write_log(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """All rows as ``log.csv``; if the disk is full, a message says so and the run goes on."""
    if rows:
        _forgiven(folder / "log.csv", lambda path: write_table(path, rows, list(rows[-1])))


class Curves:
    """The numbers of the log as TensorBoard's curves, in ``tensorboard/``, where it is installed.

    A run that goes on draws ``rows``, its log so far, in place of all that was drawn: its
    checkpoint may be older, or newer, than the last point.
    """

    def __init__(self, folder: Path, rows: Sequence[dict[str, Any]]):
        self.writer: Any = None
        if importlib.util.find_spec("tensorboard"):
            with self._forgiven():
                from torch.utils.tensorboard import SummaryWriter

                self.writer = SummaryWriter(folder / "tensorboard", purge_step=0)
        for row in rows:
            self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Draw a row of the log."""
        with self._forgiven():
            if self.writer:
                for name, value in row.items():
                    self.writer.add_scalar(name, value, row["steps"])
                self.writer.flush()

    def close(self) -> None:
        """Finish the curves."""
        with self._forgiven():
            if self.writer:
                self.writer.close()

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            yield
        except (ImportError, OSError) as error:
            self.writer = None
            say(f"TensorBoard's curves end here ({reason(error)}); log.csv has the numbers.")


def _forgiven(path: Path, write: Callable[[Path], None]) -> bool:
    # Whether a file that the run can do without was written.
    try:
        write(path)
    except (OSError, RuntimeError) as caught:
        # PyTorch's writer raises an error that hides the system's reason.
        error = caught.__context__ if isinstance(caught.__context__, OSError) else caught
        advice = "; free some space" if getattr(error, "errno", None) in FULL else ""
        say(f"{path} could not be written ({reason(error)}): the run goes on{advice}.")
        return False
    return True
