"""A training run: its state, and a folder with checkpoints that outlive a crash or a full disk."""

from __future__ import annotations

import csv
import errno
import importlib.util
import io
import os
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mixer_lite.checkpoints import save_checkpoint
from mixer_lite.measures import token_weights
from mixer_lite.model import MlpMixer
from mixer_lite.recipe import Recipe, make_optimizers
from mixer_lite.resources import reason, replace_file

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
    """What is known after a step, for whoever watches a run.

    Attributes:
        step: steps done so far.
        total: steps of the whole run.
        epoch: the epoch that the step belongs to, from 1.
        loss: mean loss of this step's images, augmented and with smoothed labels.
        lr_share: this step's share of the peak learning rates.
        seconds: what the step took, without watching and saving.
        model: the model itself, live: look, or copy, before you return. With ``recipe.ema`` the
            averaged one.
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
        self.average = (
            AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema))
            if recipe.ema
            else None
        )
        self.step = 0
        self.loss, self.seconds = 0.0, 0.0  # of this epoch so far
        self.log: list[dict[str, Any]] = []
        self.snapshots = {0: token_weights(model)}

    @property
    def best(self) -> MlpMixer:
        """The model that is measured and kept."""
        return self.model if self.average is None else cast(MlpMixer, self.average.module)

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
            for name in ("step", "loss", "seconds", "log", "snapshots"):
                setattr(self, name, state[name])
            self.model.load_state_dict(state["model"])
            if self.average:
                self.average.load_state_dict(state["average"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except (KeyError, ValueError, RuntimeError) as error:
            raise ValueError(
                "The run's checkpoint is of another version of Mixer Lite: finish the run with "
                "that version, or give another folder."
            ) from error

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
            replace_file(out / "snapshots.safetensors", save(stacks))
        except OSError as error:
            raise OSError(
                f"The trained weights could not be written to {out} ({reason(error)}): free some "
                f"space and start the same run again; it goes on from its last checkpoint."
            ) from error


def make_folder(folder: Path) -> None:
    """A run's folder, where there is none.

    Raises:
        OSError: there is a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise OSError(f"{folder} is or lies in a file: give a folder for the run.") from None


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Let no other program write to a run's folder, which is made where there is none.

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
        yield
    finally:
        lock.release()  # the system does so for a program that was killed


def save_state(folder: Path, identity: dict[str, Any], state: dict[str, Any]) -> bool:
    """Keep a run's state as the last checkpoint, and the one that was the last before it.

    ``identity`` is what the run was asked to do: :func:`load_state` wants the same.

    The file is written aside and moved into place: at every moment a whole one is there. A disk
    that is full costs one sentence and not the run; the checkpoints that were there stay.

    Returns:
        Whether it was written.
    """
    last = folder / LAST

    def moved(partial: Path) -> None:
        if last.exists():
            os.replace(last, folder / BEFORE)
        os.replace(partial, last)

    whole = dict(identity=identity, state=state)
    return _written(last, lambda file: torch.save(whole, file), moved)


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
            with zipfile.ZipFile(path) as file:  # torch.load does not look at the checksums
                if broken := file.testzip():
                    raise ValueError(f"{broken} has changed")
            saved = torch.load(path, map_location="cpu", weights_only=True)
            found, state = saved["identity"], saved["state"]
        except Exception as error:  # a damaged file raises many kinds
            damaged.append(f"{path} is damaged ({reason(error)})")
            continue
        if other := "; ".join(_differences(found, identity)):
            raise ValueError(
                f"{path} belongs to a run with other settings ({other}): give another folder, or "
                f"the settings it was started with."
            )
        if damaged:
            os.replace(folder / LAST, folder / DAMAGED)  # lest it take the good one's place
            say(f"{damaged[0]}: the run goes on from the checkpoint before it.")
        return state
    if damaged:
        raise ValueError(
            f"{' and '.join(damaged)}: give another folder, or delete this one to begin again."
        )
    return None


# What is known by a checksum, which says nothing to a reader.
_NUMBERED = {"content": "other images or labels", "start": "other weights to start from"}


def _differences(found: dict[str, Any], wanted: dict[str, Any]) -> Iterator[str]:
    # What a run was asked, where it is not what is asked now.
    for key, value in wanted.items():
        other = found.get(key)
        if isinstance(value, dict) and isinstance(other, dict):
            yield from _differences(other, value)
        elif key in _NUMBERED and other != value:
            yield _NUMBERED[key]
        elif other != value:
            yield textwrap.shorten(f"{key} {other}, not {value}", 150, placeholder=" ...")


def write_log(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """All rows as ``log.csv``."""
    if rows:
        write_table(folder / "log.csv", rows, list(rows[-1]))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: Iterable[dict[str, Any]], columns: Sequence[str]) -> None:
    """All rows as a CSV file, whole or not at all; what a row lacks is left empty."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _written(
        path,
        lambda file: file.write(text.getvalue().encode()),
        lambda partial: os.replace(partial, path),
    )


class Curves:
    """The numbers of the log as TensorBoard's curves, in ``tensorboard/``, where it is installed.

    A run that goes on draws ``rows`` anew, its log so far, in place of all that was drawn: its
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
        """Nothing more will be drawn."""
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


def say(sentence: str) -> None:
    """A sentence on stderr that leaves a progress bar whole."""
    from tqdm.auto import tqdm

    tqdm.write(sentence, file=sys.stderr)


def _written(path: Path, write: Callable[[BinaryIO], Any], move: Callable[[Path], None]) -> bool:
    partial = path.with_suffix(".partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())  # on the disk before it takes the old one's place
        move(partial)
    except (OSError, RuntimeError) as caught:
        partial.unlink(missing_ok=True)
        # PyTorch's writer hides the system's reason behind one of its own.
        error = caught.__context__ if isinstance(caught.__context__, OSError) else caught
        advice = "; free some space" if getattr(error, "errno", None) in FULL else ""
        say(f"{path} could not be written ({reason(error)}): the run goes on{advice}.")
        return False
    return True
