"""The record of a training run: token-mixing filters at some steps, and its curves.

Pure functions and plain records; :mod:`mixer_lite.explorers.training` shows them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from mixer_lite import filters
from mixer_lite._support.files import data_path
from mixer_lite._support.tables import read_table
from mixer_lite._support.words import did_you_mean
from mixer_lite.model import MlpMixer

#: Means over the filters of one block, ``(D_S, gh, gw) -> float``.
MEASURES: dict[str, Callable[[Tensor], float]] = {
    "smoothness": lambda f: filters.smoothness(f).mean().item(),
    "locality": lambda f: filters.locality(f).mean().item(),
    "pairedness": lambda f: filters.pairedness(f).mean().item(),
    "variety": filters.variety,
}
_SNAPSHOTS = "_snapshots.safetensors"


def measure_all(maps: Tensor) -> Tensor:
    """Every measure of every block's filters: ``(L, D_S, gh, gw) -> (L, len(MEASURES))``."""
    return torch.tensor([[measure(f) for measure in MEASURES.values()] for f in maps])


def all_filters(model: MlpMixer) -> Tensor:
    """What the token-mixing units of all blocks read, a copy: ``(L, D_S, gh, gw)``."""
    return torch.stack([filters.token_filters(model, b) for b in range(model.num_blocks)]).cpu()


@dataclass(frozen=True)
class Frame:
    """A run at one step.

    Attributes:
        step: batches learned from so far.
        filters: of all blocks, ``(L, D_S, gh, gw)``.
        measures: of these filters, ``(L, len(MEASURES))``.
        chances: what pictures were taken for, ``(n, K)``; ``None``: not asked at this step.
    """

    step: int
    filters: Tensor
    measures: Tensor
    chances: Tensor | None = None


class Curve:
    """Numbers along a run, in a list that does not grow with it.

    Each point is a mean over as many steps; when there are too many points, two become one.

    Args:
        most: points, an even number.

    Attributes:
        steps: the last step of each point.
        values: the means, a row a point.
    """

    def __init__(self, most: int = 400):
        self.steps: list[int] = []
        self.values: list[list[float]] = []
        self._most, self._width = most, 1
        self._in_last = 0  # steps in the last point, up to _width

    def add(self, step: int, *numbers: float) -> None:
        """The numbers of one more step."""
        if self.steps and self._in_last < self._width:
            self._in_last += 1
            self.steps[-1] = step
            self.values[-1] = [
                mean + (new - mean) / self._in_last
                for mean, new in zip(self.values[-1], numbers, strict=True)
            ]
            return
        if len(self.steps) == self._most:
            pairs = zip(self.values[::2], self.values[1::2], strict=True)
            self.values = [[(a + b) / 2 for a, b in zip(*pair, strict=True)] for pair in pairs]
            self.steps, self._width = self.steps[1::2], 2 * self._width
        self.steps.append(step)
        self.values.append(list(map(float, numbers)))
        self._in_last = 1

    def cut(self, step: int) -> None:
        """Forget this step and those after it, because they are made again."""
        kept = sum(s < step for s in self.steps)
        self.steps, self.values = self.steps[:kept], self.values[:kept]
        self._in_last = self._width


@dataclass(frozen=True)
class History:
    """What is known of a run.

    Attributes:
        name: of the model, or of the run's folder.
        frames: at rising steps, the first before anything was learned.
        curve: rows of loss and learning rate (its share of the peak).
        accuracy: steps, and the share of the examples' images answered rightly there.
        held_out: the same of the training images that were held out, once an epoch.
    """

    name: str
    frames: list[Frame] = field(default_factory=list)
    curve: Curve = field(default_factory=Curve)
    accuracy: list[tuple[int, float]] = field(default_factory=list)
    held_out: list[tuple[int, float]] = field(default_factory=list)


def read_history(run: str | Path) -> History:
    """The history of a bundled model's training, or of a finished run in a folder.

    Args:
        run: a bundled model's name, or a folder with ``snapshots.safetensors`` and ``log.csv``.

    Raises:
        ValueError: there is neither, or a file is damaged.
    """
    folder = Path(run).expanduser()
    if folder.is_dir():
        snapshots, log = folder / "snapshots.safetensors", folder / "log.csv"
    else:
        snapshots, log = _bundled(str(run))
    if not snapshots.is_file() or not log.is_file():
        raise ValueError(
            f"{folder} holds no finished run: {snapshots.name} and {log.name} are written at its "
            f"end. watch_training goes on with a run that was stopped."
        )
    history = History(folder.name, read_snapshots(snapshots))
    try:
        add_log(history, read_table(log))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{log} is not the log of a training run ({error!r}).") from error
    return history


def add_log(history: History, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add to the curves what a run's log says, a row an epoch."""
    rows = list(rows)
    for row in rows:
        step = int(row["steps"])
        history.curve.add(step, float(row["loss"]), float(row["lr_share"]))
    history.held_out.extend(held_out(rows))


def held_out(rows: Iterable[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """Steps and held-out accuracy, from the rows of a log that have one."""
    told = [(int(row["steps"]), row.get("held_out_accuracy")) for row in rows]
    return [(step, float(right)) for step, right in told if right not in (None, "")]


def _bundled(name: str) -> tuple[Path, Path]:
    files = data_path("README.md").parent.glob(f"*{_SNAPSHOTS}")
    known = sorted(path.name.removesuffix(_SNAPSHOTS) for path in files)
    if name not in known:
        raise ValueError(
            f"{name!r} is neither a run's folder nor a model whose snapshots are bundled. "
            + did_you_mean(name, known, f"Those of {', '.join(known)} are.")
        )
    return data_path(name + _SNAPSHOTS), data_path(f"{name}_log.csv")


def read_snapshots(path: Path) -> list[Frame]:
    """The frames in a file of ``step (n)`` and ``fc1 (n, L, D_S, S)``.

    Raises:
        ValueError: the file holds no such thing.
    """
    from safetensors.torch import load_file

    try:
        kept = load_file(path)
        return snapshot_frames(dict(zip(kept["step"].tolist(), kept["fc1"], strict=True)))
    except Exception as error:  # a damaged file raises many kinds
        raise ValueError(f"{path} holds no snapshots of a training run ({error}).") from error


def snapshot_frames(snapshots: dict[int, Tensor]) -> list[Frame]:
    """Frames from the filters that a run kept: step -> fc1 of all blocks, ``(L, D_S, S)``.

    Raises:
        ValueError: the tokens do not make a square grid.
    """
    frames, threads = [], torch.get_num_threads()
    torch.set_num_threads(1)  # more threads are slower for such small matrices
    try:
        for step, fc1 in sorted(snapshots.items()):
            side = math.isqrt(fc1.shape[-1])
            maps = rearrange(fc1.float(), "l u (gh gw) -> l u gh gw", gh=side, gw=side)
            frames.append(Frame(step, maps, measure_all(maps)))
    finally:
        torch.set_num_threads(threads)
    return frames
