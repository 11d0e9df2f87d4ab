"""Checks of modules: the MLP, the Mixer block, the whole Mixer, by value on the learner's weights.

The learner's parameters, filled with random numbers, are read into our module, and the outputs
must agree. Where they do not, the same weights are read into copies of our module that are
broken on purpose, each in one foreseen way: the one that gives the learner's numbers names the
mistake.
"""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mixer_lite.checks.broken import EPS, OF_BLOCK, OF_MIXER, OF_MLP, Broken
from mixer_lite.checks.trial import Suspect, Trial, Wrong, exercise, fail, nearly_equal, shape_text
from mixer_lite.checks.weights import Key, count, draw_sizes, key, readings, shake, watch
from mixer_lite.model import MixerBlock, MlpBlock, MlpMixer


@dataclass
class _Compared:
    """One comparison of a learner's module with ours.

    Attributes:
        build: makes a new module of ours.
        x: the input.
        what, axes: the output in words.
        sizes: the letter of each size, for messages.
        kernel: ``(C, 3, P, P)`` where there is a stem.
        evidence: further lines.
    """

    t: Trial
    theirs: nn.Module
    build: Callable[[], nn.Module]
    x: Tensor
    what: str
    axes: str
    sizes: dict[str, int]
    kernel: tuple[int, ...] = ()
    evidence: tuple[str, ...] = ()

    def run(self, x: Tensor | None = None) -> Tensor:
        return self.t.tensor(self.t.call(self.theirs, self.x if x is None else x), self.what)

    def against(self, broken: Sequence[Broken]) -> None:
        """End the check unless the two agree; a broken copy that agrees names the mistake."""
        t, theirs = self.t, self.theirs
        theirs.eval()
        try:
            self._first_run()
        except Wrong as wrong:
            if wrong.finding.mistake == "raises":  # the sizes of the parameters may say why
                with contextlib.suppress(RuntimeError, ValueError):  # lazy layers have none yet
                    self._by_shape(broken, list(dict(theirs.named_parameters())), wrong)
            raise
        epsilons = _reset_eps(theirs)
        shake(theirs, t.generator)
        outs: list[Tensor] = []
        used, strangers = watch(theirs, lambda: outs.append(self.run()), self.x)
        out, again = outs[0], self.run()
        if out.shape == self.x.shape and nearly_equal(out, self.x):
            fail("returns its input", f"Your {type(theirs).__name__} returns its input unchanged.")
        if bool(torch.isfinite(out).all()) and not nearly_equal(again, out):
            fail(
                "random in eval mode",
                "In eval mode two runs on the same input gave different results. Is a dropout "
                "always on? nn.Dropout switches itself off in eval mode; F.dropout has to be "
                "told: training=self.training.",
            )
        first = None
        for want, reading in self._readings(self.build(), used, orders_of_pixels=6):
            if nearly_equal(out, want):
                self._last_questions(used, epsilons)
                return
            first = first or (want, reading)
        if first is None:
            self._not_registered(used, strangers)
        found = self._find(broken, used, out)
        if first is None:
            if found:
                fail(found.mistake, found.says, *self._told(used), *self._unused(used))
            self._by_shape(broken, used)
            self._wrong_parameters(used, out)
        assert first is not None
        if found is None and out.shape == first[0].shape and bool(torch.isfinite(out).all()):
            self._which_half(first[1])
        t.same(
            out,
            first[0],
            self.what,
            self.axes,
            [Suspect(found.mistake, out, found.says)] if found else [],
            *self.evidence,
            *self._unused(used),
            *(f"used, but not a parameter: a tensor of shape {s}" for s in strangers),
        )

    def _first_run(self) -> None:
        # Layers that find their sizes in the first run have them afterwards. A module that
        # turns its input to float32 is met halfway.
        self.theirs.to(self.x.dtype)
        try:
            self.run()
        except Wrong as wrong:
            if not any("dtype" in line for line in wrong.finding.evidence):
                raise
            self.theirs.float()
            self.x = self.x.float()
            self.run()

    def _readings(
        self, ours: nn.Module, used: Sequence[str], orders_of_pixels: int, all_ways: bool = True
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        # What our module gives with their weights, in each way to read them.
        params = dict(self.theirs.named_parameters())
        our_params = dict(ours.named_parameters())
        if count(our_params, list(our_params), self.kernel) != count(params, used, self.kernel):
            return
        x = self.x.to(torch.float64)
        order, _ = watch(ours, lambda: ours(x), x)
        ways = readings(params, used, our_params, order, self.kernel, orders_of_pixels)
        for i, reading in enumerate(ways):
            if not all_ways and i >= orders_of_pixels:
                return
            weights = {name: value.double() for name, value in reading.items()}
            yield functional_call(ours, weights, (x,)).detach(), reading

    def _find(self, broken: Sequence[Broken], used: Sequence[str], out: Tensor) -> Broken | None:
        for one in broken:
            ours = self.build()
            try:
                one.breaks(ours)
                values = self._readings(ours, used, orders_of_pixels=2, all_ways=False)
                if any(nearly_equal(out, value) for value, _ in values):
                    return one
            except (RuntimeError, ValueError, IndexError):  # sizes that this mistake cannot have
                continue
        return None

    # What to say where the parameters are not those of our module

    def _difference(self, used: Sequence[str]) -> tuple[Counter[Key], Counter[Key]]:
        ours = dict(self.build().named_parameters())
        need = count(ours, list(ours), self.kernel)
        have = count(dict(self.theirs.named_parameters()), used, self.kernel)
        return need - have, have - need

    def _told(self, used: Sequence[str]) -> list[str]:
        few, many = self._difference(used)
        lines = []
        for text, found in (("too few", few), ("too many", many)):
            told = ", ".join(f"{n} of {self._letters(k)}" for k, n in found.items())
            lines += [f"parameters that your forward pass uses, {text}: {told}"] if told else []
        return [*self.evidence, *lines]

    def _unused(self, used: Sequence[str]) -> list[str]:
        names = [name for name, _ in self.theirs.named_parameters() if name not in used]
        return [f"never used: {', '.join(names)}"] if names else []

    def _letters(self, sizes: Key) -> str:
        names = {n: letter for letter, n in self.sizes.items()}
        letters = " × ".join(names.get(n, str(n)) for n in sizes) or "1"
        return f"size {letters} ({' × '.join(map(str, sizes)) or '1'})"

    def _not_registered(self, used: Sequence[str], strangers: Sequence[Key]) -> None:
        few, _ = self._difference(used)
        hidden = [s for s in strangers if key(s, self.kernel) in few]
        if hidden:
            fail(
                "parameters not registered",
                f"Your forward pass uses weights that PyTorch does not know of: "
                f"{len(hidden)} of them, the first of shape {hidden[0]}, are not in "
                f"parameters(), so they would never be trained, saved or moved. Keep layers in "
                f"attributes, nn.ModuleList or nn.Sequential, not in a Python list; make them in "
                f"__init__, not in forward; and tensors of your own nn.Parameter.",
                *self._told(used),
            )

    def _by_shape(
        self, broken: Sequence[Broken], used: Sequence[str], wrong: Wrong | None = None
    ) -> None:
        params = dict(self.theirs.named_parameters())
        have = count(params, used, self.kernel)
        for one in broken:
            if not one.by_shape:
                continue
            ours = self.build()
            one.breaks(ours)
            mine = dict(ours.named_parameters())
            if count(mine, list(mine), self.kernel) == have:
                lines = wrong.finding.evidence if wrong else ()
                fail(one.mistake, one.says, *self._told(used), *lines)

    def _wrong_parameters(self, used: Sequence[str], out: Tensor) -> None:
        few, many = self._difference(used)
        c = key((self.sizes.get("C", 0),))
        if few == Counter({c: few[c]}) and few[c] and not many:
            says = (
                f"Your forward pass uses {few[c]} vectors of C numbers too few. A LayerNorm has "
                f"two, scale and shift: is one missing, or shared?"
            )
        elif not used:
            says = "Your forward pass uses no parameters at all."
        else:
            says = "The parameters that your forward pass uses have other sizes than they should."
        fail(
            "wrong parameters",
            says,
            *self._told(used),
            f"your result has shape {shape_text(out)}",
        )

    # What to say where the parameters are right and the numbers are not

    def _which_half(self, reading: dict[str, Tensor]) -> None:
        # The last layer of an MLP set to zero takes it out of the sum.
        def silenced(*mlps: str) -> bool:
            with torch.no_grad():
                for name, weight in reading.items():
                    if any(f"{mlp}.fc2." in name for mlp in mlps):
                        weight.zero_()
            weights = {name: value.double() for name, value in reading.items()}
            want = functional_call(self.build(), weights, (self.x.to(torch.float64),))
            return nearly_equal(self.run(), want.detach())

        if not any("mlp_channels" in name for name in reading):
            return
        kept = {name: weight.clone() for name, weight in reading.items()}
        only_tokens = silenced("mlp_channels")
        neither = silenced("mlp_channels", "mlp_tokens")
        with torch.no_grad():
            for name, weight in reading.items():
                weight.copy_(kept[name])
        only_channels = silenced("mlp_tokens")
        with torch.no_grad():
            for name, weight in reading.items():
                weight.copy_(kept[name])
        if not neither:
            fail(
                "wrong without its MLPs",
                "With both MLPs silenced (their last layers set to zero) "
                + (
                    "your model still gives other numbers: the mistake is in the stem, the skip "
                    "connections, the last LayerNorm, the mean or the head."
                    if self.kernel
                    else "a block gives back its input, and yours does not: the mistake is in the "
                    "skip connections, or in where you normalise."
                ),
                *self.evidence,
            )
        for fine, other, name in (
            (only_channels, only_tokens, "token"),
            (only_tokens, only_channels, "channel"),
        ):
            if fine and not other:
                if not self.kernel:
                    self._crossing(reading, name)
                fail(
                    f"wrong {name} mixing",
                    f"With the {name} MLP silenced (its last layer set to zero) your result is "
                    f"right, and with the other silenced it is not: the mistake is in the "
                    f"{name}-mixing half.",
                    *self.evidence,
                )

    def _crossing(self, reading: dict[str, Tensor], half: str) -> None:
        # Ends the check if the half that is wrong carries numbers where it must not.
        token, channel = 1, 1
        nudged = self.x.clone()
        nudged[0, token] = nudged[0, token].flip(0) + 1
        with torch.no_grad():
            for name, weight in reading.items():
                if ("mlp_channels" if half == "token" else "mlp_tokens") + ".fc2." in name:
                    weight.zero_()
            if half == "token":  # only one channel passes the LayerNorm
                reading["norm1.bias"].zero_()
                reading["norm1.weight"].zero_()[channel] = 1
        change = ((self.run(nudged) - nudged) - (self.run() - self.x)).abs()[0] > 1e-9  # (S, C)
        if half == "token":
            heard = [c for c in range(change.shape[1]) if c != channel and change[:, c].any()]
            if heard:
                fail(
                    "token mixing mixes channels",
                    f"Your token mixing mixes channels: with the channel MLP silenced and only "
                    f"channel {channel} let through the LayerNorm, changing token {token} changed "
                    f"channel {heard[0]} of the result.",
                    *self.evidence,
                )
        else:
            heard = [s for s in range(change.shape[0]) if s != token and change[s].any()]
            if heard:
                fail(
                    "channel mixing mixes tokens",
                    f"Your channel mixing mixes tokens: with the token MLP silenced, changing "
                    f"token {token} changed token {heard[0]} of the result.",
                    *self.evidence,
                )

    # What numbers alone do not tell

    def _last_questions(self, used: Sequence[str], epsilons: set[float]) -> None:
        name = type(self.theirs).__name__
        unused = self._unused(used)
        if unused:
            fail(
                "unused parameters",
                "The numbers are right, but some of your parameters have no part in them: remove "
                "the layers that forward does not use.",
                *unused,
            )
        if epsilons - {EPS}:
            told = ", ".join(f"{eps:g}" for eps in sorted(epsilons - {EPS}))
            fail(
                "eps",
                f"Everything is right but the eps of your LayerNorm: {told}. The Mixer's is 1e-06 "
                f"(nn.LayerNorm's own default is 1e-05): nn.LayerNorm(..., eps=1e-6).",
            )
        params = dict(self.theirs.named_parameters())
        frozen = [n for n in used if not params[n].requires_grad]
        if frozen:
            fail(
                "no gradient",
                "Some of your parameters are frozen (requires_grad is False), so that they could "
                "not be trained.",
                f"frozen: {', '.join(frozen)}",
            )
        out = self.t.call(self.theirs, self.x)
        told = (
            "Something in your forward pass stops the gradient: detach(), .data, torch.no_grad() "
            "or a new tensor made from old numbers. The layer could not be trained."
        )
        if not out.requires_grad:
            fail("no gradient", told, f"the result of your {name} does not require grad")
        grads = torch.autograd.grad(
            out.square().sum(), [params[n] for n in used], allow_unused=True
        )
        blind = [n for n, grad in zip(used, grads, strict=True) if grad is None]
        if blind:
            fail("no gradient", told, f"no gradient reaches {', '.join(blind)}")


def _reset_eps(module: nn.Module) -> set[float]:
    # Every LayerNorm to our eps, so that other mistakes show by themselves; theirs are returned.
    found = set()
    for norm in module.modules():
        if isinstance(norm, nn.LayerNorm):
            found.add(float(norm.eps))
            norm.eps = EPS
    return found


def _made(t: Trial, answer: Any, **sizes: Any) -> nn.Module:
    # The learner's module of these sizes.
    if isinstance(answer, nn.Module):
        fail(
            "an instance",
            f"Give the check the class itself: {type(answer).__name__}, without calling it. It "
            f"makes modules of its own sizes.",
        )
    module = t.call(answer, **sizes)
    if not isinstance(module, nn.Module):
        fail(
            "not a module",
            f"Called with sizes, your answer should give an nn.Module, not a "
            f"{type(module).__name__}.",
        )
    forward = inspect.getattr_static(type(module), "forward", None)
    if (getattr(forward, "__module__", None) or "").split(".")[0] == "mixer_lite":
        fail("not your own", "This is the course's own module. Write yours, and check that.")
    return module


@exercise(
    lesson="2 Two ways to mix",
    takes="MlpBlock(dim=, hidden_dim=), a module over the last axis: (b, n, dim) -> (b, n, dim)",
    hints=(
        "An MLP of the Mixer has two linear layers. From which width to which leads the first, "
        "and from which to which must the second lead, if the result is to have the input's "
        "shape?",
        "Between the two stands a nonlinearity: GELU, the exact one. What comes after the second "
        "layer? Nothing.",
        "`nn.Linear` acts on the last axis and leaves the others alone, so forward needs no "
        "rearranging: three calls, one after the other.",
    ),
)
def mlp_block(t: Trial, answer: Any) -> None:
    """``MlpBlock(dim=, hidden_dim=)``, a module ``(b, n, dim) -> (b, n, dim)``.

    Two linear layers with biases, ``dim -> hidden_dim -> dim``, and an exact GELU between them.
    No LayerNorm, no skip connection, no dropout in eval mode.
    """
    torch.set_default_dtype(torch.float64)
    for _ in range(t.rounds):
        b, n, dim, hidden = t.sizes(4, 2, 9)
        module = _made(t, answer, dim=dim, hidden_dim=hidden)
        x = t.randn(b, n, dim)
        compared = _Compared(
            t,
            module,
            partial(MlpBlock, dim=dim, hidden_dim=hidden),
            x,
            "the MLP's result",
            "(b, n, dim)",
            dict(dim=dim, hidden_dim=hidden),
            evidence=(f"dim={dim}, hidden_dim={hidden}, x of shape {tuple(x.shape)}",),
        )
        try:
            compared.against(OF_MLP)
        except Wrong as wrong:
            if wrong.finding.mistake in (
                "raises",
                "wrong shape",
                "wrong values",
                "wrong parameters",
            ):
                _other_axis(t, module, compared.x)
                _rows_mixed(t, module, compared.x[:1])
            raise


def _other_axis(t: Trial, module: nn.Module, x: Tensor) -> None:
    turned = x.mT.contiguous()
    try:
        fits = t.tensor(t.call(module, turned), "the MLP's result").shape == turned.shape
    except Wrong:
        return
    if fits:
        fail(
            "wrong axis",
            "Your module works along axis 1; it should work along the last axis, as nn.Linear "
            "does, whatever stands before it.",
            f"it takes {tuple(turned.shape)}, and it should take {tuple(x.shape)}",
        )


def _rows_mixed(t: Trial, module: nn.Module, x: Tensor) -> None:
    # An MLP over the last axis treats every row by itself.
    try:
        heard = t.moved(module, x, "the MLP's result")  # (1, n, dim, 1, n, dim)
    except Wrong:
        return
    if heard.shape != (*x.shape, *x.shape):
        return
    for out_row in range(x.shape[1]):
        for in_row in range(x.shape[1]):
            if out_row != in_row and bool(heard[0, out_row, :, 0, in_row].any()):
                fail(
                    "rows mixed",
                    f"Your MLP mixes rows: changing row {in_row} of its input changed row "
                    f"{out_row} of its result. It should treat each row by itself.",
                )


@exercise(
    lesson="2 Two ways to mix",
    takes="MixerBlock(num_tokens=, hidden_dim=, tokens_mlp_dim=, channels_mlp_dim=), a module "
    "(b, S, C) -> (b, S, C)",
    hints=(
        "A block has two halves, and each has three things: a LayerNorm, an MLP and a skip "
        "connection. In which order? What is added to what?",
        "Both halves look like `x + something(norm(x))`, with a norm of their own (`eps=1e-6`). "
        "`LayerNorm` always runs over the C channels of a token, in the token half too.",
        "`MlpBlock` works on the last axis. For token mixing the tokens must become the last axis "
        "and go back afterwards: write the two einops patterns with the letters b, s, c.",
        "The token MLP goes from S to D_S and back, the channel MLP from C to D_C and back.",
    ),
)
def mixer_block(t: Trial, answer: Any) -> None:
    """``MixerBlock(num_tokens=, hidden_dim=, tokens_mlp_dim=, channels_mlp_dim=)``.

    A module ``(b, S, C) -> (b, S, C)``: LayerNorm (eps 1e-6), token-mixing MLP and skip
    connection, then LayerNorm, channel-mixing MLP and skip connection.
    """
    torch.set_default_dtype(torch.float64)
    for _ in range(t.rounds):
        s, c, d_s, d_c = t.sizes(4, 4, 12)
        sizes: dict[str, Any] = dict(
            num_tokens=s, hidden_dim=c, tokens_mlp_dim=d_s, channels_mlp_dim=d_c
        )
        x = t.randn(t.random.randint(2, 3), s, c)
        _Compared(
            t,
            _made(t, answer, **sizes),
            partial(MixerBlock, **sizes),
            x,
            "the block's result",
            "(b, S, C)",
            dict(S=s, C=c, D_S=d_s, D_C=d_c),
            evidence=(f"S = {s}, C = {c}, D_S = {d_s}, D_C = {d_c}",),
        ).against(OF_BLOCK)


@exercise(
    lesson="3 The whole Mixer",
    takes="Mixer(image_size=(height, width), patch_size=, num_classes=, num_blocks=, "
    "hidden_dim=, tokens_mlp_dim=, channels_mlp_dim=), a module (b, 3, h, w) -> (b, num_classes)",
    hints=(
        "Five stages: cut and embed the patches, run the blocks, normalise, take a mean, classify. "
        "Write the shape after each of them first.",
        "How many tokens are there? Height and width of the image may differ, and so may the two "
        "sides of the grid. Tokens stand in reading order.",
        "The blocks are `num_blocks` *different* blocks, in an `nn.Sequential` or "
        "`nn.ModuleList`. `[block] * n` would be one block, n times.",
        "After the blocks: a LayerNorm (`eps=1e-6`) over each token, then the mean over the "
        "tokens, then a linear layer. What it gives are the logits, without softmax.",
    ),
)
def mixer(t: Trial, answer: Any) -> None:
    """``Mixer(...)`` with the arguments of :class:`mixer_lite.MlpMixer`.

    ``image_size=(height, width), patch_size=, num_classes=, num_blocks=, hidden_dim=,
    tokens_mlp_dim=, channels_mlp_dim=`` give a module ``(b, 3, h, w) -> (b, num_classes)``:
    stem, blocks, LayerNorm (eps 1e-6), mean over the tokens, linear head. The stem may be a
    convolution or a matrix, with a patch's pixels in any order.
    """
    torch.set_default_dtype(torch.float64)
    for i in range(t.rounds):
        sizes = draw_sizes(t, num_blocks=2 + i % 2)
        (h, w), p = sizes["image_size"], sizes["patch_size"]
        letters = {
            "S": h // p * (w // p),
            "C": sizes["hidden_dim"],
            "D_S": sizes["tokens_mlp_dim"],
            "D_C": sizes["channels_mlp_dim"],
            "3·P·P": 3 * p * p,
            "classes": sizes["num_classes"],
        }
        _Compared(
            t,
            _made(t, answer, **sizes),
            partial(MlpMixer, **sizes),
            t.randn(2, 3, h, w),
            "the logits",
            "(b, num_classes)",
            letters,
            kernel=(letters["C"], 3, p, p),
            evidence=(
                f"a grid of {h // p} × {w // p} patches of {p} × {p} pixels, "
                f"num_blocks = {sizes['num_blocks']}",
                ", ".join(f"{letter} = {n}" for letter, n in letters.items()),
            ),
        ).against(OF_MIXER)
