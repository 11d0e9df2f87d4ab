"""A training run as it goes, and afterwards step by step: curves, filters, predictions."""

from __future__ import annotations

import functools
import inspect
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import traitlets
from einops import rearrange
from IPython.display import display
from torch import Tensor

from mixer_lite import filters
from mixer_lite._support.machine import in_notebook, usable_cores
from mixer_lite.explorers.base import (
    Explorer,
    in_range,
    packed,
    page_code,
    page_style,
    quantized_maps,
)
from mixer_lite.explorers.training.asking import Allowance, Examples, cifar10_examples, known
from mixer_lite.figures.drawing import SIGNED, Picture, bare, canvas, montage, style
from mixer_lite.images import preprocess, unnormalize
from mixer_lite.model import MlpMixer
from mixer_lite.specs import CIFAR10_CLASSES, spec
from mixer_lite.training.background import BackgroundRun
from mixer_lite.training.history import (
    MEASURES,
    Frame,
    History,
    add_log,
    all_filters,
    held_out,
    measure_all,
    read_history,
    snapshot_frames,
)
from mixer_lite.training.loop import train
from mixer_lite.training.measures import snapshot_steps
from mixer_lite.training.recipe import Recipe
from mixer_lite.training.runs import Moment

STATES = ("running", "stopped", "done", "failed")
FRAMES = 40  # snapshots of a run, closer together early on
BEAT = 0.5  # seconds between two updates of the page, which cost the browser time as well


class TrainingExplorer(Explorer):
    """What :func:`watch_training` and :func:`explore_training` return.

    Attributes:
        block: whose filters and measures are shown, from 0.
        frame: the snapshot that is looked at, from 0; ``None``: the newest, which moves on as
            the run does.
        order: of the units: ``"index"``, or ``"pairs"`` of opposites as they are at the end.
        scale: of the colours: ``"unit"``, each map its own, or ``"block"``, one for all maps of
            the block at all steps.
        axis: the steps ``"even"`` or on a ``"log"`` scale.
        state: ``"running"``, ``"stopped"``, ``"done"`` or ``"failed"``. Read it, don't set it.
        message: why the run failed, in one sentence; else empty.
        history: frames, curve and accuracy so far (:class:`mixer_lite.training.history.History`).
    """

    _page = _esm = page_code("training")
    _css = page_style("training")
    title = "Watch it learn"

    block = traitlets.Int(0).tag(sync=True)
    frame = traitlets.Int(None, allow_none=True).tag(sync=True)
    order = traitlets.Enum(("index", "pairs"), "index").tag(sync=True)
    scale = traitlets.Enum(("unit", "block"), "unit").tag(sync=True)
    axis = traitlets.Enum(("even", "log"), "even").tag(sync=True)
    state = traitlets.Enum(STATES, "done").tag(sync=True)
    message = traitlets.Unicode().tag(sync=True)

    # For the page alone.
    _name = traitlets.Unicode().tag(sync=True)
    _sizes = traitlets.Dict().tag(sync=True)
    _measures = traitlets.List(traitlets.Unicode(), list(MEASURES)).tag(sync=True)
    _frames = traitlets.List(traitlets.Dict()).tag(sync=True)
    _live = traitlets.Dict().tag(sync=True)  # the curves, and the newest filters of one block
    _pairs = traitlets.Dict().tag(sync=True)  # the order of that name: (L, D_S)
    _examples = traitlets.Dict().tag(sync=True)  # the pictures, and on how many accuracy is

    def __init__(self, history: History, sizes: dict[str, Any], **state: Any):
        self.history, self._lock = history, threading.RLock()
        super().__init__(_name=history.name, _sizes=sizes, **state)
        self._run: BackgroundRun | None = None
        self._asked: Examples | None = None
        self._known: Any = ()  # the images that are learned from
        self._batch: Tensor | None = None  # the pictures and then the images, (n, 3, h, w)
        self._began: tuple[float, int] | None = None  # this stretch of the run: when, which step
        self._looking, self._asking = Allowance(0.1), Allowance(-0.05)  # first asked after 5 s
        self._sent = 0.0  # when the page was last told
        self._due_at: set[int] = set()  # steps of which a frame is wanted
        self._due = False
        self.on_msg(self._button)
        if history.frames:
            self._frames = [_entry(frame) for frame in history.frames]
            self._order_units()
        self._update(None)

    # --- the run ---------------------------------------------------------------------------

    @property
    def model(self) -> MlpMixer:
        """The model as far as it is trained; while the run goes on, a copy at this step.

        Raises:
            RuntimeError: no step was made, or this is the history of an earlier run.
        """
        return self._live_run().model

    def stop(self) -> None:
        """Stop after the step that is being made; its checkpoint is written on return."""
        self._live_run().stop()

    def go_on(self) -> None:
        """Go on at the step where the run stopped, bit for bit as if it never had."""
        self._live_run().start()

    def wait(self) -> MlpMixer:
        """Wait until the run is done, or stopped by its button, and return the model.

        To interrupt the cell stops the run; its checkpoint is then written, nothing is lost.

        Raises:
            Exception: whatever the run failed with.
        """
        return self._live_run().wait()

    def _live_run(self) -> BackgroundRun:
        if self._run is None:
            raise RuntimeError(
                "This is the history of an earlier run, without its model: load_pretrained or "
                "load_checkpoint loads it, and watch_training goes on with a run."
            )
        return self._run

    def _button(self, _: Any, content: Any, __: Any) -> None:
        # Buttons of the page do not wait; the state shows what happens.
        if self._run is not None and content.get("do") == "stop":
            self._run.ask_to_stop()
        elif self._run is not None and content.get("do") == "go_on":
            self._run.start()

    def _changed(self) -> None:
        assert self._run is not None
        self._began = None
        error = self._run.error
        try:
            if self._run.state == "done" and not self.history.frames:
                self._remember()
            if self._run.state != "running":
                if self.history.frames:
                    self._order_units()
                self._update(self._run.last)
        except Exception as failed:  # the run has ended anyway, and the page must say so
            error = error or failed
        with self._lock:
            self.message = " ".join((str(error) or type(error).__name__).split()) if error else ""
            self.state = self._run.state

    def _remember(self) -> None:
        # The run was done before it was watched: what its folder kept, and the model itself.
        assert self._run is not None
        past, model = read_history(self._run.out), self._run.model
        for name in ("frames", "held_out"):
            getattr(self.history, name).extend(getattr(past, name))
        self.history.curve.steps, self.history.curve.values = past.curve.steps, past.curve.values
        self._prepare(model)
        last = self.history.frames.pop()
        self.history.frames.append(replace(last, chances=self._ask(last.step, model)))
        with self._lock:
            self._frames = [_entry(frame) for frame in self.history.frames]

    def set_state(self, sync_data: Any) -> None:
        """What the page has chosen; never while the run's thread tells it something."""
        with self._lock:
            super().set_state(sync_data)

    # --- watching, on the run's thread -----------------------------------------------------

    def _see(self, moment: Moment) -> None:
        if self._began is None:
            self._begin(moment)
        self.history.curve.add(moment.step, moment.loss, moment.lr_share)
        for allowance in (self._looking, self._asking):
            allowance.earned += moment.seconds
        self._due |= moment.step in self._due_at
        ends = moment.step == moment.total
        if ends or (self._due and self._looking.enough()):
            chances = None
            if ends or self._asking.enough():
                with self._asking:
                    chances = self._ask(moment.step, moment.model)
            with self._looking:
                self._take(moment, chances)
                self._update(moment)
            self._due = False
        elif time.monotonic() - self._sent > BEAT and self._looking.enough():
            with self._looking:
                self._update(moment)

    def _begin(self, moment: Moment) -> None:
        # A stretch of the run: from the start, from a checkpoint, or from the one before that.
        self._began = time.monotonic() - moment.seconds, moment.step - 1
        self._due_at = set(snapshot_steps(moment.total, FRAMES))
        history, step = self.history, moment.step
        history.curve.cut(step)
        history.frames[:] = [f for f in history.frames if f.step < step]
        history.accuracy[:] = [(s, a) for s, a in history.accuracy if s < step]
        if not history.frames:  # what the run's folder remembers, at least the fresh weights
            add_log(history, (row for row in moment.log if row["steps"] < step))
            kept = {s: weights["fc1"] for s, weights in moment.snapshots.items() if s < step}
            history.frames.extend(snapshot_frames(kept))
        with self._lock:
            self._frames = [_entry(frame) for frame in history.frames]
            if self.frame is not None and self.frame >= len(history.frames):
                self.frame = None  # it is made again
        self._prepare(moment.model)

    def _prepare(self, model: MlpMixer) -> None:
        # Examples as the model takes them, once.
        if self._asked is None or self._batch is not None or model.config is None:
            return
        config, (shown, names, images, labels) = model.config, self._asked
        pictures = preprocess(shown, config)
        self._batch = torch.cat([pictures, preprocess(images, config)])
        seen = unnormalize(pictures, config)
        self._examples = dict(
            classes=list(config.class_names),
            count=len(labels), known=known(images, self._known),
            pictures=[dict(name=n, pixels=packed(p)) for n, p in zip(names, seen, strict=True)],
        )  # fmt: skip
        self._known = ()  # the images are not kept

    @torch.no_grad()
    def _ask(self, step: int, model: MlpMixer) -> Tensor | None:
        # Accuracy, and what the pictures are taken for: (n, K).
        if self._batch is None or self._asked is None:
            return None
        cores = usable_cores()
        # A part on each core is quicker than all cores on each part.
        with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = self._batch.to(model.stem.weight).chunk(cores)
            logits = torch.cat(list(pool.map(model, parts))).cpu()  # (n + m, K)
        shown = len(self._asked.pictures)
        right = logits[shown:].argmax(dim=1) == self._asked.labels
        self.history.accuracy.append((step, right.float().mean().item()))
        return logits[:shown].softmax(dim=1)

    def _take(self, moment: Moment, chances: Tensor | None) -> None:
        # One more frame.
        maps, frames = all_filters(moment.model), self.history.frames
        frames.append(Frame(moment.step, maps, measure_all(maps), chances))
        with self._lock:
            self._frames = [*self._frames, _entry(frames[-1])]

    def _update(self, moment: Moment | None) -> None:
        # The curves, where the run is, and the filters of one block as they are at this moment.
        if moment is not None:
            self.history.held_out[:] = held_out(moment.log)
        curve, accuracy, held = self.history.curve, self.history.accuracy, self.history.held_out
        values = torch.tensor(curve.values).reshape(-1, 2)
        live: dict[str, Any] = dict(
            steps=packed(np.asarray(curve.steps, int)), loss=packed(values[:, 0]),
            lr=packed(values[:, 1]), measured=packed(np.asarray([s for s, _ in accuracy], int)),
            accuracy=packed(np.asarray([a for _, a in accuracy], float)),
            held_at=packed(np.asarray([s for s, _ in held], int)),
            held_out=packed(np.asarray([a for _, a in held], float)),
        )  # fmt: skip
        if moment is not None:
            live |= dict(step=moment.step, total=moment.total, epoch=moment.epoch)
            if self._began is not None:
                gone, made = time.monotonic() - self._began[0], moment.step - self._began[1]
                live |= dict(left=gone / made * (moment.total - moment.step))
            maps = filters.token_filters(moment.model, self.block)
            live |= dict(block=self.block, maps=quantized_maps(maps))
        with self._lock:
            self._live = live
        self._sent = time.monotonic()

    def _order_units(self) -> None:
        # Pairs of opposites with low frequencies first, at the newest frame: (L, D_S).
        order = [filters.order_by_pairs(maps) for maps in self.history.frames[-1].filters]
        with self._lock:
            self._pairs = packed(np.asarray(order))

    # --- state -----------------------------------------------------------------------------

    @traitlets.validate("block", "frame")
    def _in_range(self, proposal: Any) -> int | None:
        if proposal.trait.name == "block":
            return in_range(proposal, self._sizes["blocks"])
        if proposal.value is not None and not self.history.frames:
            raise traitlets.TraitError("There is no snapshot yet: frame must be None.")
        return in_range(proposal, len(self.history.frames))

    @property
    def shown(self) -> Frame:
        """The snapshot that is looked at.

        Raises:
            RuntimeError: there is none yet.
        """
        if not self.history.frames:
            raise RuntimeError("There is no snapshot yet: the first step is being made.")
        return self.history.frames[-1 if self.frame is None else self.frame]

    def shown_order(self) -> list[int]:
        """The units in the order in which they are shown."""
        if self.order == "index" or not self._pairs:
            return list(range(self._sizes["units"]))
        pairs = np.frombuffer(self._pairs["data"], "<i4").reshape(self._pairs["shape"])
        return pairs[self.block].tolist()

    # --- pictures --------------------------------------------------------------------------

    @style()
    def figure(self) -> Picture:
        """The picture of what is chosen now: curves, measures, filters."""
        history = self.history
        if not history.frames:
            picture, axes = canvas(size=(8, 1), alt=f"{history.name}: nothing is learned yet.")
            bare(axes, "Nothing is learned yet: the first step is being made.")
            return picture
        frame, frames = self.shown, list(history.frames)
        steps = np.array([f.step for f in frames])
        lines = torch.stack([f.measures[self.block] for f in frames]).T  # (measures, frames)
        said = ", ".join(
            f"{name} {value:.2f}"
            for name, value in zip(MEASURES, frame.measures[self.block].tolist(), strict=True)
        )
        picture, (left, middle, right) = canvas(
            1, 3, size=(10, 3.2), width_ratios=[1, 1, 1.2],
            alt=f"{history.name}, step {frame.step:,} of {steps[-1]:,}, block {self.block}: "
            f"{said}. Beside the curves the block's {self._sizes['units']} filters, each a small "
            f"map of patches, red for positive weights and blue for negative ones.",
        )  # fmt: skip
        shift = int(self.axis == "log")  # step 0 has no logarithm
        if history.curve.steps:
            x, loss = np.array(history.curve.steps) + shift, np.array(history.curve.values)[:, 0]
            left.plot(x, loss, label="loss, nats")
        if history.accuracy:
            x, right_share = np.array(history.accuracy).T
            count = self._examples.get("count")
            of = f", share of {count} images" if count else ""
            left.plot(x + shift, right_share, label=f"accuracy{of}")
        if history.held_out:
            x, right_share = np.array(history.held_out).T
            left.plot(x + shift, right_share, "--", label="accuracy, share of those held out")
        measured = history.accuracy or history.held_out
        for line, name in zip(lines, MEASURES, strict=True):
            middle.plot(steps + shift, line, label=name)
        for axes, title in (
            (left, "loss and accuracy" if measured else "loss"),
            (middle, f"filters of block {self.block}"),
        ):
            axes.axvline(frame.step + shift, color="#888888", linestyle=":")
            axes.set(title=title, xlabel="step + 1" if shift else "step")
            axes.set_xscale("log" if shift else "linear")
            axes.legend(fontsize=8, ncols=1 if axes is left else 2)
        middle.set_ylim(min(-0.1, lines.min().item()), 1.15)  # with room for the legend
        maps = frame.filters[self.block][self.shown_order()]  # (D_S, gh, gw)
        if self.scale == "block":
            most = torch.stack([f.filters[self.block].abs().max() for f in frames]).max()
        else:
            most = maps.abs().amax(dim=(1, 2), keepdim=True)
        sheet = montage((maps / most.clamp_min(1e-30)).numpy(), self._sizes["columns"])
        right.imshow(sheet, cmap=SIGNED, vmin=-1, vmax=1, interpolation="nearest")
        bare(right, f"what its units read at step {frame.step:,}")
        return picture


def _entry(frame: Frame) -> dict[str, Any]:
    # A frame for the page: units of all blocks in one list.
    return dict(
        step=frame.step, measures=packed(frame.measures),
        maps=quantized_maps(rearrange(frame.filters, "l u gh gw -> (l u) gh gw")),
        chances=None if frame.chances is None else packed(frame.chances),
    )  # fmt: skip


def watch_training(
    name: str,
    out: str | Path,
    *,
    images: Tensor,
    labels: Tensor,
    recipe: Recipe | None = None,
    seconds: float | None = None,
    wait: bool | None = None,
    **settings: Any,
) -> TrainingExplorer:
    """Train a named model and watch it learn, or go on watching where ``out`` was left.

    In a notebook the run goes on in the background: the call returns at once, other cells can be
    run, and the page has buttons to stop and to go on. A cell that needs the trained model takes
    it from :meth:`TrainingExplorer.wait`; ``model`` is a copy as it is now. Watching takes about
    2 % of the steps' time. Without a notebook the call shows a progress bar and returns when the
    run is done. A program that executes notebooks counts as a reader: there give ``wait=True``, or
    call ``wait()`` before the cells that need the model.

    PyTorch has one source of random numbers: cells that draw from it meanwhile change the run's
    augmentation. A run is repeated bit for bit, stopped or not, where nothing else draws.

    Args:
        name: one of ``list_models()``, for example ``"mixer_pico_cifar10"``.
        out: the run's folder. A run of this program that still writes there is stopped, and this
            one goes on in its place.
        images: training images, bytes ``(n, 3, h, w)``.
        labels: their classes ``(n,)``.
        recipe: the choices; by default those of the bundled weights of this name.
        seconds: stop after so long, as the button would; ``go_on()`` adds as much again.
        wait: return when the run is done; by default only where there is no notebook.
        settings: others of :func:`mixer_lite.training.loop.train`, such as ``seed`` or ``build``.

    Raises:
        ValueError: there is no model of this name.
        TypeError: ``train`` has no such setting.
        Exception: with ``wait``, whatever the run failed with; else the page says it.
    """
    notebook = in_notebook()
    settings.setdefault("progress", not notebook)
    settings |= dict(images=images, labels=labels, recipe=recipe)
    inspect.signature(train).bind(name, out, watch=None, **settings)
    out, shape = Path(out).resolve(), spec(name)  # the working folder may change
    side = shape["image_size"] // shape["patch_size"]
    sizes = _sizes(shape["num_blocks"], shape["tokens_mlp_dim"], side, live=True)
    explorer = TrainingExplorer(History(name), sizes)
    classes = tuple(settings.get("class_names", CIFAR10_CLASSES))
    explorer._asked = cifar10_examples() if classes == CIFAR10_CLASSES else None
    explorer._known = images
    explorer._run = BackgroundRun(
        functools.partial(train, name, out, **settings), out,
        see=explorer._see, changed=explorer._changed, seconds=seconds,
    )  # fmt: skip
    explorer.go_on()
    if wait if wait is not None else not notebook:
        if notebook:
            display(explorer)
        explorer.wait()
    return explorer


def explore_training(run: str | Path = "mixer_nano_cifar10") -> TrainingExplorer:
    """How the filters of a trained model formed from noise, step by step, without training it.

    A slider over the run's snapshots, its curves, and the measures of
    :mod:`mixer_lite.filters` along the way. It opens at the block that became the smoothest.

    Args:
        run: a bundled model whose snapshots come with it, or the folder of a finished run.

    Raises:
        ValueError: there is no such run, or a file of it is damaged.
    """
    history = read_history(run)
    blocks, units, side, _ = history.frames[0].filters.shape
    sizes = _sizes(blocks, units, side, live=False)
    smoothest = int(history.frames[-1].measures[:, 0].argmax())
    return TrainingExplorer(history, sizes, block=smoothest, order="pairs", axis="log")


def _sizes(blocks: int, units: int, side: int, *, live: bool) -> dict[str, int]:
    columns = 2 * math.ceil(units**0.5 / 2)  # about as many rows; even, so that pairs stay together
    return dict(blocks=blocks, units=units, gh=side, gw=side, columns=columns, live=live)
