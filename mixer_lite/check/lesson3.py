"""Checks of lesson 3: the whole Mixer, its parameters, and the work of one image.

A count is a sum of products of sizes: ``2·L·S·D_S + L·D_S + ...``. From what the learner's function
gives for many sizes follows its formula, product by product, and from the formula the mistake. A
row's second part is what a count with this mistake is off by.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mixer_lite import specs
from mixer_lite.check.engine.broken import Way, change
from mixer_lite.check.engine.exercise import Row, exercise
from mixer_lite.check.engine.instances import made, read_mixer
from mixer_lite.check.engine.modules import EPS, Compared
from mixer_lite.check.engine.trial import Trial, Wrong
from mixer_lite.check.engine.weights import draw_sizes
from mixer_lite.check.engine.words import first
from mixer_lite.check.lesson2_modules import BLOCK, MLP_OF_BOTH, MLP_OF_ONE, NORMS, each_norm
from mixer_lite.model import MixerBlock, MlpMixer

# The whole Mixer: a row's second part breaks our own, in place


def _way(**how: Any) -> Way:
    # ``after_stem`` works on tokens (b, S, C), ``pool`` stands for their mean: (b, S, C) -> (b, C).
    return Way("mixer", {name.replace("_", " "): value for name, value in how.items()})


def _patches(pattern: str) -> Way:
    def patchify(m: MlpMixer, images: Tensor) -> Tensor:
        return rearrange(images, pattern, gh=m.grid_size[0], gw=m.grid_size[1])

    return _way(patchify=patchify)


def _shared(m: MlpMixer) -> None:
    change(m, blocks=nn.Sequential(*[m.blocks[0]] * m.num_blocks))


def _norm_first(m: MlpMixer) -> None:
    change(m, first=nn.LayerNorm(m.hidden_dim, eps=EPS))
    _way(after_stem=lambda m, x: m.first(x))(m)


def _positions(m: MlpMixer) -> None:
    change(m, pos=nn.Parameter(torch.ones(m.num_tokens, m.hidden_dim)))
    _way(after_stem=lambda m, x: x + m.pos)(m)


def _over_channels(m: MlpMixer) -> None:
    change(m, head=nn.Linear(m.num_tokens, m.num_classes))
    _way(pool=lambda x: x.mean(2))(m)


def _flattened(m: MlpMixer) -> None:
    change(m, head=nn.Linear(m.num_tokens * m.hidden_dim, m.num_classes))
    _way(pool=lambda x: x.flatten(1))(m)


def _blocks(number: Callable[[int], int], m: MlpMixer) -> None:
    sizes: dict[str, Any] = dict(
        num_tokens=m.num_tokens,
        hidden_dim=m.hidden_dim,
        tokens_mlp_dim=m.tokens_mlp_dim,
        channels_mlp_dim=m.channels_mlp_dim,
    )
    m.blocks = nn.Sequential(*(MixerBlock(**sizes) for _ in range(number(m.num_blocks))))


def _in_all_blocks(breaks: Callable[[Any], object], m: MlpMixer) -> None:
    for block in dict.fromkeys(m.blocks):
        breaks(block)


def _of_all(rows: Sequence[Row]) -> Iterator[Row]:
    for name, breaks in rows:
        yield name, breaks if isinstance(breaks, Way) else partial(_in_all_blocks, breaks)


def _no_biases(m: MlpMixer) -> None:
    for layer in m.modules():
        if isinstance(layer, nn.Linear):
            change(layer, bias=None)


AROUND: Sequence[Row] = (
    ("column-major tokens", _patches("b c (gh p1) (gw p2) -> b (gw gh) (c p1 p2)")),
    ("woven patches", _patches("b c (p1 gh) (p2 gw) -> b (gh gw) (c p1 p2)")),
    ("reshape for rearrange", _way(patchify=lambda m, x: x.reshape(len(x), m.num_tokens, -1))),
    ("reshape for transpose: stem", _way(after_stem=lambda m, x: x.mT.reshape(x.shape))),
    ("stem without bias", lambda m: change(m.stem, bias=None)),
    ("GELU after the stem", _way(after_stem=lambda m, x: F.gelu(x))),
    ("norm after the stem", _norm_first),
    ("positional embedding", _positions),
    ("no final norm", lambda m: change(m, norm=nn.Identity())),
    ("norm after pooling", _way(late_norm=True)),
    ("first-token pooling", _way(pool=lambda x: x[:, 0])),
    ("last-token pooling", _way(pool=lambda x: x[:, -1])),
    ("max pooling", _way(pool=lambda x: x.amax(1))),
    ("sum pooling", _way(pool=lambda x: x.sum(1))),
    ("mean over channels", _over_channels),
    ("flattened, not pooled", _flattened),
    ("no pooling", _way(pool=lambda x: x)),
    ("no head", lambda m: change(m, head=nn.Identity())),
    ("head without bias", lambda m: change(m.head, bias=None)),
    ("GELU before the head", _way(before_head=F.gelu)),
    ("softmax inside forward", _way(ends=lambda x: x.softmax(1))),
    ("log-softmax inside forward", _way(ends=lambda x: x.log_softmax(1))),
    ("sigmoid inside forward", _way(ends=torch.sigmoid)),
)

NUMBERS: Sequence[Row] = (
    ("one block", partial(_blocks, lambda n: 1)),
    ("too few blocks", partial(_blocks, lambda n: n - 1)),
    ("too many blocks", partial(_blocks, lambda n: n + 1)),
    ("blocks sharing weights", _shared),
)

OF_MIXER: Sequence[Row] = (
    *NUMBERS,
    ("blocks not chained", _way(unchained=True)),
    *AROUND,
    ("no LayerNorm: anywhere", each_norm(lambda norm: nn.Identity())),
    ("biases missing: anywhere", _no_biases),
    *_of_all([*BLOCK, *MLP_OF_BOTH]),
    *NORMS,
)
MIXER = (*OF_MIXER, *_of_all(MLP_OF_ONE))


def _judge_mixer(t: Trial, answer: Any) -> None:
    torch.set_default_dtype(torch.float64)
    for number in range(t.rounds):
        t.round = number
        drawn = draw_sizes(t, num_blocks=3 + t.round % 2)
        if t.square == "side":
            drawn["image_size"] = drawn["image_size"][0]
        module, sizes = made(t, answer, drawn, read_mixer)
        size, p = sizes["image_size"], sizes["patch_size"]
        h, w = (size, size) if isinstance(size, int) else size
        letters = {
            "S": h // p * (w // p),
            "C": sizes["hidden_dim"],
            "D_S": sizes["tokens_mlp_dim"],
            "D_C": sizes["channels_mlp_dim"],
            "3·P·P": 3 * p * p,
            "classes": sizes["num_classes"],
        }
        told = ", ".join(f"{letter} = {n}" for letter, n in letters.items())
        t.sizes = dict(gh=h // p, gw=w // p, p=p, num_blocks=sizes["num_blocks"], letters=told)
        Compared(
            t,
            module,
            partial(MlpMixer, **sizes),
            t.randn(2, 3, h, w),
            OF_MIXER,
            letters,
            alone=MIXER[len(OF_MIXER) :],
            first=NUMBERS,
            kernel=(letters["C"], 3, p, p),
        ).against_ours()


@exercise("lesson3", None, MIXER, judge=_judge_mixer, modules=True, squares=("side", "pair"))
def mixer(**sizes: Any) -> nn.Module:
    """``Mixer(...)`` with the arguments of :class:`mixer_lite.MlpMixer`.

    ``image_size=(height, width), patch_size=, num_classes=, num_blocks=, hidden_dim=,
    tokens_mlp_dim=, channels_mlp_dim=`` give a module ``(b, 3, h, w) -> (b, num_classes)``:
    stem, blocks, LayerNorm (eps 1e-6), mean over the tokens, linear head. The stem may be a
    convolution or a matrix, with a patch's pixels in any order. Another eps, or code for square
    images alone, passes with a remark. So does a finished module; ``like`` gives sizes that cannot
    be read off it: ``check.mixer(model, like=dict(image_size=(64, 96)))``.
    """
    return MlpMixer(**sizes)


# Counting

# How often each product of sizes stands in a formula. Letters as in the paper; L is the number of
# blocks, K of classes, and g of patches along one side of the image: S = g·g.
Formula = Mapping[str, float]
TERM = re.compile(r"([+-]?) ?(?:(\d+(?:\.\d+)?)·?)?([A-Za-z]\S*)?")


def formula(text: str) -> Formula:
    """``"2·L·C - K"`` -> ``{"L·C": 2, "K": -1}``."""
    found: dict[str, float] = {}
    for sign, factor, product in TERM.findall(text):
        if factor or product:
            found[product or "1"] = float(factor or 1) * (-1 if sign == "-" else 1)
    return found


def added(*formulas: Formula) -> Formula:
    """The sum of formulas."""
    total: Counter[str] = Counter()
    for one in formulas:
        for product, times in one.items():
            total[product] += times  # type: ignore[assignment]
    return {product: times for product, times in total.items() if times}


def value(one: Formula, config: Mapping[str, int]) -> float:
    """A formula's number for these sizes."""
    letters = _letters(config)
    return sum(n * math.prod(letters[x] for x in product.split("·")) for product, n in one.items())


def written(one: Formula) -> str:
    """``2·L·C - K``, as one would write it."""
    text = ""
    for product, times in one.items():
        sign = ("-" if times < 0 else "") if not text else (" - " if times < 0 else " + ")
        factor = "" if abs(times) == 1 and product != "1" else f"{abs(float(times)):g}"
        shown = factor if product == "1" else "·".join(filter(None, [factor, product]))
        text += sign + shown.replace("P·P", "P²")
    return text or "0"


RIGHT_PARAMETERS = formula(
    "3·P·P·C + 3·C + 2·L·S·D_S + L·D_S + L·S + 2·L·C·D_C + L·D_C + 5·L·C + C·K + K"
)
RIGHT_MACS = formula("3·S·P·P·C + 2·L·S·C·D_S + 2·L·S·C·D_C + C·K")

# Products that are in no right formula, but in wrong ones.
STRAY_PARAMETERS = (
    "S·D_S", "D_S", "S", "C·D_C", "D_C", "S·C", "L·S·C", "L·S·C·D_S", "L·C·D_S", "L·S·C·D_C",
    "L·S·D_C", "L·g·D_S", "L·g", "P·C", "S·P·P·C", "S·C·K", "L·C·C", "L", "P·P", "1", "L·S·S",
)  # fmt: skip
STRAY_MACS = (
    "P·P·C", "L·S·D_S", "L·C·D_C", "S·C·D_S", "S·C·D_C", "K", "S·C·K", "S·C", "L·S·C",
    "L·C·D_S", "L·S·D_C", "L·S·S·C", "L·S·C·C", "g·P·P·C", "L·g·C·D_S", "L·g·C·D_C", "C",
    "L·C", "L·S", "L·D_S", "L·D_C", "S·P·C",
)  # fmt: skip

PARAMETERS: Sequence[Row] = (
    ("head missing", "-C·K - K"),
    ("head bias", "-K"),
    ("head on every token", "-C·K + S·C·K"),
    ("stem bias", "-C"),
    ("stem missing", "-3·P·P·C - C"),
    ("colours", "-2·P·P·C"),
    ("patch not squared", "-3·P·P·C + 3·P·C"),
    ("stem for each token", "-3·P·P·C + 3·S·P·P·C"),
    ("stem for each token: 2", "-3·P·P·C + 3·S·P·P·C - C + S·C"),
    ("final LayerNorm", "-2·C"),
    ("LayerNorms missing", "-4·L·C - 2·C"),
    ("LayerNorms of the blocks", "-4·L·C"),
    ("one LayerNorm per block", "-2·L·C"),
    ("three LayerNorms per block", "2·L·C - 2·C"),
    ("half a LayerNorm", "-2·L·C - C"),
    ("LayerNorms of one block", "-4·L·C + 4·C"),
    ("LayerNorm over tokens", "-2·L·C + 2·L·S"),
    ("LayerNorm over tokens: 2", "-4·L·C + 4·L·S"),
    ("LayerNorm of the whole table", "-4·L·C + 4·L·S·C - 2·C + 2·S·C"),
    ("biases missing", "-C - L·D_S - L·S - L·D_C - L·C - K"),
    ("biases of the MLPs", "-L·D_S - L·S - L·D_C - L·C"),
    ("biases of token mixing", "-L·D_S - L·S"),
    ("biases of channel mixing", "-L·D_C - L·C"),
    ("first biases", "-L·D_S - L·D_C"),
    ("second biases", "-L·S - L·C"),
    ("first bias of token mixing", "-L·D_S"),
    ("second bias of token mixing", "-L·S"),
    ("first bias of channel mixing", "-L·D_C"),
    ("second bias of channel mixing", "-L·C"),
    ("biases of token mixing: 2", "-L·S + L·C"),
    ("one matrix of each MLP", "-L·S·D_S - L·C·D_C"),
    ("one matrix of token mixing", "-L·S·D_S"),
    ("one matrix of channel mixing", "-L·C·D_C"),
    ("token mixing missing", "-2·L·S·D_S - L·D_S - L·S"),
    ("channel mixing missing", "-2·L·C·D_C - L·D_C - L·C"),
    ("widths exchanged", "-2·L·S·D_S + 2·L·S·D_C - 2·L·C·D_C + 2·L·C·D_S"),
    ("both MLPs over channels", "-2·L·S·D_S + 2·L·C·D_S - L·S + L·C"),
    ("both MLPs over tokens", "-2·L·C·D_C + 2·L·S·D_C - L·C + L·S"),
    (
        "one block",
        "-2·L·S·D_S + 2·S·D_S - L·D_S + D_S - L·S + S"
        " - 2·L·C·D_C + 2·C·D_C - L·D_C + D_C - 5·L·C + 5·C",
    ),
    ("one token-mixing MLP", "-2·L·S·D_S + 2·S·D_S - L·D_S + D_S - L·S + S"),
    ("one channel-mixing MLP", "-2·L·C·D_C + 2·C·D_C - L·D_C + D_C - L·C + C"),
    (
        "one MLP of each kind",
        "-2·L·S·D_S + 2·S·D_S - L·D_S + D_S - L·S + S"
        " - 2·L·C·D_C + 2·C·D_C - L·D_C + D_C - L·C + C",
    ),
    ("one side of the grid", "-2·L·S·D_S + 2·L·g·D_S - L·S + L·g"),
    ("token MLP for each channel", "-2·L·S·D_S + 2·L·S·C·D_S - L·D_S + L·C·D_S - L·S + L·S·C"),
    ("token MLP for each channel: 2", "-2·L·S·D_S + 2·L·S·C·D_S"),
    ("channel MLP for each token", "-2·L·C·D_C + 2·L·S·C·D_C - L·D_C + L·S·D_C - L·C + L·S·C"),
    ("channel MLP for each token: 2", "-2·L·C·D_C + 2·L·S·C·D_C"),
    ("position embedding", "S·C"),
    ("widths of Table 1", "-2·L·S·D_S + L·S·C - L·D_S + 4.5·L·C - 2·L·C·D_C + 8·L·C·C - L·D_C"),
    ("widths of Table 1", "-2·L·S·D_S + L·S·C - L·D_S + 0.5·L·C"),
    ("widths of Table 1", "-2·L·C·D_C + 8·L·C·C - L·D_C + 4·L·C"),
)

MACS: Sequence[Row] = (
    ("operations for multiply-accumulates", "3·S·P·P·C + 2·L·S·C·D_S + 2·L·S·C·D_C + C·K"),
    (
        "weights for work",
        "-3·S·P·P·C + 3·P·P·C - 2·L·S·C·D_S + 2·L·S·D_S - 2·L·S·C·D_C + 2·L·C·D_C",
    ),
    ("token mixing once", "-2·L·S·C·D_S + 2·L·S·D_S"),
    ("channel mixing once", "-2·L·S·C·D_C + 2·L·C·D_C"),
    ("stem once", "-3·S·P·P·C + 3·P·P·C"),
    ("stem missing", "-3·S·P·P·C"),
    ("colours", "-2·S·P·P·C"),
    ("patch not squared", "-3·S·P·P·C + 3·S·P·C"),
    ("head missing", "-C·K"),
    ("head on every token", "-C·K + S·C·K"),
    ("token mixing missing", "-2·L·S·C·D_S"),
    ("channel mixing missing", "-2·L·S·C·D_C"),
    ("one matrix of each MLP", "-L·S·C·D_S - L·S·C·D_C"),
    ("one matrix of token mixing", "-L·S·C·D_S"),
    ("one matrix of channel mixing", "-L·S·C·D_C"),
    ("one block", "-2·L·S·C·D_S + 2·S·C·D_S - 2·L·S·C·D_C + 2·S·C·D_C"),
    ("token mixing of one block", "-2·L·S·C·D_S + 2·S·C·D_S"),
    ("channel mixing of one block", "-2·L·S·C·D_C + 2·S·C·D_C"),
    (
        "one side of the grid",
        "-3·S·P·P·C + 3·g·P·P·C - 2·L·S·C·D_S + 2·L·g·C·D_S - 2·L·S·C·D_C + 2·L·g·C·D_C",
    ),
    ("biases counted", "S·C + L·C·D_S + 2·L·S·C + L·S·D_C + K"),
    ("biases counted: 2", "L·C·D_S + 2·L·S·C + L·S·D_C"),
    ("biases counted: 3", "L·C·D_S + L·S·C"),
    ("biases counted: 4", "L·S·D_C + L·S·C"),
    ("biases counted: 5", "K"),
    ("biases added as they are", "C + L·D_S + L·S + L·D_C + L·C + K"),
    ("LayerNorms counted", "4·L·S·C + 2·S·C"),
    ("LayerNorms counted: 2", "2·L·S·C + S·C"),
    ("skip connections counted", "2·L·S·C"),
    ("mean or stem bias counted", "S·C"),
    ("attention", "-2·L·S·C·D_S + 2·L·S·S·C"),
    ("widths of Table 1", "-2·L·S·C·D_S - 2·L·S·C·D_C + 9·L·S·C·C"),
    ("widths of Table 1", "-2·L·S·C·D_S + L·S·C·C"),
    ("widths of Table 1", "-2·L·S·C·D_C + 8·L·S·C·C"),
)


def _letters(config: Mapping[str, int]) -> dict[str, int]:
    g = config["image_size"] // config["patch_size"]
    sides = {"P": config["patch_size"], "g": g, "S": g * g, "1": 1, "C": config["hidden_dim"]}
    widths = {"D_S": config["tokens_mlp_dim"], "D_C": config["channels_mlp_dim"]}
    return {**sides, **widths, "L": config["num_blocks"], "K": config["num_classes"]}


def _draw(t: Trial) -> dict[str, int]:
    side, patch, blocks, classes, half, tokens, channels = t.choose(7, 2, 24)
    return dict(
        image_size=side * patch,
        patch_size=patch,
        num_classes=classes,
        num_blocks=blocks,
        hidden_dim=2 * half,
        tokens_mlp_dim=tokens,
        channels_mlp_dim=channels,
    )


def _number(t: Trial, got: Any) -> int:
    # The learner's count, or the end of the check.
    known = dict(what=t.text("what"), What=first(t.text("what")), kind=type(got).__name__)
    if isinstance(got, torch.Tensor) and got.numel() == 1 and not got.is_meta:
        got = got.item()
    if got is None:
        t.fail("returns nothing", **known)
    if isinstance(got, dict):
        t.fail("not a number: parts", **known)
    if isinstance(got, bool) or not isinstance(got, (int, float, np.integer, np.floating)):
        t.fail("not a number", **known)
    if isinstance(got, (float, np.floating)):
        t.fail("not a whole number" if math.isfinite(got) else "not finite", got=got, **known)
    return int(got)


def solved(
    numbers: Sequence[int], configs: Sequence[Mapping[str, int]], products: Sequence[str]
) -> Formula | None:
    """How often each product stands in a count, if the count is a sum of these products."""
    if max(map(abs, numbers)) > 2**53:  # past what floats tell apart
        return None
    values = [[int(value({p: 1}, config)) for p in products] for config in configs]
    matrix = np.array(values, float)  # (configs, products)
    scale = matrix.max(0)
    found = np.linalg.lstsq(matrix / scale, np.array(numbers, float), rcond=None)[0] / scale
    if not np.isfinite(found).all() or np.abs(found).max() > 1e6:
        return None
    times = [Fraction(round(2 * float(x)), 2) for x in found]
    for row, number in zip(values, numbers, strict=True):
        if sum(a * b for a, b in zip(times, row, strict=True)) != number:
            return None
    return {product: float(n) for product, n in zip(products, times, strict=True) if n}


def explained(off: Formula, rows: Sequence[Row]) -> tuple[str, ...] | None:
    """The fewest mistakes, at most three, whose formulas add up to ``off``."""
    known = [(name, formula(text)) for name, text in rows]
    for n in (1, 2):
        for some in itertools.combinations(known, n):
            if added(*(one for _, one in some)) == off:
                return tuple(name for name, _ in some)
    by_formula = {frozenset(one.items()): name for name, one in known}
    for (a, one), (b, two) in itertools.combinations(known, 2):
        rest = added(off, {p: -n for p, n in added(one, two).items()})
        if third := by_formula.get(frozenset(rest.items())):
            return a, b, third
    return None


def _judge_count(right: Formula, stray: Sequence[str], t: Trial, answer: Any) -> None:
    # Random sizes first, then two columns of Table 1; where a number is wrong, ask for many more.
    assert t.exercise is not None
    count = t.exercise.right

    def ask(config: dict[str, Any]) -> int:
        return _number(t, t.call(answer, **config))

    small = [name for name in specs.list_models() if name.startswith(("mixer_s", "mixer_b"))]
    b16 = specs.spec("mixer_b16_224")
    for config in [*(_draw(t) for _ in range(t.rounds)), b16, specs.spec(t.random.choice(small))]:
        got, want = ask(config), count(**config)
        if got == want:
            continue
        told = [
            t.line("letters", image_size=config["image_size"], **_letters(config)),
            t.line("numbers", want=want, got=got, off=got - want),
        ]
        products = [*right, *stray]
        configs = [_draw(t) for _ in range(len(products) + 8)]
        numbers = [ask(c) for c in configs]
        again = ask(config)
        if again != got:
            t.fail("not the same twice", *told, got=got, again=again)
        told.append(t.line("B/16", want=count(**b16), got=ask(b16)))
        if len({*numbers, got}) == 1:
            t.fail("always the same number", *told)
        theirs = solved([*numbers, got], [*configs, config], products)
        if theirs is None:
            t.fail("wrong number", *told, What=first(t.text("what")))
        off = added(theirs, {product: -n for product, n in right.items()})
        told.append(t.line("off", off=written(off)))
        found = explained(off, t.exercise.mistakes)
        if found is None:
            t.fail("wrong parts", *told)
        raise Wrong(t.finding(found, *told))


@exercise(
    "lesson3", None, PARAMETERS, judge=partial(_judge_count, RIGHT_PARAMETERS, STRAY_PARAMETERS)
)
def count_parameters(**config: int) -> int:
    """``count_parameters(image_size=, ..., channels_mlp_dim=) -> int``, head included.

    Called by keyword with the seven sizes of a Mixer as ``mixer_lite.MlpMixer`` takes them; the
    image is square and has 3 colours, ``image_size`` is its side. For B/16 of Table 1 with 1000
    classes the answer is 59,880,472.
    """
    return specs.count_parameters(**config)["total"]


@exercise("lesson3", None, MACS, judge=partial(_judge_count, RIGHT_MACS, STRAY_MACS))
def count_macs(**config: int) -> int:
    """``count_macs(image_size=, ..., channels_mlp_dim=) -> int``, for one image, head included.

    Multiply-accumulates of the matrix products alone: 12,601,767,936 for B/16 of Table 1 with 1000
    classes. Called as :func:`count_parameters`.
    """
    return specs.count_macs(**config)["total"]
