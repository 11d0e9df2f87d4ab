"""The bug hunt: eight Mixers, each with one mistake that published code has had.

``suspect(n)`` gives a faulty model to examine, with a healthy one's weights where they fit;
``hint(n)`` a hint, the next one each time; ``reveal(n)`` the mistake, its source, and the faulty
line beside the right one. Names and ``repr`` of the models say nothing. Whoever wants to hunt
should not read on here.
"""

from __future__ import annotations

import html
import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from mixer_lite.filters import embedding_filters
from mixer_lite.model import MixerBlock, MlpBlock, MlpMixer
from mixer_lite.pretrained import load_pretrained
from mixer_lite.resources import data_path
from mixer_lite.runs import read_table

HEALTHY = "mixer_nano_cifar10"  # the bundled model whose twins the suspects are
C = TypeVar("C", bound=type)


def _disguised(cls: C) -> C:
    # A class, and its methods in turn, go by the name of what they imitate.
    imitated = next(base for base in cls.__mro__ if base.__module__ == MlpMixer.__module__)
    cls.__name__ = cls.__qualname__ = imitated.__name__
    for name, member in vars(cls).items():
        if inspect.isfunction(member):
            member.__qualname__ = f"{imitated.__name__}.{name}"
    return cls


@_disguised
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


@_disguised
class SwappedWidths(MixerBlock):
    """D_S and D_C change places."""

    def __init__(self, *, tokens_mlp_dim: int, channels_mlp_dim: int, **sizes: Any):
        super().__init__(tokens_mlp_dim=channels_mlp_dim, channels_mlp_dim=tokens_mlp_dim, **sizes)


@_disguised
class PatchesByReshape(Suspect):
    """Numbers are cut off in the order in which they lie in memory; no patch is a square."""

    def patchify(self, images: Tensor) -> Tensor:
        """``(b, in_channels, h, w) -> (b, S, in_channels * P * P)``."""
        return images.reshape(len(images), self.num_tokens, -1)


@_disguised
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


@_disguised
class SkipFromTheStart(MixerBlock):
    """The second skip connection starts at the block's input, so the first one leads nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        """``(b, S, C) -> (b, S, C)``."""
        y = rearrange(self.norm1(x), "b s c -> b c s")
        y = x + rearrange(self.mlp_tokens(y), "b c s -> b s c")
        return x + self.mlp_channels(self.norm2(y))  # (b, S, C)


@_disguised
class OneNorm(MixerBlock):
    """One LayerNorm serves both halves of the block."""

    def __init__(self, **sizes: Any):
        super().__init__(**sizes)
        self.norm2 = self.norm1


@_disguised
class SleeplessMlp(MlpBlock):
    """Dropout that ``eval()`` does not switch off."""

    def forward(self, x: Tensor) -> Tensor:
        """``(..., dim) -> (..., dim)``."""
        x = self.fc1(x)  # (..., dim) -> (..., hidden_dim)
        x = F.dropout(self.act(x), p=0.1)
        return self.fc2(x)  # (..., hidden_dim) -> (..., dim)


@_disguised
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


@_disguised
class DefaultEpsilon(MixerBlock):
    """LayerNorm's epsilon is left at the library's default, 1e-5."""

    def __init__(self, *, hidden_dim: int, **sizes: Any):
        super().__init__(hidden_dim=hidden_dim, **sizes)
        self.norm1 = nn.LayerNorm(hidden_dim)
        self.norm2 = nn.LayerNorm(hidden_dim)


@_disguised
class ColoursLast(Suspect):
    """The numbers of a patch are flattened pixel by pixel, not colour by colour."""

    def patchify(self, images: Tensor) -> Tensor:
        """``(b, in_channels, h, w) -> (b, S, P * P * in_channels)``."""
        p = self.patch_size
        return rearrange(images, "b c (gh p1) (gw p2) -> b (gh gw) (p1 p2 c)", p1=p, p2=p)


def _with_block(block: type[MixerBlock]) -> type[Suspect]:
    return _disguised(type("Suspect", (Suspect,), {"block_class": block}))


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
        title: the mistake, in one sentence.
        source: whose code had it.
        model: the faulty class.
        weights: gives a suspect a healthy model's weights.
        wrong, right: where the faulty line is, and the one that should be there.
        lesson: what would have caught it.
        hints: from vague to plain; none names the mistake.
    """

    title: str
    source: str
    model: type[Suspect]
    weights: Weights
    wrong: Line
    right: Line
    lesson: str
    hints: tuple[str, ...]


BUGS: tuple[Bug, ...] = (
    Bug(
        title="The hidden widths of the two MLPs, D_S and D_C, have changed places.",
        source="github.com/lucidrains/mlp-mixer-pytorch, issues 11, 13, 14 and 16: expansion "
        "factors are given to the wrong MLP, or reckoned from the wrong size.",
        model=_with_block(SwappedWidths),
        weights=_fresh,
        wrong=(SwappedWidths.__init__, "super().__init__("),
        right=(MixerBlock.__init__, "self.mlp_tokens ="),
        lesson="Count the parameters by hand, part by part, from the sizes that were ordered.",
        hints=(
            "You know from notebook 3 how many numbers each part of a Mixer should hold.",
            "Stem, norms and head have their due. Which two parts have not?",
            "Divide: how many hidden units would account for what each of the two MLPs holds?",
        ),
    ),
    Bug(
        title="Patches are cut with reshape: a token is a strip of one colour, not a square.",
        source="github.com/duoan/TorchCode, issue 21: the tests of an exercise on patches (for "
        "a Vision Transformer, whose patches are a Mixer's) accept exactly this line.",
        model=PatchesByReshape,
        weights=_same,
        wrong=(PatchesByReshape.patchify, "return images.reshape("),
        right=(MlpMixer.patchify, "return rearrange("),
        lesson="Paint one patch and see which tokens change; or shuffle patches and weights "
        "together, which a Mixer cannot notice.",
        hints=(
            "A shuffle of patches can be undone by a shuffle of weights. Here something moves "
            "that is not a patch.",
            "Change a single pixel. Which token notices? Then its neighbour to the right, and the "
            "pixel below.",
            "Number the pixels of an image 0, 1, 2, ... and look at the numbers in token 0.",
        ),
    ),
    Bug(
        title="The blocks are kept in a Python list, so they are not part of the model.",
        source="github.com/xmu-xiaoma666/External-Attention-pytorch, model/mlp/mlp_mixer.py, "
        "where blocks are appended to a list; a copy of it moves each to the GPU by hand.",
        model=BlocksInAList,
        weights=_fresh,
        wrong=(BlocksInAList.__init__, "self.blocks = list("),
        right=(MlpMixer.__init__, "self.blocks = nn.Sequential("),
        lesson="After one step of training, ask of every weight whether it has moved; and count "
        "the parameters.",
        hints=(
            "It learns, but only with part of itself.",
            "Keep a copy of each weight, train for a step, and compare. Which have not moved?",
            "An optimizer is given model.parameters(). Who gathers those, and in what places?",
        ),
    ),
    Bug(
        title="The second skip connection starts at the block's input, so token mixing reaches "
        "the output only through the channel-mixing MLP.",
        source="github.com/xmu-xiaoma666/External-Attention-pytorch, issue 23.",
        model=_with_block(SkipFromTheStart),
        weights=_same,
        wrong=(SkipFromTheStart.forward, "y = x + "),
        right=(MixerBlock.forward, "x = x + "),
        lesson="Silence one half of a block, and see in the Jacobian whether the other half is "
        "still heard.",
        hints=(
            "A block has two halves, and each should work when the other is silent.",
            "Silence a half: set fc2 of its MLP to zero, weights and bias. What is left?",
            "Draw the two routes from a block's input to its output. Where do they begin?",
        ),
    ),
    Bug(
        title="One LayerNorm serves both halves of a block.",
        source="github.com/vishal-burman/PyTorch-Architectures, "
        "modeling_MLPMixer/model_jax_port.py; External-Attention-pytorch has it too.",
        model=_with_block(OneNorm),
        weights=_same,
        wrong=(OneNorm.__init__, "self.norm2 = "),
        right=(MixerBlock.__init__, "self.norm2 = "),
        lesson="Compare values, with weights that training or a good shake has made different.",
        hints=(
            "Fresh weights hide it. What do all fresh weights of one kind have in common?",
            "Load the healthy weights, then ask the model for them back. Are all as they were?",
            "Count parameters to the last one. What in a Mixer comes in portions of that size?",
        ),
    ),
    Bug(
        title="Dropout stays awake in eval().",
        source="github.com/SJTU-DMTai/StockMixer, src/model.py, a Mixer for the prices of stocks: "
        "F.dropout without training=self.training (it sleeps there as long as its p is 0).",
        model=_with_block(Sleepless),
        weights=_same,
        wrong=(SleeplessMlp.forward, "F.dropout("),
        right=(MlpBlock.forward, "x = self.act("),
        lesson="Ask the same question twice.",
        hints=(
            "Mean evidence and bias make the logit, in any Mixer. Unless they come from two runs.",
            "Do the same thing twice. Do you get the same?",
            "Which layer throws dice, and who tells it to stop?",
        ),
    ),
    Bug(
        title="LayerNorm's epsilon is the library's default, 1e-5, where the weights were made "
        "with 1e-6.",
        source="github.com/open-mmlab/mmpretrain (its Mixer takes its norms' default) and "
        "lucidrains/mlp-mixer-pytorch, against the official code and timm, which say 1e-6.",
        model=_with_block(DefaultEpsilon),
        weights=_same,
        wrong=(DefaultEpsilon.__init__, "self.norm1 = "),
        right=(MixerBlock.__init__, "self.norm1 = "),
        lesson="Compare in float64, where rounding shrinks and a mistake does not.",
        hints=(
            "Rounding or mistake? More digits shrink the one and not the other.",
            "Follow both models step by step and stop at the first one where they part.",
            "A LayerNorm has one number that is in no file. It can be measured.",
        ),
    ),
    Bug(
        title="The numbers of a patch are flattened pixel by pixel (p1 p2 c) instead of colour "
        "by colour (c p1 p2).",
        source="github.com/lucidrains/mlp-mixer-pytorch, whose order this is. A convention and no "
        "mistake until weights travel: see lucidrains/vit-pytorch, issue 352.",
        model=ColoursLast,
        weights=_reordered,
        wrong=(ColoursLast.patchify, "return rearrange("),
        right=(MlpMixer.patchify, "return rearrange("),
        lesson="Look at the filters; and compare after weights have travelled into another "
        "implementation.",
        hints=(
            "Its answers are all right. Look at its weights.",
            "Compare the pictures of the two stems, channel by channel. Are the same 48 numbers "
            "there?",
            "Fold a row of the stem back to a patch in every order you can think of. In which do "
            "the two models agree?",
        ),
    ),
)


def _bug(number: int) -> Bug:
    if isinstance(number, bool) or number not in range(1, len(BUGS) + 1):
        raise ValueError(f"Puzzles are numbered from 1 to {len(BUGS)}; there is no {number!r}.")
    return BUGS[number - 1]


_SIZES = (
    "image_size", "patch_size", "num_classes", "num_blocks", "hidden_dim", "tokens_mlp_dim",
    "channels_mlp_dim", "in_channels", "gelu", "norm_eps",
)  # fmt: skip


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
        model = bug.model(**{name: getattr(healthy, name) for name in _SIZES})
    model.to(healthy.stem.weight)  # its device and precision
    model.config = healthy.config
    bug.weights(model, healthy)
    return model.eval()


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


def costs() -> dict[int, dict[int, float]]:
    """Measured test accuracies, ``{puzzle: {seed: accuracy}}``; puzzle 0 is the healthy model.

    From ``data/bug_costs.csv``, which ``tools/bug_costs.py`` writes: all of CIFAR-10's test
    images, after the same short training of a small model.
    """
    found: dict[int, dict[int, float]] = {}
    for row in read_table(data_path("bug_costs.csv")):
        found.setdefault(int(row["bug"]), {})[int(row["seed"])] = float(row["accuracy"])
    return found
