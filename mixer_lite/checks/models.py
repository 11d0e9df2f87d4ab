"""Checks of work with models: converting weights, predicting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

from mixer_lite.checks.trial import Suspect, Trial, exercise, fail, shape_text
from mixer_lite.checks.weights import draw_sizes, shake
from mixer_lite.layouts import LAYOUTS, to_layout
from mixer_lite.model import MlpMixer


def small_mixer(t: Trial, num_blocks: int, before_head: nn.Module | None = None) -> MlpMixer:
    """A shaken Mixer of random sizes, all different, with one more layer before its head."""
    model = MlpMixer(**draw_sizes(t, num_blocks))
    shake(model, t.generator)
    if before_head is not None:
        model.add_module("head", nn.Sequential(before_head, model.head))
    return model


# Converting


@exercise(
    lesson="4 Pretrained weights",
    takes="convert_google(arrays), a dict of NumPy arrays -> a dict of tensors",
    hints=(
        "Print the names and shapes on both sides, `ml.create_model(...).state_dict()` on ours. "
        "Which name there belongs to which name here?",
        "A Dense kernel is written (inputs, outputs), a Linear weight (outputs, inputs). Vectors "
        "need no turning.",
        "The stem's kernel has the axes row, column, colour, channel: `p q c d`. Our stem is a "
        "matrix that reads a patch colour by colour, `c p q`. Which einops pattern leads from one "
        "to the other?",
        "`LayerNorm_0` comes before token mixing, `LayerNorm_1` before channel mixing. And block "
        "10 comes after block 9, though not in the alphabet.",
    ),
)
def convert_google(t: Trial, answer: Any) -> None:
    """``convert_google(arrays) -> state``: Google's names and shapes to the course's.

    ``arrays`` has entries such as ``"MixerBlock_0/token_mixing/Dense_0/kernel" (S, D_S)`` and
    ``"stem/kernel" (P, P, 3, C)``; ``state`` those of ``ml.MlpMixer(...).state_dict()``, such as
    ``"blocks.0.mlp_tokens.fc1.weight" (D_S, S)`` and ``"stem.weight" (C, 3 P P)``, in float32.
    """
    for num_blocks in (2, 3, 12)[: t.rounds]:
        model = small_mixer(t, num_blocks)
        want = {name: p.detach().float() for name, p in model.named_parameters()}
        theirs = to_layout(want, LAYOUTS["google"], model.patch_size)
        arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in theirs.items()}
        got = t.call(answer, arrays)
        _right_names(got, want, arrays, num_blocks)
        for name in want:
            _right_weight(t, name, got[name], want, model.patch_size)


def _right_names(
    got: Any, want: dict[str, Tensor], arrays: dict[str, np.ndarray], num_blocks: int
) -> None:
    if isinstance(got, nn.Module):
        fail("not a dict", "Return the dict of weights itself, not a model that holds it.")
    if not isinstance(got, Mapping):
        what = "nothing" if got is None else f"a {type(got).__name__}"
        fail("not a dict", f"Your function should return a dict, name -> tensor, not {what}.")
    missing, more = [n for n in want if n not in got], [str(n) for n in got if n not in want]
    if not missing and not more:
        return
    told = [f"{len(missing)} missing: {', '.join(missing[:4])}" if missing else ""]
    told += [f"{len(more)} unknown: {', '.join(more[:4])}" if more else ""]
    evidence = [f"{num_blocks} blocks", *filter(None, told)]
    if all(n in arrays for n in more) and more:
        fail(
            "names not translated",
            "Some of your entries still have Google's names; the course's are those of "
            "ml.MlpMixer(...).state_dict().",
            *evidence,
        )
    if not more and all(n.endswith(".bias") for n in missing):
        fail("biases missing", "The weights are there, but biases are missing.", *evidence)
    if not more and all(n.startswith("blocks.") for n in missing):
        found = {n.split(".")[1] for n in got if str(n).startswith("blocks.")}
        if len(found) < num_blocks and all(n.split(".")[1] not in found for n in missing):
            numbers_of = ", ".join(sorted(found, key=int)) or "none"
            fail(
                "blocks missing",
                f"Blocks are missing: there are {num_blocks}, and your result has {numbers_of}. "
                f"Read the number of blocks off the names, and all digits of it.",
                *evidence,
            )
    fail("wrong names", "The names are not those of a course model's state_dict().", *evidence)


def _right_weight(t: Trial, name: str, got: Any, wants: dict[str, Tensor], patch_size: int) -> None:
    if isinstance(got, np.ndarray):
        fail(
            "not a tensor",
            f"{name} is still a NumPy array: torch.from_numpy makes a tensor of it.",
        )
    want = wants[name]
    value = t.tensor(got, name)
    suspects = [
        *(_stem_suspects(want, patch_size) if name == "stem.weight" else ()),
        Suspect(
            "transposed kernels",
            want.T,
            f"{name} is transposed: a Dense kernel is written (inputs, outputs), a Linear weight "
            f"(outputs, inputs).",
        ),
        Suspect(
            "reshape for transpose",
            want.T.reshape(want.shape),
            f"{name} has the right shape, but you reached it with a reshape, which moves no "
            f"number: a kernel (inputs, outputs) must be transposed.",
        ),
        *(_taken_for(name, other, weight) for other, weight in wants.items() if other != name),
    ]
    axes = "(outputs, inputs)" if want.ndim == 2 else "(n,)"
    t.same(value, want, name, axes, suspects)
    if value.dtype == torch.float64:
        fail(
            "wrong type",
            f"{name} is float64, which takes twice the memory: Google's arrays are float32, and "
            f"so are the model's weights.",
        )


def _stem_suspects(want: Tensor, patch_size: int) -> list[Suspect]:
    def turned(pattern: str) -> Tensor:
        return rearrange(want, f"d (c p q) -> {pattern}", p=patch_size, q=patch_size)

    kernel = turned("p q c d")  # as Google has it
    left = (
        "Your stem is a convolution kernel with four axes; the course's is the equal matrix, "
        "(C, 3·P·P)."
    )
    pixels = (
        "The stem's rows list a patch's numbers in another order than the course: colour by "
        "colour, then row by row, d (c p q)."
    )
    return [
        Suspect("stem left as a kernel", turned("d c p q"), left),
        Suspect("stem left as a kernel", kernel, left),
        Suspect("stem's pixels in another order", turned("d (p q c)"), pixels),
        Suspect("stem's pixels in another order", turned("d (c q p)"), pixels),
        Suspect("stem's pixels in another order", turned("d (q p c)"), pixels),
        Suspect("stem's pixels in another order", turned("d (p c q)"), pixels),
        Suspect(
            "stem not transposed",
            turned("(p q c) d"),
            "The stem's matrix is (3·P·P, C); the course's is (C, 3·P·P).",
        ),
        Suspect(
            "reshape for transpose",
            kernel.reshape(want.shape),
            "The stem has the right shape, but you reached it with a reshape alone, which moves "
            "no number: its kernel has the axes p q c d, and d must come first.",
        ),
    ]


def _taken_for(name: str, other: str, weight: Tensor) -> Suspect:
    # Another weight in its place.
    if name.replace("norm1", "norm2") == other.replace("norm1", "norm2"):
        mistake, why = (
            "LayerNorms exchanged",
            "LayerNorm_0 comes before token mixing (norm1), LayerNorm_1 before channel mixing.",
        )
    elif name.rsplit(".", 1)[0] == other.rsplit(".", 1)[0]:
        mistake, why = (
            "scale and shift exchanged",
            "A LayerNorm's scale is our weight, its bias our bias.",
        )
    elif name.split(".")[2:] == other.split(".")[2:] and name.startswith("blocks."):
        mistake, why = (
            "blocks in another order",
            "In the alphabet MixerBlock_10 comes before MixerBlock_2: sort by the number.",
        )
    elif name.replace("fc1", "fc2") == other.replace("fc1", "fc2"):
        mistake, why = (
            "layers exchanged",
            "Dense_0 is the first layer of an MLP (fc1), Dense_1 the second (fc2).",
        )
        weight = weight.T
    else:
        mistake, why = "another layer's weights", "Look up which name belongs to which."
    return Suspect(mistake, weight, f"{name} has the numbers of {other}. {why}")


# Predicting


class _Spied(nn.Module):
    # A dropout that knows in which mode it ran.
    def __init__(self, p: float = 0.4):
        super().__init__()
        self.drop = nn.Dropout(p)
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        return self.drop(x)


@exercise(
    lesson="4 Pretrained weights",
    takes="predict(model, images, k) -> (indices (b, k), probabilities (b, k)), highest first",
    hints=(
        "Before a model predicts it must be told that it is not being trained. Which two lines do "
        "that: one for its layers, one for autograd?",
        "Logits become probabilities by a softmax over the classes. Which axis of (b, num_classes) "
        "is that?",
        "`topk` sorts and cuts in one call, and gives values and indices. Take it after the "
        "softmax: the probabilities that you return need not add up to 1.",
    ),
)
def predict(t: Trial, answer: Any) -> None:
    """``predict(model, images (b, 3, h, w), k) -> (indices (b, k), probabilities (b, k))``.

    The k most probable classes of each image, most probable first. The model comes in training
    mode and has a dropout; in which mode it is left does not matter. No gradients are kept.
    """
    torch.set_default_dtype(torch.float64)
    for _ in range(t.rounds):
        spy = _Spied()
        model = small_mixer(t, 1, before_head=spy)
        b, k = t.sizes(2, 2, 4)
        images = t.randn(b, 3, *model.image_size)
        with torch.no_grad():
            logits = model.eval()(images)
        model.train()
        spy.modes.clear()
        got = t.call(answer, model, images, k)
        if got is None:
            fail("returns nothing", "Your function returned None: is there a `return`?")
        if not isinstance(got, (tuple, list)) or len(got) != 2:
            what = f"{len(got)} things" if isinstance(got, (tuple, list)) else shape_text(got)
            fail(
                "not a pair",
                f"Return two tensors, the indices and the probabilities, not {what}.",
            )
        if isinstance(got[0], Tensor) and isinstance(got[1], Tensor):
            if got[0].is_floating_point() and not got[1].is_floating_point():
                fail(
                    "pair exchanged",
                    "Your probabilities come first and your indices second, as topk gives them; "
                    "the indices should come first.",
                )
        if any(spy.modes):
            fail(
                "eval forgotten",
                "Your function ran the model in training mode, in which its dropout sets random "
                "features to zero: the same image gets another answer each time. Call "
                "model.eval() first.",
            )
        if any(isinstance(g, Tensor) and g.requires_grad for g in got):
            fail(
                "gradients kept",
                "Your result still hangs on the computation that made it (requires_grad): run the "
                "model under torch.no_grad() or torch.inference_mode().",
            )
        evidence = f"{b} images, {logits.shape[1]} classes, k = {k}"
        _right_predictions(t, got[0], got[1], logits, k, evidence)


def _right_predictions(
    t: Trial, indices: Any, values: Any, logits: Tensor, k: int, evidence: str
) -> None:
    probabilities = logits.softmax(1)
    top = probabilities.topk(k, dim=1)
    over_images = logits.softmax(0)
    lowest = probabilities.topk(k, dim=1, largest=False)
    few = "Your probabilities are renormalised, so that the k of them add up to 1. "
    t.same(
        values,
        top.values,
        "the probabilities",
        "(b, k)",
        [
            Suspect(
                "softmax over the images",
                lambda: over_images.topk(k, dim=1).values,
                "Your softmax runs over the images of the batch, so that the answer for one image "
                "depends on the others. It should run over the classes, dim=1.",
            ),
            Suspect(
                "softmax over the images",
                lambda: over_images.gather(1, logits.topk(k, dim=1).indices),
                "Your softmax runs over the images of the batch; it should run over the classes, "
                "dim=1.",
            ),
            Suspect(
                "logits for probabilities",
                lambda: logits.topk(k, dim=1).values,
                "You return logits. A softmax over the classes makes probabilities of them.",
            ),
            Suspect(
                "log-probabilities",
                lambda: logits.log_softmax(1).topk(k, dim=1).values,
                "You return logarithms of probabilities: softmax, not log_softmax.",
            ),
            Suspect(
                "sigmoid for softmax",
                lambda: logits.sigmoid().topk(k, dim=1).values,
                "You use a sigmoid, which judges each class by itself. The classes exclude each "
                "other, so their probabilities add up to 1: a softmax.",
            ),
            Suspect(
                "renormalised",
                lambda: logits.topk(k, dim=1).values.softmax(1),
                few + "Take the softmax over all classes, and the top k afterwards.",
            ),
            Suspect(
                "renormalised",
                lambda: top.values / top.values.sum(1, keepdim=True),
                few + "Leave them as the softmax over all classes gave them.",
            ),
            Suspect(
                "softmax twice",
                lambda: probabilities.softmax(1).topk(k, dim=1).values,
                "You apply softmax twice; probabilities are not logits.",
            ),
            Suspect(
                "ascending order",
                lambda: top.values.flip(1),
                "You found the right classes, but the most probable comes last; it should come "
                "first.",
            ),
            Suspect(
                "the least probable",
                lambda: lowest.values,
                "You return the k least probable classes: sort descending.",
            ),
            Suspect(
                "the first k classes",
                lambda: probabilities[:, :k],
                "You return the probabilities of classes 0, 1, ... in place of the highest ones.",
            ),
        ],
        evidence,
    )
    t.same(
        indices,
        top.indices,
        "the indices",
        "(b, k)",
        [
            Suspect(
                "ascending order",
                lambda: top.indices.flip(1),
                "Your indices run from the least to the most probable; your probabilities run the "
                "other way.",
            ),
            Suspect(
                "places for indices",
                lambda: torch.arange(k).expand_as(top.indices),
                "Your indices are the places 0, 1, ... in the sorted list, not the classes.",
            ),
            Suspect(
                "ranks for indices",
                lambda: probabilities.argsort(1, descending=True).argsort(1)[:, :k],
                "Your indices are ranks of classes; they should be the classes of ranks.",
            ),
            Suspect(
                "counted from 1",
                lambda: top.indices + 1,
                "Your classes are counted from 1; the first class is 0.",
            ),
            Suspect(
                "the least probable",
                lambda: lowest.indices,
                "Your indices are those of the k least probable classes.",
            ),
        ],
        evidence,
    )
