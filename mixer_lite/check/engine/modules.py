"""Checking modules by value, on the learner's own weights.

The learner's parameters, filled with random numbers, are read into our module, and the outputs
must agree. Where they do not, the same weights are read into copies of our module that are
broken on purpose, each in one foreseen way: the one that gives the learner's numbers names the
mistake. So a row of a table of such mistakes is ``(name, what breaks our module, in place)``.
"""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mixer_lite.check.engine.compare import shape_text
from mixer_lite.check.engine.exercise import Row
from mixer_lite.check.engine.search import Search
from mixer_lite.check.engine.trial import Foreseen, Trial, Wrong, nearly_equal
from mixer_lite.check.engine.weights import Key, count, key, readings, shake, watch

EPS = 1e-6  # of every LayerNorm
OTHER_EPS = (1e-5, 1e-3, 1e-7, 1e-8, 1e-12, 0.0)  # that are written by hand
HARMLESS_EPS = 1e-4  # up to this there is only a remark


@dataclass
class Compared:
    """One comparison of a learner's module with ours.

    Attributes:
        build: makes a new module of ours.
        x: the input.
        mistakes: the table.
        letters: the letter of each size, for messages.
        alone: rows that are looked for alone; two of ``mistakes`` may go wrong together.
        first: rows of ``mistakes`` that are made before any other, because they make layers.
        kernel: ``(C, 3, P, P)`` where there is a stem.
    """

    t: Trial
    theirs: nn.Module
    build: Callable[[], nn.Module]
    x: Tensor
    mistakes: Sequence[Row]
    letters: dict[str, int]
    alone: Sequence[Row] = ()
    first: Sequence[Row] = ()
    kernel: tuple[int, ...] = ()

    def run(self, x: Tensor | None = None) -> Tensor:
        """Their result."""
        return self.t.tensor(self.t.call(self.theirs, self.x if x is None else x))

    def against_ours(self) -> None:
        """End the check unless the two agree; a broken copy that agrees names the mistake."""
        t, theirs = self.t, self.theirs
        theirs.eval()
        try:
            self._first_run()
        except Wrong as wrong:
            if wrong.finding.mistake == "raises":  # the sizes of the parameters may say why
                with contextlib.suppress(RuntimeError, ValueError):  # lazy layers have none yet
                    every = list(dict(theirs.named_parameters()))
                    fit = self._search(every).by_sizes()
                    self._by_shape(fit, *self._told(every), *wrong.finding.evidence)
            raise
        epsilons = _reset_eps(theirs)
        shake(theirs, t.generator)
        outs: list[Tensor] = []
        used, strangers = watch(theirs, lambda: outs.append(self.run()), self.x)
        out, again = outs[0], self.run()
        if out.shape == self.x.shape and nearly_equal(out, self.x):
            t.fail("returns its input", kind=type(theirs).__name__)
        if bool(torch.isfinite(out).all()) and not nearly_equal(again, out):
            t.fail("random in eval mode" + ": made in forward" * bool(strangers))
        first = None
        for want, reading in self._readings(self.build(), used, orders_of_pixels=6):
            if nearly_equal(out, want):
                self._last_questions(used, epsilons)
                return
            first = first or (want, reading)
        if first is None:
            self._not_registered(used, strangers)
        for eps in OTHER_EPS if first else ():
            ours = self.build()
            _reset_eps(ours, eps)
            near = itertools.islice(self._readings(ours, used, 2), 2)
            if any(nearly_equal(out, want) for want, _ in near):
                self._last_questions(used, epsilons | {eps})
                return
        if first:  # the search takes long for large modules
            t.so_far = t.finding(("too large to say",), *t.told())
        search = self._search(used)
        found = search.by_value(out)
        unused = self._unused(used)
        if first is None:
            if found:
                self._name(found, *self._told(used), *unused)
            self._by_shape(search.by_sizes(), *self._told(used))
            self._wrong_parameters(used, out)
        assert first is not None
        if found is None and out.shape == first[0].shape and bool(torch.isfinite(out).all()):
            self._which_half(first[1])
        hidden = [t.line("stranger", shape=s) for s in strangers]
        known = [Foreseen(found, out, self._fill(found))] if found else []
        t.same(out, first[0], known, *t.told(), *unused, *hidden)

    def _first_run(self) -> None:
        # Lazy layers find their sizes in this first run. A module that turns its input to float32
        # gets float32.
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
        self, ours: nn.Module, used: Sequence[str], orders_of_pixels: int
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        # What our module gives with their weights, in each way to read them.
        x = self.x.to(torch.float64)
        for reading in self._ways(ours, used, orders_of_pixels):
            weights = {name: value.double() for name, value in reading.items()}
            yield functional_call(ours, weights, (x,)).detach(), reading

    def _ways(
        self, ours: nn.Module, used: Sequence[str], orders_of_pixels: int
    ) -> Iterator[dict[str, Tensor]]:
        params, our_params = (dict(m.named_parameters()) for m in (self.theirs, ours))
        if count(our_params, list(our_params), self.kernel) != count(params, used, self.kernel):
            return
        x = self.x.to(torch.float64)
        order, _ = watch(ours, lambda: ours(x), x)
        yield from readings(params, used, our_params, order, self.kernel, orders_of_pixels)

    # Which mistake it is

    def _search(self, used: Sequence[str]) -> Search:
        have = count(dict(self.theirs.named_parameters()), used, self.kernel)
        x = self.x.to(torch.float64)

        def run(ours: nn.Module) -> Tensor:
            with torch.no_grad():
                return ours(x)

        def read(ours: nn.Module) -> Iterator[dict[str, Tensor]]:
            return self._ways(ours, used, orders_of_pixels=2)

        table = (self.mistakes, self.alone, self.first)
        return Search(self.build, *table, have, self.kernel, read, run)

    def _by_shape(self, fit: Sequence[tuple[str, ...]], *lines: str) -> None:
        # Sizes of parameters prove a mistake if no other mistake gives the same sizes.
        single = [keys for keys in fit if len(keys) == 1]
        likely = fit if len(fit) <= 2 else single
        besides = self.t.line("by sizes")
        if len(likely) == 1:
            self._name(likely[0], *lines, besides)
        if len(likely) == 2:
            one, other = (self.t.finding(k, **self._fill(k)).says for k in likely)
            found = self.t.finding(likely[0], *lines, besides, **self._fill(likely[0]))
            raise Wrong(replace(found, says=self.t.line("either", one=one, other=other)))

    def _name(self, keys: tuple[str, ...], *lines: str) -> None:
        raise Wrong(self.t.finding(keys, *lines, **self._fill(keys)))

    def _fill(self, keys: Sequence[str]) -> dict[str, str]:
        # Which MLP it is, from "mistake: tokens" or "mistake: first, tokens".
        which = keys[0].replace(",", ":").rpartition(": ")[2]
        known = which in ("tokens", "channels", "both")
        return dict(mlp=self.t.line(which if known else "mlp"))

    # What to say where the parameters are not those of our module

    def _difference(self, used: Sequence[str]) -> tuple[Counter[Key], Counter[Key]]:
        ours = dict(self.build().named_parameters())
        need = count(ours, list(ours), self.kernel)
        have = count(dict(self.theirs.named_parameters()), used, self.kernel)
        return need - have, have - need

    def _told(self, used: Sequence[str]) -> list[str]:
        lines = self.t.told()
        for side, found in zip(("few", "many"), self._difference(used), strict=True):
            told = ", ".join(self._sizes(k, n) for k, n in found.items())
            lines += [self.t.line(side, told=told)] if told else []
        return lines

    def _sizes(self, sizes: Key, n: int) -> str:
        names = {size: letter for letter, size in self.letters.items()}
        letters = " × ".join(names.get(size, str(size)) for size in sizes) or "1"
        numbers = " × ".join(map(str, sizes)) or "1"
        return self.t.line("size", n=n, letters=letters, sizes=numbers)

    def _unused(self, used: Sequence[str]) -> list[str]:
        names = [name for name, _ in self.theirs.named_parameters() if name not in used]
        return [self.t.line("unused", names=", ".join(names))] if names else []

    def _not_registered(self, used: Sequence[str], strangers: Sequence[Key]) -> None:
        few, _ = self._difference(used)
        hidden = [s for s in strangers if key(s, self.kernel) in few]
        if hidden:
            lines = self._told(used)
            self.t.fail("parameters not registered", *lines, n=len(hidden), shape=hidden[0])

    def _vectors_missing(self, used: Sequence[str]) -> int:
        few, many = self._difference(used)
        c = key((self.letters.get("C", 0),))
        return few[c] if few == Counter({c: few[c]}) and not many else 0

    def _wrong_parameters(self, used: Sequence[str], out: Tensor) -> None:
        few, many = self._difference(used)
        n = self._vectors_missing(used)
        which = (
            ": vectors" if n else ": none" if not used else ": missing" if few and not many else ""
        )
        shape = self.t.line("your shape", shape=shape_text(out))
        self.t.fail(f"wrong parameters{which}", *self._told(used), shape, n=n)

    # What to say where the parameters are right and the numbers are not

    def _which_half(self, reading: dict[str, Tensor]) -> None:
        # The last layer of an MLP set to zero takes it out of the sum.
        if not any("mlp_channels" in name for name in reading):
            return
        kept = {name: weight.clone() for name, weight in reading.items()}

        def right_without(*mlps: str) -> bool:
            self._silence(reading, *mlps)
            weights = {name: value.double() for name, value in reading.items()}
            want = functional_call(self.build(), weights, (self.x.to(torch.float64),))
            try:
                return nearly_equal(self.run(), want.detach())
            finally:
                with torch.no_grad():
                    for name, weight in reading.items():
                        weight.copy_(kept[name])

        without = {"tokens": right_without("mlp_tokens"), "channels": right_without("mlp_channels")}
        if not right_without("mlp_tokens", "mlp_channels"):
            self.t.fail("wrong without its MLPs", *self.t.told())
        for half, other in (("tokens", "channels"), ("channels", "tokens")):
            if without[half] and not without[other]:
                if not self.kernel:
                    self._crossing(reading, half)
                self.t.fail(f"wrong {half[:-1]} mixing", *self.t.told())

    @staticmethod
    @torch.no_grad()
    def _silence(reading: dict[str, Tensor], *mlps: str) -> None:
        for name, weight in reading.items():
            if any(f"{mlp}.fc2." in name for mlp in mlps):
                weight.zero_()

    def _crossing(self, reading: dict[str, Tensor], half: str) -> None:
        # Ends the check if the wrong half carries numbers where it must not.
        token, channel = 1, 1
        nudged = self.x.clone()
        nudged[0, token] = nudged[0, token].flip(0) + 1
        self._silence(reading, "mlp_channels" if half == "tokens" else "mlp_tokens")
        if half == "tokens":  # only one channel passes the LayerNorm
            with torch.no_grad():
                reading["norm1.bias"].zero_()
                reading["norm1.weight"].zero_()[channel] = 1
        change = ((self.run(nudged) - nudged) - (self.run() - self.x)).abs()[0] > 1e-9  # (S, C)
        places = dict(token=token, channel=channel)
        if half == "tokens":
            heard = [c for c in range(change.shape[1]) if c != channel and change[:, c].any()]
        else:
            heard = [s for s in range(change.shape[0]) if s != token and change[s].any()]
        if heard:
            mixed = "mixes channels" if half == "tokens" else "mixes tokens"
            self.t.fail(f"{half[:-1]} mixing {mixed}", *self.t.told(), heard=heard[0], **places)

    # What numbers alone do not tell

    def _last_questions(self, used: Sequence[str], epsilons: set[float]) -> None:
        t, kind = self.t, type(self.theirs).__name__
        unused = self._unused(used)
        if unused:
            t.fail("unused parameters", *unused)
        if epsilons - {EPS}:
            told = ", ".join(f"{eps:g}" for eps in sorted(epsilons - {EPS}))
            if max(epsilons) > HARMLESS_EPS:
                t.fail("eps", told=told)
            t.remarks.append(t.line("eps", told=told))
        params = dict(self.theirs.named_parameters())
        frozen = [n for n in used if not params[n].requires_grad]
        if frozen:
            t.fail("no gradient: frozen", t.line("frozen", names=", ".join(frozen)))
        out = t.call(self.theirs, self.x)
        if not out.requires_grad:
            t.fail("no gradient", t.line("no grad", kind=kind))
        wanted = [params[n] for n in used]
        try:
            grads = torch.autograd.grad(out.square().sum(), wanted, allow_unused=True)
        except RuntimeError as error:
            t.fail("overwrites what backward needs", str(error).split("\n")[0][:300])
        blind = [n for n, grad in zip(used, grads, strict=True) if grad is None]
        if blind:
            t.fail("no gradient", t.line("blind", names=", ".join(blind)))


def _reset_eps(module: nn.Module, eps: float = EPS) -> set[float]:
    # Every LayerNorm to this eps, so that other mistakes show by themselves; theirs are returned.
    found = set()
    for norm in module.modules():
        if isinstance(norm, nn.LayerNorm):
            found.add(float(norm.eps))
            norm.eps = eps
    return found
