"""Checks of lesson 3, arithmetic: a Mixer's parameters, and the work of one image.

A count is a sum of products of sizes: ``2·L·S·D_S + L·D_S + ...``. From what the learner's function
gives for many sizes follows its formula, product by product, and from the formula the mistake.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from mixer_lite import specs
from mixer_lite.checks.trial import Trial, exercise, fail

LESSON = "3 The whole Mixer"

# A formula: how often each product of sizes stands in it. Letters as in the paper; L is the number
# of blocks, K of classes, and g of patches along one side of the image: S = g·g.
Formula = Mapping[str, float]

PARAMETERS: Formula = {
    "P·P·C": 3,  # the stem, 3 colours
    "C": 3,  # its bias, and scale and shift of the last LayerNorm
    "L·S·D_S": 2,
    "L·D_S": 1,
    "L·S": 1,
    "L·C·D_C": 2,
    "L·D_C": 1,
    "L·C": 5,  # the last bias of channel mixing, scale and shift of two LayerNorms
    "C·K": 1,
    "K": 1,
}
MACS: Formula = {"S·P·P·C": 3, "L·S·C·D_S": 2, "L·S·C·D_C": 2, "C·K": 1}

# Products that are in no right formula, but in wrong ones.
STRAY_PARAMETERS = (
    "S·D_S", "D_S", "S", "C·D_C", "D_C", "S·C", "L·S·C", "L·S·C·D_S", "L·C·D_S", "L·S·C·D_C",
    "L·S·D_C", "L·g·D_S", "L·g", "P·C", "S·P·P·C", "S·C·K", "L·C·C", "L", "P·P", "1", "L·S·S",
)  # fmt: skip
STRAY_MACS = (
    "P·P·C", "L·S·D_S", "L·C·D_C", "S·C·D_S", "S·C·D_C", "K", "S·C·K", "S·C", "L·S·C", "L·C·D_S",
    "L·S·D_C", "L·S·S·C", "L·S·C·C", "g·P·P·C", "L·g·C·D_S", "L·g·C·D_C", "C", "L·C", "L·S",
    "L·D_S", "L·D_C", "S·P·C",
)  # fmt: skip

Mistake = tuple[str, Formula, str]  # name, what it adds to the right formula, sentence


def _instead(right: str, wrong: str, times: float = 1) -> Formula:
    return {right: -times, wrong: times}


def _sum(*formulas: Formula) -> Formula:
    total: Counter[str] = Counter()
    for formula in formulas:
        for product, times in formula.items():
            total[product] += times  # type: ignore[assignment]
    return {product: times for product, times in total.items() if times}


_TOKENS_ONCE = _sum(_instead("L·S·D_S", "S·D_S", 2), _instead("L·D_S", "D_S"), _instead("L·S", "S"))
_CHANNELS_ONCE = _sum(
    _instead("L·C·D_C", "C·D_C", 2), _instead("L·D_C", "D_C"), _instead("L·C", "C")
)
_TOKENS_OF_TABLE_1 = {"L·S·D_S": -2, "L·S·C": 1, "L·D_S": -1, "L·C": 0.5}
_CHANNELS_OF_TABLE_1 = {"L·C·D_C": -2, "L·C·C": 8, "L·D_C": -1, "L·C": 4}
_TABLE_1 = (
    "You take the hidden widths from Table 1, D_S = C / 2 and D_C = 4 C. They are arguments of "
    "your function, tokens_mlp_dim and channels_mlp_dim, and may be others."
)

PARAMETER_MISTAKES: tuple[Mistake, ...] = (
    ("head missing", {"C·K": -1, "K": -1},
     "The head is not counted: C·K weights and K biases."),
    ("head bias", {"K": -1},
     "The head's bias is not counted: one number for each class, K."),
    ("head on every token", _instead("C·K", "S·C·K"),
     "Your head has weights for every token; it stands after the mean over tokens, so it has "
     "C·K."),
    ("stem bias", {"C": -1},
     "The stem's bias is not counted: one number for each channel, C."),
    ("stem missing", {"P·P·C": -3, "C": -1},
     "The stem is not counted: 3·P·P·C weights and C biases."),
    ("colours", {"P·P·C": -2},
     "Your stem has P·P inputs; a patch has 3 colours, so 3·P·P."),
    ("patch not squared", _instead("P·P·C", "P·C", 3),
     "Your patch has 3·P numbers; it is P pixels wide and P high, so 3·P·P."),
    ("stem for each token", _instead("P·P·C", "S·P·P·C", 3),
     "You count the stem's weights once for each token; all tokens share them."),
    ("stem for each token", _sum(_instead("P·P·C", "S·P·P·C", 3), _instead("C", "S·C")),
     "You count the stem once for each token; all tokens share it."),
    ("final LayerNorm", {"C": -2},
     "The LayerNorm after the last block is not counted: a scale and a shift for each channel, "
     "2·C."),
    ("LayerNorms missing", {"L·C": -4, "C": -2},
     "No LayerNorm is counted: each has 2·C numbers, there are two in a block and one after the "
     "last block."),
    ("LayerNorms of the blocks", {"L·C": -4},
     "The LayerNorms of the blocks are not counted: two in each, with 2·C numbers."),
    ("one LayerNorm per block", {"L·C": -2},
     "You count one LayerNorm in a block; there are two, one before token mixing and one before "
     "channel mixing, with 2·C numbers each."),
    ("three LayerNorms per block", {"L·C": 2, "C": -2},
     "You count three LayerNorms in a block; there are two, and the last one stands once, after "
     "all blocks."),
    ("half a LayerNorm", {"L·C": -2, "C": -1},
     "Your LayerNorms have C numbers; each has a scale and a shift, 2·C."),
    ("LayerNorms of one block", _instead("L·C", "C", 4),
     "You count the LayerNorms of one block; there are two in each of the num_blocks blocks."),
    ("LayerNorm over tokens", _instead("L·C", "L·S", 2),
     "One of your LayerNorms in a block has 2·S numbers. Both run over channels and have 2·C, "
     "the one before token mixing too."),
    ("LayerNorm over tokens", _instead("L·C", "L·S", 4),
     "The LayerNorms in your blocks have 2·S numbers. They run over channels and have 2·C."),
    ("LayerNorm of the whole table", _sum(_instead("L·C", "L·S·C", 4), _instead("C", "S·C", 2)),
     "Your LayerNorms have a scale and a shift for each number of the table, 2·S·C; all tokens "
     "share one of 2·C."),
    ("biases missing", {"C": -1, "L·D_S": -1, "L·S": -1, "L·D_C": -1, "L·C": -1, "K": -1},
     "You count the matrices, but none of the biases: every layer from m to n numbers has n."),
    ("biases of the MLPs", {"L·D_S": -1, "L·S": -1, "L·D_C": -1, "L·C": -1},
     "The biases of the two MLPs are not counted: in each block D_S and S, and D_C and C."),
    ("biases of token mixing", {"L·D_S": -1, "L·S": -1},
     "The biases of the token-mixing MLP are not counted: D_S in its first layer, S in its "
     "second."),
    ("biases of channel mixing", {"L·D_C": -1, "L·C": -1},
     "The biases of the channel-mixing MLP are not counted: D_C in its first layer, C in its "
     "second."),
    ("first biases", {"L·D_S": -1, "L·D_C": -1},
     "The first layers of the MLPs have biases, too: D_S and D_C numbers."),
    ("second biases", {"L·S": -1, "L·C": -1},
     "The second layers of the MLPs have biases, too: S and C numbers."),
    ("first bias of token mixing", {"L·D_S": -1},
     "The first bias of token mixing is not counted: D_S numbers in each block."),
    ("second bias of token mixing", {"L·S": -1},
     "The second bias of token mixing is not counted: S numbers in each block."),
    ("first bias of channel mixing", {"L·D_C": -1},
     "The first bias of channel mixing is not counted: D_C numbers in each block."),
    ("second bias of channel mixing", {"L·C": -1},
     "The second bias of channel mixing is not counted: C numbers in each block."),
    ("biases of token mixing", _instead("L·S", "L·C"),
     "The second bias of your token mixing has C numbers. Its second layer gives S numbers, so "
     "S."),
    ("one matrix of each MLP", {"L·S·D_S": -1, "L·C·D_C": -1},
     "You count one matrix in each MLP; there are two, up to the hidden width and back."),
    ("one matrix of token mixing", {"L·S·D_S": -1},
     "You count one matrix of the token-mixing MLP; there are two, up to D_S and back to S."),
    ("one matrix of channel mixing", {"L·C·D_C": -1},
     "You count one matrix of the channel-mixing MLP; there are two, up to D_C and back to C."),
    ("token mixing missing", {"L·S·D_S": -2, "L·D_S": -1, "L·S": -1},
     "Token mixing is not counted."),
    ("channel mixing missing", {"L·C·D_C": -2, "L·D_C": -1, "L·C": -1},
     "Channel mixing is not counted."),
    ("widths exchanged",
     _sum(_instead("L·S·D_S", "L·S·D_C", 2), _instead("L·C·D_C", "L·C·D_S", 2)),
     "D_S and D_C are exchanged: tokens_mlp_dim is the hidden width of the MLP that runs along "
     "the S tokens, channels_mlp_dim of the one along the C channels."),
    ("both MLPs over channels", _sum(_instead("L·S·D_S", "L·C·D_S", 2), _instead("L·S", "L·C")),
     "Your token-mixing MLP takes C numbers and gives C. It runs along the tokens: from S to "
     "D_S and back."),
    ("both MLPs over tokens", _sum(_instead("L·C·D_C", "L·S·D_C", 2), _instead("L·C", "L·S")),
     "Your channel-mixing MLP takes S numbers and gives S. It runs along the channels: from C "
     "to D_C and back."),
    ("one block", _sum(_TOKENS_ONCE, _CHANNELS_ONCE, _instead("L·C", "C", 4)),
     "You count one block; there are num_blocks of them, each with weights of its own."),
    ("one token-mixing MLP", _TOKENS_ONCE,
     "You count one token-mixing MLP; each of the num_blocks blocks has its own."),
    ("one channel-mixing MLP", _CHANNELS_ONCE,
     "You count one channel-mixing MLP; each of the num_blocks blocks has its own."),
    ("one MLP of each kind", _sum(_TOKENS_ONCE, _CHANNELS_ONCE),
     "You count the two MLPs once; each of the num_blocks blocks has its own."),
    ("one side of the grid", _sum(_instead("L·S·D_S", "L·g·D_S", 2), _instead("L·S", "L·g")),
     "Your S is image_size / patch_size. That is one side of the grid; there are S = side · "
     "side patches."),
    ("token MLP for each channel",
     _sum(_instead("L·S·D_S", "L·S·C·D_S", 2), _instead("L·D_S", "L·C·D_S"), _instead("L·S",
     "L·S·C")),
     "You count a token-mixing MLP for each channel; all channels share one."),
    ("token MLP for each channel", _instead("L·S·D_S", "L·S·C·D_S", 2),
     "You count the matrices of token mixing once for each channel; all channels share them."),
    ("channel MLP for each token",
     _sum(_instead("L·C·D_C", "L·S·C·D_C", 2), _instead("L·D_C", "L·S·D_C"), _instead("L·C",
     "L·S·C")),
     "You count a channel-mixing MLP for each token; all tokens share one."),
    ("channel MLP for each token", _instead("L·C·D_C", "L·S·C·D_C", 2),
     "You count the matrices of channel mixing once for each token; all tokens share them."),
    ("position embedding", {"S·C": 1},
     "You count a position embedding of S·C numbers; a Mixer has none, since its token mixing "
     "knows places."),
    ("widths of Table 1", _sum(_TOKENS_OF_TABLE_1, _CHANNELS_OF_TABLE_1), _TABLE_1),
    ("widths of Table 1", _TOKENS_OF_TABLE_1, _TABLE_1),
    ("widths of Table 1", _CHANNELS_OF_TABLE_1, _TABLE_1),
)  # fmt: skip

_MACS_ONCE = _sum(_instead("L·S·C·D_S", "S·C·D_S", 2), _instead("L·S·C·D_C", "S·C·D_C", 2))

MAC_MISTAKES: tuple[Mistake, ...] = (
    ("operations for multiply-accumulates", MACS,
     "Your count is twice the right one: you count a product and its addition as two "
     "operations. One multiply-accumulate is both."),
    ("weights for work",
     _sum(_instead("S·P·P·C", "P·P·C", 3), _instead("L·S·C·D_S", "L·S·D_S", 2),
     _instead("L·S·C·D_C", "L·C·D_C", 2)),
     "You count each weight once: that is the number of parameters. The stem and channel mixing "
     "use theirs for each of S tokens, token mixing for each of C channels."),
    ("token mixing once", _instead("L·S·C·D_S", "L·S·D_S", 2),
     "You count token mixing for one channel; its matrices are used for each of the C channels."),
    ("channel mixing once", _instead("L·S·C·D_C", "L·C·D_C", 2),
     "You count channel mixing for one token; its matrices are used for each of the S tokens."),
    ("stem once", _instead("S·P·P·C", "P·P·C", 3),
     "You count the stem for one patch; it is used for each of the S patches."),
    ("stem missing", {"S·P·P·C": -3},
     "The stem is not counted: 3·P·P·C for each of the S patches."),
    ("colours", {"S·P·P·C": -2},
     "Your stem has P·P inputs; a patch has 3 colours, so 3·P·P."),
    ("patch not squared", _instead("S·P·P·C", "S·P·C", 3),
     "Your patch has 3·P numbers; it is P pixels wide and P high, so 3·P·P."),
    ("head missing", {"C·K": -1},
     "The head is not counted: C·K, once."),
    ("head on every token", _instead("C·K", "S·C·K"),
     "You count the head for each token; it stands after the mean over tokens, so it is used "
     "once."),
    ("token mixing missing", {"L·S·C·D_S": -2},
     "Token mixing is not counted."),
    ("channel mixing missing", {"L·S·C·D_C": -2},
     "Channel mixing is not counted."),
    ("one matrix of each MLP", {"L·S·C·D_S": -1, "L·S·C·D_C": -1},
     "You count one matrix in each MLP; there are two, up to the hidden width and back."),
    ("one matrix of token mixing", {"L·S·C·D_S": -1},
     "You count one matrix of token mixing; there are two, up to D_S and back to S."),
    ("one matrix of channel mixing", {"L·S·C·D_C": -1},
     "You count one matrix of channel mixing; there are two, up to D_C and back to C."),
    ("one block", _MACS_ONCE,
     "You count one block; there are num_blocks of them."),
    ("token mixing of one block", _instead("L·S·C·D_S", "S·C·D_S", 2),
     "You count the token mixing of one block; there are num_blocks of them."),
    ("channel mixing of one block", _instead("L·S·C·D_C", "S·C·D_C", 2),
     "You count the channel mixing of one block; there are num_blocks of them."),
    ("one side of the grid",
     _sum(_instead("S·P·P·C", "g·P·P·C", 3), _instead("L·S·C·D_S", "L·g·C·D_S", 2),
     _instead("L·S·C·D_C", "L·g·C·D_C", 2)),
     "Your S is image_size / patch_size. That is one side of the grid; there are S = side · "
     "side patches."),
    ("biases counted", {"S·C": 1, "L·C·D_S": 1, "L·S·C": 2, "L·S·D_C": 1, "K": 1},
     "You count the biases as well; the usual convention counts the matrix products alone."),
    ("biases counted", {"L·C·D_S": 1, "L·S·C": 2, "L·S·D_C": 1},
     "You count the biases of the MLPs as well; the usual convention counts the matrix products "
     "alone."),
    ("biases counted", {"L·C·D_S": 1, "L·S·C": 1},
     "You count the biases of token mixing as well; the usual convention counts the matrix "
     "products alone."),
    ("biases counted", {"L·S·D_C": 1, "L·S·C": 1},
     "You count the biases of channel mixing as well; the usual convention counts the matrix "
     "products alone."),
    ("biases counted", {"K": 1},
     "You count the head's bias as well; the usual convention counts the matrix products alone."),
    ("biases added as they are", {"C": 1, "L·D_S": 1, "L·S": 1, "L·D_C": 1, "L·C": 1, "K": 1},
     "You add the number of biases; the usual convention counts the matrix products alone."),
    ("LayerNorms counted", {"L·S·C": 4, "S·C": 2},
     "You count two operations for each number that a LayerNorm gives, as OpenMMLab does; here "
     "the matrix products alone count."),
    ("LayerNorms counted", {"L·S·C": 2, "S·C": 1},
     "You count one operation for each number that a LayerNorm gives; the usual convention "
     "counts the matrix products alone."),
    ("skip connections counted", {"L·S·C": 2},
     "You count the additions of the skip connections; the usual convention counts the matrix "
     "products alone."),
    ("mean or stem bias counted", {"S·C": 1},
     "You count S·C operations too many, as many as the mean over tokens or the stem's bias "
     "takes; the matrix products alone count."),
    ("attention", _sum({"L·S·C·D_S": -2}, {"L·S·S·C": 2}),
     "Your token mixing compares every token with every other, S·S·C, as attention does. It is "
     "two matrices, S by D_S and back."),
    ("widths of Table 1", {"L·S·C·D_S": -2, "L·S·C·D_C": -2, "L·S·C·C": 9}, _TABLE_1),
    ("widths of Table 1", {"L·S·C·D_S": -2, "L·S·C·C": 1}, _TABLE_1),
    ("widths of Table 1", {"L·S·C·D_C": -2, "L·S·C·C": 8}, _TABLE_1),
)  # fmt: skip


def _value(product: str, config: Mapping[str, int]) -> int:
    side = config["image_size"] // config["patch_size"]
    letters = {
        "P": config["patch_size"],
        "g": side,
        "S": side * side,
        "L": config["num_blocks"],
        "C": config["hidden_dim"],
        "D_S": config["tokens_mlp_dim"],
        "D_C": config["channels_mlp_dim"],
        "K": config["num_classes"],
        "1": 1,
    }
    return math.prod(letters[letter] for letter in product.split("·"))


def _letters(config: Mapping[str, int]) -> str:
    side = _value("g", config)
    return (
        f"image_size {config['image_size']}, P = {_value('P', config)}, g = {side} patches along a "
        f"side, S = g·g = {_value('S', config)} tokens, C = {_value('C', config)}, "
        f"D_S = {_value('D_S', config)}, D_C = {_value('D_C', config)}, "
        f"L = {_value('L', config)} blocks, K = {_value('K', config)} classes:"
    )


def _draw(t: Trial) -> dict[str, int]:
    side, patch, blocks, classes, half, tokens, channels = t.sizes(7, 2, 24)
    return dict(
        image_size=side * patch,
        patch_size=patch,
        num_classes=classes,
        num_blocks=blocks,
        hidden_dim=2 * half,
        tokens_mlp_dim=tokens,
        channels_mlp_dim=channels,
    )


def _number(got: Any, what: str) -> int:
    # The learner's count, or the end of the check.
    title = what[:1].upper() + what[1:]
    if isinstance(got, torch.Tensor) and got.numel() == 1 and not got.is_meta:
        got = got.item()
    if got is None:
        fail(
            "returns nothing",
            f"Your code returned None where {what} should be: is there a `return`?",
        )
    if isinstance(got, dict):
        fail(
            "not a number", f"{title} should be one number: add the parts up, sum(parts.values())."
        )
    if isinstance(got, bool) or not isinstance(got, (int, float, np.integer, np.floating)):
        fail("not a number", f"{title} should be one whole number, not a {type(got).__name__}.")
    if isinstance(got, (float, np.floating)) and not math.isfinite(got):
        fail("not finite", f"{title} came out as {got}.")
    if isinstance(got, (float, np.floating)):
        fail(
            "not a whole number",
            f"{title} should be a whole number (int), not {got!r}: a `/` always gives a float, and "
            f"floats lose the last digits of large counts. Divide with `//`.",
        )
    return int(got)


def _formula(
    numbers: Sequence[int], configs: Sequence[Mapping[str, int]], products: Sequence[str]
) -> Formula | None:
    # How often each product stands in a count, if the count is a sum of these products.
    if max(map(abs, numbers)) > 2**53:  # past what floats tell apart
        return None
    values = [[_value(product, config) for product in products] for config in configs]
    matrix = np.array(values, float)  # (configs, products)
    scale = matrix.max(0)
    solved = np.linalg.lstsq(matrix / scale, np.array(numbers, float), rcond=None)[0] / scale
    if not np.isfinite(solved).all() or np.abs(solved).max() > 1e6:
        return None
    times = [Fraction(round(2 * float(x)), 2) for x in solved]
    for row, number in zip(values, numbers, strict=True):
        if sum(a * b for a, b in zip(times, row, strict=True)) != number:
            return None
    return {product: float(n) for product, n in zip(products, times, strict=True) if n}


def _explained(off: Formula, mistakes: Sequence[Mistake]) -> list[Mistake] | None:
    # The fewest mistakes, at most three, whose formulas add up to what the learner's is off by.
    for count in (1, 2):
        for some in itertools.combinations(mistakes, count):
            if _sum(*(formula for _, formula, _ in some)) == off:
                return list(some)
    known = {frozenset(formula.items()): (name, formula, says) for name, formula, says in mistakes}
    for a, b in itertools.combinations(mistakes, 2):
        rest = _sum(off, {p: -n for p, n in _sum(a[1], b[1]).items()})
        third = known.get(frozenset(rest.items()))
        if third:
            return [a, b, third]
    return None


def _written(formula: Formula) -> str:
    # 2·L·C - K, as one would write it.
    text = ""
    for product, times in formula.items():
        sign = ("-" if times < 0 else "") if not text else (" - " if times < 0 else " + ")
        factor = "" if abs(times) == 1 and product != "1" else f"{abs(float(times)):g}"
        shown = factor if product == "1" else "·".join(filter(None, [factor, product]))
        text += sign + shown.replace("P·P", "P²")
    return text or "0"


def _judge(
    t: Trial,
    answer: Any,
    count: Callable[..., dict[str, int]],
    right: Formula,
    stray: Sequence[str],
    mistakes: Sequence[Mistake],
    what: str,
) -> None:
    # Random sizes first, then two columns of Table 1; where a number is wrong, ask for many more.
    def ask(config: dict[str, Any]) -> int:
        return _number(t.call(answer, **config), what)

    small = [name for name in specs.list_models() if name.startswith(("mixer_s", "mixer_b"))]
    b16 = specs.spec("mixer_b16_224")
    for config in [*(_draw(t) for _ in range(t.rounds)), b16, specs.spec(t.random.choice(small))]:
        got, want = ask(config), count(**config)["total"]
        if got == want:
            continue
        evidence = [
            _letters(config),
            f"expected {want:,}, yours {got:,}, which is {got - want:+,}",
        ]
        products = [*right, *stray]
        configs = [_draw(t) for _ in range(len(products) + 8)]
        numbers = [ask(c) for c in configs]
        again = ask(config)
        if again != got:
            fail(
                "not the same twice",
                f"Two calls with the same sizes gave {got:,} and {again:,}: does your function "
                f"keep something from call to call?",
                *evidence,
            )
        evidence.append(f"Mixer-B/16: expected {count(**b16)['total']:,}, yours {ask(b16):,}")
        if len({*numbers, got}) == 1:
            fail(
                "always the same number",
                "Your function gives this number whatever the sizes: calculate it from the "
                "arguments.",
                *evidence,
            )
        formula = _formula([*numbers, got], [*configs, config], products)
        if formula is None:
            fail("wrong number", f"{what[:1].upper()}{what[1:]} came out wrong.", *evidence)
        off = _sum(formula, {product: -n for product, n in right.items()})
        evidence.append(f"whatever the sizes: yours - right = {_written(off)}")
        found = _explained(off, mistakes)
        if found is None:
            fail(
                "wrong parts",
                "Your count has the wrong number of something, always the same: look for the part "
                "with the letters in the last line.",
                *evidence,
            )
        (mistake, _, says), *more = found
        for other, _, also in more:
            says += f" Besides ({other}): {also}"
        fail(mistake, says, *evidence)


SIZES = (
    "image_size=, patch_size=, num_classes=, num_blocks=, hidden_dim=, tokens_mlp_dim=, "
    "channels_mlp_dim="
)


@exercise(
    lesson=LESSON,
    takes=f"count_parameters({SIZES})",
    hints=(
        "Go through the network from the image to the logits and write down every layer that has "
        "weights: stem, then in each block two LayerNorms and two MLPs, a last LayerNorm, head.",
        "A layer from m to n numbers has m·n weights and n biases; a LayerNorm has a scale and a "
        "shift for each channel. How many patches are there, and how many numbers has one?",
        "Each MLP has two layers, there and back: S to D_S to S for tokens, C to D_C to C for "
        "channels. Which parts are there num_blocks times, and which once?",
    ),
)
def count_parameters(t: Trial, answer: Any) -> None:
    """``count_parameters(image_size=, ..., channels_mlp_dim=) -> int``, head included.

    Called by keyword with the seven sizes of a Mixer as ``mixer_lite.MlpMixer`` takes them; the
    image is square and has 3 colours, ``image_size`` is its side. For B/16 of Table 1 with 1000
    classes the answer is 59,880,472.
    """
    _judge(
        t,
        answer,
        specs.count_parameters,
        PARAMETERS,
        STRAY_PARAMETERS,
        PARAMETER_MISTAKES,
        "the number of parameters",
    )


@exercise(
    lesson=LESSON,
    takes=f"count_macs({SIZES})",
    hints=(
        "A matrix product of rows × inputs by inputs × outputs takes rows · inputs · outputs "
        "multiply-accumulates. Biases, LayerNorm, GELU and additions do not count.",
        "For each matrix ask: how many rows meet it? The stem meets S patches. How many rows meet "
        "the token-mixing matrices, and how many the channel-mixing ones?",
        "Each MLP is two matrices, and each block has both MLPs. The head comes after the mean, so "
        "one row meets it.",
    ),
)
def count_macs(t: Trial, answer: Any) -> None:
    """``count_macs(image_size=, ..., channels_mlp_dim=) -> int``, for one image, head included.

    Multiply-accumulates of the matrix products alone: 12,601,767,936 for B/16 of Table 1 with 1000
    classes. Called as :func:`count_parameters`.
    """
    _judge(
        t,
        answer,
        specs.count_macs,
        MACS,
        STRAY_MACS,
        MAC_MISTAKES,
        "the number of multiply-accumulates",
    )
