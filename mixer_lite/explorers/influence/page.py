"""Point at a patch and see whom it listens to, in one block or through the whole network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import traitlets
from torch import Tensor

from mixer_lite.explain import average, influence
from mixer_lite.explorers.base import (
    answering_code,
    in_range,
    notebook_code,
    packed,
    page_code,
    page_style,
)
from mixer_lite.explorers.photographs import Opener
from mixer_lite.figures.drawing import Picture
from mixer_lite.figures.reasons import plot_influence
from mixer_lite.images import ImageSource, as_list, preprocess, unnormalize
from mixer_lite.model import MlpMixer
from mixer_lite.prediction import known_config

SMALL = 10_000  # S * C up to which whole matrices take a second or two
ROWS = 4  # of a larger model's matrix between two updates of the page


class InfluenceExplorer(Opener):
    """What :func:`explore_influence` returns. Its traits are what a reader chooses.

    Attributes:
        block: from 0.
        whole: the whole network instead of one block.
        direction: ``"listens"``: whom the chosen patch listens to, its row of the matrix;
            ``"heard"``: who listens to it, its column.
        row, column: of the chosen patch on the grid, from 0.
        one_scale: colours on one scale for all patches, instead of each map on its own.
        message: why the last file was not opened, or empty.

    To set ``block``, ``whole``, ``row`` or ``column`` computes what is not known yet: in a small
    model (S C at most 10,000) all patches at once, in a larger one the chosen patch's row, which
    takes a second or more. :meth:`compute` fetches the rest.
    """

    _page = page_code("influence")
    _css = page_style("influence")
    _answering = answering_code("influence")
    _esm = notebook_code(_page, _answering)
    title = "Whom patches listen to"

    block = traitlets.Int(0).tag(sync=True)
    whole = traitlets.Bool(False).tag(sync=True)
    direction = traitlets.Enum(("listens", "heard"), "listens").tag(sync=True)
    row = traitlets.Int(0).tag(sync=True)
    column = traitlets.Int(0).tag(sync=True)
    one_scale = traitlets.Bool(False).tag(sync=True)

    # For the page alone.
    _sizes = traitlets.Dict().tag(sync=True)
    _count = traitlets.Int(1).tag(sync=True)  # photographs whose numbers are averaged
    _image = traitlets.Dict().tag(sync=True)  # as the model sees it: (h, w, 3)
    _maps = traitlets.Dict().tag(sync=True)  # block or "whole" -> (S, S); NaN: not yet known
    _exact: traitlets.List = traitlets.List().tag(sync=True)  # rows of "whole", if not estimates
    _busy = traitlets.Unicode().tag(sync=True)
    _asked = traitlets.Int(0).tag(sync=True)  # grows when the page asks for all patches

    def __init__(
        self,
        model: MlpMixer,
        image: ImageSource | Sequence[ImageSource],
        probes: int | None,
        **state: Any,
    ):
        self._network, self._config, self._probes = model, known_config(model), probes
        self._small = model.num_tokens * model.hidden_dim <= SMALL
        sizes = dict(grid=list(model.grid_size), blocks=model.num_blocks, probes=probes)
        super().__init__(_sizes=sizes, **state)
        self._look_at(image)
        self.observe(self._answer, ["block", "whole", "row", "column"])
        self.observe(lambda _: self.compute(), "_asked")

    def _look_at(self, image: ImageSource | Sequence[ImageSource]) -> None:
        config = self._config
        images = as_list(image)
        if not images:
            raise ValueError("Give at least one image.")
        batch = preprocess(images, config)
        self._input = batch.to(self._network.stem.weight)  # (n, 3, h, w)
        self._count = len(batch)
        self._known: dict[str, Tensor] = {}
        self._maps = {}
        seen = unnormalize(batch, config)  # (n, h, w, 3)
        self._image = packed(seen.mean(axis=0).round().astype(np.uint8))
        if self._small:
            for block in range(self._network.num_blocks):
                self._fill(str(block), range(self._network.num_tokens))
        self._answer()

    def _take(self, file: IO[bytes], label: str) -> None:
        self._look_at(file)

    def _live_network(self) -> MlpMixer | None:
        return self._network

    @property
    def token(self) -> int:
        """The chosen patch's number, in reading order from 0."""
        return self.row * self._network.grid_size[1] + self.column

    @property
    def matrix(self) -> Tensor:
        """What ``explain.influence`` gives for the chosen block or the whole: ``(S, S)``.

        Of several photographs it is their mean.

        Rows that nobody has asked for are NaN: see :meth:`compute`.
        """
        return self._known[self._key].clone()

    def compute(self) -> None:
        """Compute the whole matrix of what is chosen now; S times the cost of one patch."""
        self._fill(self._key, range(self._network.num_tokens))

    def figure(self) -> Picture:
        """The picture of what is chosen now, for example to save it.

        Who listens to a patch needs the whole matrix: it is computed if it is not known yet.
        """
        heard = self.direction == "heard"
        if heard:
            self.compute()
        matrix = self.matrix.T if heard else self.matrix
        where = "the whole network" if self.whole else f"block {self.block}"
        title = f"{'Who listens to' if heard else 'Whom'} token {self.token}"
        title += f"{'' if heard else ' listens to'}, {where}"
        title += f", mean of {self._count} photographs" if self._count > 1 else ""
        grid = self._network.grid_size
        image = np.frombuffer(self._image["data"], np.uint8).reshape(self._image["shape"])
        picture = plot_influence(matrix[[self.token]], self.token, grid, image, title=title)
        picture.alt = f"{title}. {picture.alt}" if not heard else f"{title}, as a map."
        return picture

    def save_html(self, path: str | Path, *, live: bool = True) -> Path:
        """Write one page that works from a file, without Python or a network connection.

        It holds all blocks and the whole of a small model, and what was computed of a larger one;
        more can be asked in it as in other explorers' pages.

        Returns:
            The path written to; the file is replaced whole or not at all.
        """
        if self._small:
            self._fill("whole", range(self._network.num_tokens))
        return super().save_html(path, live=live)

    @property
    def _key(self) -> str:
        return "whole" if self.whole else str(self.block)

    def _answer(self, _: Any = None) -> None:
        rows = range(self._network.num_tokens) if self._small else [self.token]
        self._fill(self._key, rows)

    def _fill(self, key: str, rows: Iterable[int]) -> None:
        # Rows of one matrix that are not known yet, some at a time, each time to the page.
        s = self._network.num_tokens
        matrix = self._known.setdefault(key, torch.full((s, s), torch.nan))
        missing = [row for row in rows if matrix[row].isnan().any()]
        step = s if self._small else ROWS
        block = None if key == "whole" else int(key)
        probes = self._probes if block is None else None
        where = "the whole network" if block is None else f"block {key}"
        try:
            for start in range(0, len(missing), step):
                several = f": {start} of {len(missing)} patches" if len(missing) > step else ""
                self._busy = f"Python is asking {where}{several}. This takes a moment."
                part = missing[start : start + step]
                found = self._mean_influence(block, part, probes)
                matrix[part] = found.to("cpu", torch.float32)
                self._maps = {**self._maps, key: packed(matrix)}
        finally:
            self._busy = ""

    def _mean_influence(self, block: int | None, rows: list[int], probes: int | None) -> Tensor:
        def of(image: Tensor) -> Tensor:
            return influence(self._network, image, block, tokens=rows, probes=probes)

        return average(of, self._input)

    @traitlets.validate("block", "row", "column")
    def _in_range(self, proposal: Any) -> int:
        gh, gw = self._network.grid_size
        counts = dict(block=self._network.num_blocks, row=gh, column=gw)
        return in_range(proposal, counts[proposal.trait.name])


def explore_influence(
    model: MlpMixer,
    image: ImageSource | Sequence[ImageSource],
    *,
    block: int = 0,
    row: int | None = None,
    column: int | None = None,
    probes: int | None = 8,
) -> InfluenceExplorer:
    """Point at a patch of a photograph: whom does it listen to, and who listens to it?

    The numbers are those of :func:`mixer_lite.explain.influence`: how strongly a token after a
    block, or after all blocks, moves with another token before.

    Args:
        model: a loaded model; its ``config`` says how to prepare the image.
        image: anything :func:`mixer_lite.images.open_image` takes; or several, a list or a tensor
            ``(n, 3, h, w)``, whose numbers are averaged.
        block: to begin with, from 0.
        row, column: of the patch to begin with, from 0; by default the middle.
        probes: for the whole network: random vectors for each patch. With 8, entries are off by
            about 12 % on a small trained model. ``None``: as ``explain.influence`` chooses,
            exact for a small model at about fifteen times the cost.

    Raises:
        ValueError: not an image, no such block or patch, no probes, or a model that does not
            know its preprocessing.
    """
    if probes is not None and probes < 1:
        raise ValueError(f"probes must be 1 or more, or None, not {probes}.")
    gh, gw = model.grid_size
    place = dict(row=gh // 2 if row is None else row, column=gw // 2 if column is None else column)
    try:
        return InfluenceExplorer(model, image, probes, block=block, **place)
    except traitlets.TraitError as error:
        raise ValueError(str(error)) from None
