"""The bug hunt: eight Mixers, each with one mistake that published code has had.

``suspect(n)`` gives a faulty model to examine, with a healthy one's weights where they fit;
``hint(n)`` a hint, the next one each time; ``reveal(n)`` the mistake, its source, and the faulty
line beside the right one. Names and ``repr`` of the models say nothing. Spoilers below.
"""

from __future__ import annotations

import html
import inspect
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mixer_lite._support.files import data_path
from mixer_lite._support.tables import read_table
from mixer_lite.filters import embedding_filters
from mixer_lite.model import MixerBlock, MlpBlock, MlpMixer
from mixer_lite.specs import arguments_of
from mixer_lite.weights.pretrained import load_pretrained

HEALTHY = "mixer_nano_cifar10"  # the bundled model whose twins the suspects are
C = TypeVar("C", bound=type)


def disguised(cls: C) -> C:
    """The class, named after what it imitates; so are its methods."""
    imitated = next(base for base in cls.__mro__ if base.__module__ == MlpMixer.__module__)
    cls.__name__ = cls.__qualname__ = imitated.__name__
    for name, member in vars(cls).items():
        if inspect.isfunction(member):
            member.__qualname__ = f"{imitated.__name__}.{name}"
    return cls


@disguised
class Suspect(MlpMixer):
    """A Mixer that may be faulty: in its own methods, or in its ``block_class``."""

    block_class: type[MixerBlock] = MixerBlock

    def __init__(self, **sizes: Any):
        super().__init__(**sizes)
        widths: dict[str, Any] = dict(
            num_tokens=self.num_tokens, hidden_dim=self.hidden_dim, gelu=self.gelu,
            tokens_mlp_dim=self.tokens_mlp_dim, channels_mlp_dim=self.channels_mlp_dim,
            norm_eps=self.norm_eps,
        )  # fmt: skip
        self.blocks = nn.Sequential(*(self.block_class(**widths) for _ in range(self.num_blocks)))

    def __repr__(self) -> str:
        return "MlpMixer(under suspicion: go by what it does)"


# The eight mistakes. Each class overrides one method, and its faulty line is quoted by reveal().


@disguised
class SwappedWidths(MixerBlock):
    """D_S and D_C change places."""

    def __init__(self, *, tokens_mlp_dim: int, channels_mlp_dim: int, **sizes: Any):
        super().__init__(tokens_mlp_dim=channels_mlp_dim, channels_mlp_dim=tokens_mlp_dim, **sizes)


@disguised
class PatchesByReshape(Suspect):
    """Numbers are cut off in the order in which they lie in memory; no patch is a square."""

    def patchify(self, images: Tensor) -> Tensor:
        """``(b, in_channels, h, w) -> (b, S, in_channels * P * P)``."""
        return images.reshape(len(images), self.num_tokens, -1)


@disguised
class BlocksInAList(Suspect):
    """A Python list hides its modules: no optimizer, no file and no device sees the blocks."""

    def __init__(self, **sizes: Any):
        super().__init__(**sizes)
        blocks = self.blocks
        del self.blocks
        self.blocks = list(blocks)  # type: ignore[assignment]

    def forward_features(self, images: Tensor) -> Tensor:
        """``(b, in_channels, h, w) -> (b, S, C)``."""
        x = self.stem(self.patchify(images))
        for block in self.blocks:
            x = block(x)  # (b, S, C)
        return self.norm(x)


@disguised
class SkipFromTheStart(MixerBlock):
    """The second skip connection starts at the block's input, so the first one leads nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        """``(b, S, C) -> (b, S, C)``."""
        y = rearrange(self.norm1(x), "b s c -> b c s")
        y = x + rearrange(self.mlp_tokens(y), "b c s -> b s c")
        return x + self.mlp_channels(self.norm2(y))  # (b, S, C)


@disguised
class OneNorm(MixerBlock):
    """One LayerNorm serves both halves of the block."""

    def __init__(self, **sizes: Any):
        super().__init__(**sizes)
        self.norm2 = self.norm1


@disguised
class SleeplessMlp(MlpBlock):
    """Dropout that ``eval()`` does not switch off."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim) -> (..., dim)``."""
        x = self.fc1(x)  # (..., dim) -> (..., hidden_dim)
        x = F.dropout(self.act(x), p=0.1)
        return self.fc2(x)  # (..., hidden_dim) -> (..., dim)


@disguised
class Sleepless(MixerBlock):
    """A block of two such MLPs."""

    def __init__(
        self, *, num_tokens: int, hidden_dim: int, tokens_mlp_dim: int, channels_mlp_dim: int,
        **rest: Any,
    ):  # fmt: skip
        widths: dict[str, Any] = dict(
            tokens_mlp_dim=tokens_mlp_dim, channels_mlp_dim=channels_mlp_dim
        )
        super().__init__(num_tokens=num_tokens, hidden_dim=hidden_dim, **widths, **rest)
        gelu = rest.get("gelu", "exact")
        self.mlp_tokens = SleeplessMlp(dim=num_tokens, hidden_dim=tokens_mlp_dim, gelu=gelu)
        self.mlp_channels = SleeplessMlp(dim=hidden_dim, hidden_dim=channels_mlp_dim, gelu=gelu)


@disguised
class DefaultEpsilon(MixerBlock):
    """LayerNorm's epsilon is left at the library's default, 1e-5."""

    def __init__(self, *, hidden_dim: int, **sizes: Any):
        super().__init__(hidden_dim=hidden_dim, **sizes)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)


@disguised
class ColoursLast(Suspect):
    """The numbers of a patch are flattened pixel by pixel, not colour by colour."""

    def patchify(self, images: Tensor) -> Tensor:
        """``(b, in_channels, h, w) -> (b, S, P * P * in_channels)``."""
        p = self.patch_size
        return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (p1 p2 c)", p1=p, p2=p)


def _with_block(block: type[MixerBlock]) -> type[Suspect]:
    return disguised(type("Suspect", (Suspect,), {"block_class": block}))


Weights = Callable[[MlpMixer, MlpMixer], None]


def _same(suspect: MlpMixer, healthy: MlpMixer) -> None:
    suspect.load_state_dict(healthy.state_dict())


def _fresh(suspect: MlpMixer, healthy: MlpMixer) -> None:
    pass  # the healthy weights do not fit: random ones stay


def _reordered(suspect: MlpMixer, healthy: MlpMixer) -> None:
    # Columns of the stem in the suspect's order, so that it says what the healthy model says.
    stem = rearrange(embedding_filters(healthy), "c rgb p1 p2 -> c (p1 p2 rgb)")
    suspect.load_state_dict(healthy.state_dict() | {"stem.weight": stem})


Line = tuple[Callable[..., Any], str]  # a function, and words that only the line in question has


@dataclass(frozen=True)
class Bug:
    """One puzzle; what is said of code is looked up in the code.

    Attributes:
        model: the faulty class.
        weights: gives a suspect a healthy model's weights.
        wrong, right: where the faulty line is, and the one that should be there.
        title: the mistake, in one sentence.
        source: whose code had it.
        lesson: what would have caught it.
        hints: from vague to plain; none names the mistake.
    """

    model: type[Suspect]
    weights: Weights
    wrong: Line
    right: Line
    title: str
    source: str
    lesson: str
    hints: tuple[str, ...]


# What is said of each is in check/words/lesson8.toml: read, correct and translate it there.
_WORDS = Path(__file__).parent / "check" / "words" / "lesson8.toml"
_MADE: tuple[tuple[type[Suspect], Weights, Line, Line], ...] = (
    (
        _with_block(SwappedWidths),
        _fresh,
        (SwappedWidths.__init__, "super().__init__("),
        (MixerBlock.__init__, "self.mlp_tokens ="),
    ),
    (
        PatchesByReshape,
        _same,
        (PatchesByReshape.patchify, "return images.reshape("),
        (MlpMixer.patchify, "return rearrange("),
    ),
    (
        BlocksInAList,
        _fresh,
        (BlocksInAList.__init__, "self.blocks = list("),
        (MlpMixer.__init__, "self.blocks = nn.Sequential("),
    ),
    (
        _with_block(SkipFromTheStart),
        _same,
        (SkipFromTheStart.forward, "y = x + "),
        (MixerBlock.forward, "x = x + "),
    ),
    (
        _with_block(OneNorm),
        _same,
        (OneNorm.__init__, "self.norm2 = "),
        (MixerBlock.__init__, "self.norm2 = "),
    ),
    (
        _with_block(Sleepless),
        _same,
        (SleeplessMlp.forward, "F.dropout("),
        (MlpBlock.forward, "x = self.act("),
    ),
    (
        _with_block(DefaultEpsilon),
        _same,
        (DefaultEpsilon.__init__, "self.norm1 = "),
        (MixerBlock.__init__, "self.norm1 = "),
    ),
    (
        ColoursLast,
        _reordered,
        (ColoursLast.patchify, "return rearrange("),
        (MlpMixer.patchify, "return rearrange("),
    ),
)


def _bugs() -> Iterator[Bug]:
    said = tomllib.loads(_WORDS.read_text(encoding="utf-8"))["puzzles"]
    for number, made in enumerate(_MADE, start=1):
        words = said[str(number)]
        yield Bug(*made, **words | dict(hints=tuple(words["hints"])))


BUGS = tuple(_bugs())


def _bug(number: int) -> Bug:
    if isinstance(number, bool) or number not in range(1, len(BUGS) + 1):
        raise ValueError(f"Puzzles are numbered from 1 to {len(BUGS)}; there is no {number!r}.")
    return BUGS[number - 1]


def suspect(number: int, healthy: MlpMixer | None = None, *, seed: int = 0) -> MlpMixer:
    """A faulty twin of a healthy model, in eval mode.

    Args:
        number: of the puzzle, from 1.
        healthy: whose sizes, config and weights it has; the bundled ``mixer_nano_cifar10`` by
            default. Where the mistake leaves no room for the weights, they are random ones.
        seed: of the random weights; the global random state is left alone.

    Raises:
        ValueError: there is no such puzzle.
    """
    bug = _bug(number)
    healthy = healthy or load_pretrained(HEALTHY)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = bug.model(**arguments_of(healthy))
    model.to(healthy.stem.weight)  # its device and precision
    model.config = healthy.config
    bug.weights(model, healthy)
    return model.eval()


def mystery(seed: int) -> MlpMixer:
    """The bundled model with one mistake, in one block, both drawn by the seed.

    ``mysteries.KINDS`` lists the mistakes; ``check.culprit(seed, kind, block)`` says whether an
    answer is right. In eval mode.

    Raises:
        ValueError: the seed is no whole number.
    """
    from mixer_lite.mysteries import make  # which builds on this module

    return make(seed)


class Folded:
    """Text that a notebook shows folded, to be opened by a click; elsewhere it is plain text."""

    def __init__(self, title: str, text: str, markup: str):
        self.title, self.text, self.markup = title, text, markup

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        return f"<details><summary>{html.escape(self.title)}</summary>{self.markup}</details>"


_asked: dict[int, int] = {}  # hints given so far, by puzzle


def hint(number: int) -> Folded:
    """The next hint of a puzzle; after the last one it stays at that.

    Raises:
        ValueError: there is no such puzzle.
    """
    hints = _bug(number).hints
    step = _asked[number] = min(_asked.get(number, 0) + 1, len(hints))
    title = f"Puzzle {number}, hint {step} of {len(hints)}"
    more = "Call again for the next." if step < len(hints) else "There is no further one."
    text = f"{hints[step - 1]} ({more})"
    return Folded(title, f"{title}: {text}", f"<p>{html.escape(text)}</p>")


def _quoted(line: Line) -> str:
    # The one line of the function's source that contains the words, without its comment.
    function, words = line
    (found,) = (row for row in inspect.getsource(function).splitlines() if words in row)
    return found.split("  #")[0].strip()


def reveal(number: int) -> Folded:
    """The mistake: what it is, whose code had it, and the faulty line beside the right one.

    Raises:
        ValueError: there is no such puzzle.
    """
    bug = _bug(number)
    wrong, right = _quoted(bug.wrong), _quoted(bug.right)
    code = textwrap.dedent(inspect.getsource(bug.wrong[0])).rstrip()
    title = f"Puzzle {number}, the answer"
    text = "\n".join(
        [
            f"{title}: {bug.title}", f"    wrong: {wrong}", f"    right: {right}",
            f"What catches it: {bug.lesson}", f"Source: {bug.source}", "", code,
        ]
    )  # fmt: skip
    cells = "".join(
        f"<tr><th>{name}</th><td style='text-align: left'><code>{html.escape(line)}</code></td>"
        f"</tr>"
        for name, line in (("wrong", wrong), ("right", right))
    )
    markup = (
        f"<p>{html.escape(bug.title)}</p><table>{cells}</table>"
        f"<p>What catches it: {html.escape(bug.lesson)}</p>"
        f"<p>Source: {html.escape(bug.source)}</p><pre>{html.escape(code)}</pre>"
    )
    return Folded(title, text, markup)


def costs(epochs: int = 5) -> dict[int, dict[int, float]]:
    """Measured test accuracies, ``{puzzle: {seed: accuracy}}``; puzzle 0 is the healthy model.

    From ``data/bug_costs.csv``, which ``tools/bug_costs.py`` writes: all of CIFAR-10's test
    images, after the same short training of a small model.

    Args:
        epochs: 5 passes over 10,000 images, or 1 over 50,000 with a somewhat larger model.

    Raises:
        ValueError: nothing was measured with so many.
    """
    found: dict[int, dict[int, float]] = {}
    for row in read_table(data_path("bug_costs.csv")):
        if int(row["epochs"]) == epochs:
            found.setdefault(int(row["bug"]), {})[int(row["seed"])] = float(row["accuracy"])
    if not found:
        raise ValueError(f"Costs were measured after 1 pass and after 5, not after {epochs!r}.")
    return found
