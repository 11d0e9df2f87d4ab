"""The settings of a training: checked, and made ready for its first step."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mixer_lite._support.words import foreign, reason
from mixer_lite.datasets.cifar import CIFAR10_MEAN, CIFAR10_STD
from mixer_lite.model import MlpMixer, ModelConfig
from mixer_lite.specs import arguments_of, list_models, spec
from mixer_lite.training.adopted import adopted
from mixer_lite.training.augmentation import augmentation
from mixer_lite.training.measures import normalize
from mixer_lite.training.processes import Processes
from mixer_lite.training.recipe import Recipe, init_weights
from mixer_lite.training.runs import Run
from mixer_lite.training.steps import Batches, seeded
from mixer_lite.training.workers import Workers

RGB = tuple[float, float, float]  # a number a channel
_FREE = (
    "num_classes",
    "gelu",
    "norm_eps",
)  # may differ between a run and the weights it starts from


def check_start(model: MlpMixer, trained: MlpMixer) -> None:
    """Whether a model can start from a trained one's weights.

    Raises:
        ValueError: their sizes differ.
    """
    ours, theirs = (
        {name: value for name, value in arguments_of(m).items() if name not in _FREE}
        for m in (model, trained)
    )
    if ours != theirs:
        differ = [f"{k} {theirs[k]} and not {ours[k]}" for k in ours if theirs[k] != ours[k]]
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


def fingerprint(model: nn.Module) -> int:
    """A number that changes with any weight."""
    value = 1
    for tensor in model.state_dict().values():
        value = zlib.adler32(tensor.float().cpu().numpy().tobytes(), value)
    return value


@dataclass(frozen=True)
class Task:
    """A training that is ready for its first step, or to go on.

    Attributes:
        run: all that changes.
        recipe: the choices.
        batches: of the images that are trained on.
        held: images held out, normalised ``(holdout, 3, h, w)``, and their classes.
        total: steps of the whole run.
        identity: what the run was asked to do, kept with its checkpoints.
        workers: makes what computes gradients.
        new_head: whether trained weights came without their head.
        origin: the trained weights that the run starts from, by name; none without a start.
    """

    run: Run
    recipe: Recipe
    batches: Batches
    held: tuple[Tensor, Tensor]
    total: int
    identity: dict[str, Any]
    workers: Callable[[], Workers]
    new_head: bool
    origin: dict[str, Tensor]


def prepare(
    name: str,
    recipe: Recipe,
    team: Processes,
    images: Tensor,
    labels: Tensor,
    class_names: Sequence[str],
    *,
    start: MlpMixer | None,
    teacher: nn.Module | None,
    mean: RGB | None,
    std: RGB | None,
    source: str,
    holdout: int,
    seed: int,
    bfloat16: bool,
    compile: bool,
    build: Callable[..., nn.Module],
) -> Task:
    """Check what :func:`mixer_lite.training.loop.train` was given, and make it ready."""
    if not -(2**63) <= seed < 2**63:
        raise ValueError(f"seed must have 64 bits at most, not be {seed}.")
    class_names = tuple(map(foreign, class_names))  # as the file of weights will hold them
    model = _model(name, recipe, class_names, seed, start, build)
    new_head = start is not None and not start_from(model, start, class_names)
    check_images(model, images, labels)
    _check_choices(model, recipe, len(images), holdout, team, start)
    known = None if start is None else start.config
    mean = mean or (known.mean if known else CIFAR10_MEAN)
    std = std or (known.std if known else CIFAR10_STD)
    story = f"trained on {source} with Mixer Lite's recipe, {recipe.epochs} epochs, seed {seed}"
    story += "" if teacher is None else f", taught by a network ({type(teacher).__name__})"
    model.config = _config(model, known, class_names, mean, std, story)
    run = Run(model.to(team.device), recipe)
    if teacher is not None:
        teacher = copy.deepcopy(teacher).eval().to(team.device)
        _check_teacher(teacher, model.config, normalize(images[:1], mean, std).to(team.device))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    held, kept = order.tensor_split([holdout])
    augment = augmentation(recipe, model.num_classes, model.image_size, mean)
    batches = Batches(images, labels, kept, recipe.batch_size, seed, augment, mean, std, team)
    identity = dict(
        name=name, recipe=asdict(recipe), seed=seed, holdout=holdout, bfloat16=bfloat16,
        compile=compile, class_names=list(class_names), mean=list(mean), std=list(std),
        images=len(images), start=None if start is None else fingerprint(start),
        teacher=None if teacher is None else fingerprint(teacher),
        content=[zlib.adler32(data.contiguous().numpy().data) for data in (images, labels)],
    )  # fmt: skip
    return Task(
        run, recipe, batches,
        (normalize(images[held], mean, std).to(team.device), labels[held].to(team.device)),
        recipe.epochs * batches.each_epoch, identity,
        lambda: Workers(model, bfloat16, compile=compile, teacher=teacher,
                        temperature=recipe.teacher_temperature),
        new_head,
        {k: v.clone() for k, v in model.state_dict().items() if _from_start(k, start, new_head)},
    )  # fmt: skip


def _from_start(name: str, start: MlpMixer | None, new_head: bool) -> bool:
    return start is not None and not (new_head and name.startswith("head."))


def _model(
    name: str,
    recipe: Recipe,
    class_names: Sequence[str],
    seed: int,
    start: MlpMixer | None,
    build: Callable[..., nn.Module],
) -> MlpMixer:
    like_it = {} if start is None else dict(gelu=start.gelu, norm_eps=start.norm_eps)
    with seeded(seed):
        built = build(name, num_classes=len(class_names), **like_it)
        model = adopted(built, name, len(class_names))
        init_weights(model, recipe)
    return model


def _config(
    model: MlpMixer,
    known: ModelConfig | None,
    class_names: Sequence[str],
    mean: RGB,
    std: RGB,
    story: str,
) -> ModelConfig:
    # Your own images were turned upright, as image_folder does it.
    if min(std) <= 0:
        raise ValueError(f"std must be above 0 in each channel, not {tuple(std)}.")
    assert model.config is not None  # named models have one
    story += f", from weights {known.source}" if known else ""
    ways = {k: getattr(known, k) for k in ("interpolation", "crop", "resize") if known}
    return replace(
        model.config, mean=mean, std=std, class_names=tuple(class_names), source=story,
        upright=True, **ways,
    )  # fmt: skip


def check_images(model: MlpMixer, images: Tensor, labels: Tensor) -> None:
    """Whether a model can learn from these images.

    Raises:
        ValueError: they are of another type or size, or labels are not the model's classes.
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
    if int(labels.min()) == int(labels.max()):
        raise ValueError("There is only one class: give images of two or more.")


def _check_choices(
    model: MlpMixer,
    recipe: Recipe,
    images: int,
    holdout: int,
    team: Processes,
    start: MlpMixer | None,
) -> None:
    if recipe.start_share and start is None:
        raise ValueError("start_share needs trained weights to start from: give start.")
    if not 0 <= holdout < images:
        raise ValueError(
            f"holdout must be 0 images or more and fewer than all {images:,}, not {holdout}."
        )
    if recipe.shift >= min(model.image_size):
        raise ValueError(f"shift must be less than the image's side of {min(model.image_size)} "
                         f"pixels, not {recipe.shift}.")  # fmt: skip
    count, batch = images - holdout, recipe.batch_size
    if count < batch:
        raise ValueError(f"{count} images are fewer than one batch of {batch}: choose a smaller "
                         f"batch_size, or more images.")  # fmt: skip
    if recipe.epochs * (count // batch) < 2:
        raise ValueError(
            "One step trains nothing, because the learning rate ends at zero: make more epochs or "
            "smaller batches."
        )
    if batch % team.count:
        raise ValueError(
            f"A batch of {batch} cannot be shared equally by {team.count} processes: choose a "
            f"number of processes that divides it."
        )


@torch.no_grad()
def _check_teacher(teacher: nn.Module, config: ModelConfig, image: Tensor) -> None:
    """Whether a teacher answers what the model is to answer.

    Raises:
        ValueError: it wants other images, or has other classes.
    """
    known = getattr(teacher, "config", None)
    for what in ("mean", "std", "class_names"):
        ours = getattr(config, what)
        theirs = getattr(known, what, None) or ours  # other networks do not say
        if tuple(theirs) != tuple(ours):
            raise ValueError(
                f"The teacher's {what} is {foreign(theirs, 300)}, and that of the run "
                f"{foreign(ours, 300)}: choose a teacher "
                f"that was trained with the same, or give the run the teacher's."
            )
    try:
        shape = tuple(teacher(image).shape)
    except (RuntimeError, ValueError) as error:
        raise ValueError(
            f"The teacher does not take images of {config.image_size} pixels ({reason(error)}): "
            f"choose one that does."
        ) from error
    if shape != (1, len(config.class_names)):
        raise ValueError(
            f"The teacher answers one image with {shape}, not (1, {len(config.class_names)}): "
            f"choose one with a logit for each of the classes."
        )


def _kind(data: Any) -> str:
    what = type(data).__name__
    return f"{what} of {data.dtype} {tuple(data.shape)}" if hasattr(data, "dtype") else what
