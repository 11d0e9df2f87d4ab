"""Which mistake, or which two, of a table give a learner's module its sizes and its numbers."""

from __future__ import annotations

import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixer_lite.check.engine.broken import Way, switched
from mixer_lite.check.engine.exercise import Row
from mixer_lite.check.engine.trial import nearly_equal
from mixer_lite.check.engine.weights import Key, count

Keys = tuple[str, ...]
Reading = dict[str, Tensor]
IMPOSSIBLE = (RuntimeError, ValueError, IndexError, AttributeError, TypeError)  # with these sizes


@dataclass
class Search:
    """A table of mistakes, and how our module is read.

    Attributes:
        build: makes a new module of ours.
        rows: mistakes that may come in twos.
        alone: mistakes that are looked for alone.
        first: those of ``rows`` that are made before any other, because they make layers.
        have: the sizes that the learner's parameters have.
        kernel: as in :func:`count`.
        read: gives ways to read the learner's parameters as those of a module of ours.
        run: our module's result.
    """

    build: Callable[[], nn.Module]
    rows: Sequence[Row]
    alone: Sequence[Row]
    first: Sequence[Row]
    have: Counter[Key]
    kernel: tuple[int, ...]
    read: Callable[[nn.Module], Iterator[Reading]]
    run: Callable[[nn.Module], Tensor]

    def __post_init__(self) -> None:
        self.bases = list(self._bases())

    def _bases(self) -> Iterator[tuple[Keys, nn.Module]]:
        # Our module with one or two mistakes in its layers, where that gives the sizes of theirs.
        plain = self.build()
        need = self._count(plain)
        if need == self.have:
            yield (), plain
        layers = [row for row in self.rows if not isinstance(row[1], Way)]
        off: dict[str, Counter[Key]] = {}
        for row in [*layers, *(row for row in self.alone if not isinstance(row[1], Way))]:
            if model := self._broken(row):
                found = self._count(model)
                if found == self.have:
                    yield (row[0],), model
                found.subtract(need)
                off[row[0]] = found
        missing = Counter(self.have)
        missing.subtract(need)
        if not any(missing.values()):
            return
        for one, two in itertools.combinations(layers, 2):
            if one[0] not in off or two[0] not in off or not any(off[two[0]].values()):
                continue
            both = Counter(off[one[0]])
            both.update(off[two[0]])
            if one in self.first or _same(both, missing):
                model = self._broken(one, two)
                if model and self._count(model) == self.have:
                    yield (one[0], two[0]), model

    def _broken(self, *rows: Row) -> nn.Module | None:
        model = self.build()
        try:
            for _, breaks in rows:
                breaks(model)
        except IMPOSSIBLE:
            return None
        return model

    def _count(self, model: nn.Module) -> Counter[Key]:
        own = dict(model.named_parameters())
        return count(own, list(own), self.kernel)

    def by_value(self, out: Tensor) -> Keys | None:
        """The mistake, or the two, with which our module gives this result."""
        ways = [row for row in self.rows if isinstance(row[1], Way)]
        every = [*ways, *(row for row in self.alone if isinstance(row[1], Way))]
        for total in (1, 2):
            for keys, model in self.bases:
                n = total - len(keys)
                if n < 0 or (n == 0 and len(keys) != total):
                    continue
                some = itertools.combinations(every if total == 1 else ways, n)
                if (found := self._among(model, list(some), out)) is not None:
                    return keys + found
        return None

    def _among(
        self, model: nn.Module, several: Sequence[tuple[Row, ...]], out: Tensor
    ) -> Keys | None:
        # Which switches give this result; those that change the order of use are read again.
        straight = [some for some in several if not any(row[1].reorders for row in some)]
        for reading in self._readings(model):
            _load(model, reading)
            for some in straight:
                if self._gives(model, some, out):
                    return tuple(name for name, _ in some)
        for some in several:
            if some not in straight and self._gives(model, some, out, again=True):
                return tuple(name for name, _ in some)
        return None

    def _gives(
        self, model: nn.Module, some: Sequence[Row], out: Tensor, again: bool = False
    ) -> bool:
        with contextlib.suppress(*IMPOSSIBLE), switched(model, [way for _, way in some]):
            for reading in self._readings(model) if again else [None]:
                if reading:
                    _load(model, reading)
                if nearly_equal(out, self.run(model)):
                    return True
        return False

    def _readings(self, model: nn.Module) -> list[Reading]:
        try:
            return list(itertools.islice(self.read(model), 2))
        except IMPOSSIBLE:
            return []

    def by_sizes(self) -> list[Keys]:
        """The mistakes that leave parameters of these sizes: each name once, single ones first."""
        found: dict[frozenset[str], Keys] = {}
        for keys, _ in self.bases:
            if keys:
                found.setdefault(frozenset(key.partition(":")[0] for key in keys), keys)
        return sorted(found.values(), key=len)


def _same(one: Counter[Key], other: Counter[Key]) -> bool:
    return all(one[key] == other[key] for key in (*one, *other))


@torch.no_grad()
def _load(model: nn.Module, reading: Reading) -> None:
    for name, own in model.named_parameters():
        own.copy_(reading[name])
