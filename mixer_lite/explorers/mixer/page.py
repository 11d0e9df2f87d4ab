"""A photograph's way through a whole Mixer, as one strip whose stations open into their sums."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
import traitlets
from torch import Tensor

from mixer_lite.explorers.base import (
    answering_code,
    in_range,
    notebook_code,
    packed,
    page_code,
    page_style,
    quantized,
)
from mixer_lite.explorers.mixer import stations
from mixer_lite.explorers.photographs import Photographs
from mixer_lite.figures.drawing import Picture
from mixer_lite.images import ImageSource, unnormalize
from mixer_lite.model import MlpMixer
from mixer_lite.prediction import class_names, probabilities

LISTED = 10  # classes whose numbers go to the page, besides the chosen one
WIDEST, TALLEST = 128, 64  # of a table's picture: larger ones are means of neighbours


class _Answers(NamedTuple):
    # What the network makes of one input.
    way: Tensor  # (2 L + 1, S, C)
    depth: Tensor  # (L + 1, K) logits


class MixerExplorer(Photographs):
    """What :func:`explore_mixer` returns. Its traits are what a reader chooses.

    Attributes:
        image: which photograph, from 0.
        covered: patches that have the mean colour, counted row by row.
        station: ``"stem"``, ``"tokens"`` or ``"channels"`` (a mixing of ``block``), ``"classes"``.
        block: from 0.
        token, channel: whose numbers are shown.
        unit, channel_unit: of the token-mixing and the channel-mixing MLP.
        class_index: followed through depth; ``None``: the most probable of the photograph as it
            was.
        picture: of each station in the strip, ``"channel"``: the chosen channel of all tokens, as
            a map; ``"table"``: all tokens and channels.
        step: of the guided tour, from 1; 0: none.
        message: why the last file was not opened, or empty.
    """

    _page = page_code("mixer", "strip", "sums", "tour")
    _css = page_style("mixer")
    _answering = answering_code("mixer")
    _esm = notebook_code(_page, _answering)
    title = "A photograph's way through the Mixer"
    page_width = "80rem"

    station = traitlets.Enum(stations.STATIONS, "tokens").tag(sync=True)
    covered: traitlets.List = traitlets.List(traitlets.Int()).tag(sync=True)
    block = traitlets.Int(0).tag(sync=True)
    token = traitlets.Int(0).tag(sync=True)
    channel = traitlets.Int(0).tag(sync=True)
    unit = traitlets.Int(0).tag(sync=True)
    channel_unit = traitlets.Int(0).tag(sync=True)
    class_index = traitlets.Int(None, allow_none=True).tag(sync=True)
    picture = traitlets.Enum(("channel", "table"), "channel").tag(sync=True)
    step = traitlets.Int(0, min=0).tag(sync=True)

    # For the page alone.
    _sizes = traitlets.Dict().tag(sync=True)
    _classes: traitlets.List = traitlets.List(traitlets.Unicode()).tag(sync=True)
    _way = traitlets.Dict().tag(sync=True)

    def __init__(self, model: MlpMixer):
        self._known: dict[tuple[int, tuple[int, ...]], _Answers] = {}
        super().__init__(model)
        mean = unnormalize(torch.zeros(1, 3, 1, 1), self._config)[0, 0, 0]
        self._classes = list(class_names(model))
        self._sizes = dict(
            name=self._config.name, grid=list(model.grid_size), patch=model.patch_size,
            blocks=model.num_blocks, channels=model.hidden_dim, units=model.tokens_mlp_dim,
            channel_units=model.channels_mlp_dim, mean=mean.tolist(), gelu=model.gelu,
            temperature=self._config.temperature,
        )  # fmt: skip
        gh, gw = model.grid_size
        self.token = gh // 2 * gw + gw // 2

    @torch.no_grad()
    def _begin(self) -> None:
        # Begin with what matters most: the channel of the mean token that adds most to the class,
        # and the unit of block 0 that responds most to that channel.
        model, way = self._network, self._answers([]).way
        told = stations.class_sum(model, way, self.chosen_class)
        self.channel = int((told.values * told.weights).argmax())
        heard = stations.token_mixing_sum(model, way, self.block, self.channel, 0).activations
        self.unit = int(cast(Tensor, heard).abs().argmax())

    @property
    def chosen_class(self) -> int:
        """The class that is followed, also where ``class_index`` is ``None``."""
        if self.class_index is not None:
            return self.class_index
        return int(self._answers([]).depth[-1].argmax())

    @property
    def input(self) -> Tensor:
        """What the model sees now: ``(3, h, w)``."""
        return self._covered_image(self.covered)

    @property
    def sum(self) -> stations.Sum:
        """The number that the open station takes apart."""
        model, way = self._network, self._answers(self.covered).way
        if self.station == "stem":
            return stations.stem_sum(model, self.input[None], way, self.token, self.channel)
        if self.station == "tokens":
            return stations.token_mixing_sum(model, way, self.block, self.channel, self.unit)
        if self.station == "channels":
            unit = self.channel_unit
            return stations.channel_mixing_sum(model, way, self.block, self.token, unit)
        return stations.class_sum(model, way, self.chosen_class)

    def figure(self) -> Picture:
        """The picture of the strip: the chosen channel after every station, and the answer."""
        from mixer_lite.explorers.mixer.figure import plot_way

        answers = self._answers(self.covered)
        said = probabilities(answers.depth, self._config)[:, self.chosen_class]
        return plot_way(
            unnormalize(self.input[None], self._config)[0],
            answers.way[:, :, self.channel],
            said,
            self._network.grid_size,
            title=f"A photograph's way through {self._config.name}, channel {self.channel}",
            class_name=self._classes[self.chosen_class],
        )

    # --- state -----------------------------------------------------------------------------

    @traitlets.validate("block", "token", "channel", "unit", "channel_unit", "class_index", "image")
    def _in_range(self, proposal: Any) -> int | None:
        model = self._network
        counts = dict(
            block=model.num_blocks, token=model.num_tokens, channel=model.hidden_dim,
            unit=model.tokens_mlp_dim, channel_unit=model.channels_mlp_dim,
            class_index=model.num_classes, image=len(self._tensors),
        )  # fmt: skip
        return in_range(proposal, counts[proposal.trait.name])

    @traitlets.validate("covered")
    def _patches(self, proposal: Any) -> list[int]:
        return self._checked_patches(proposal.value)

    @traitlets.observe("image")
    def _start_afresh(self, _: Any) -> None:
        with self.hold_trait_notifications():
            self.covered = []
        self._update()

    @traitlets.observe(
        "covered", "station", "block", "token", "channel", "unit", "channel_unit", "class_index",
        "picture",
    )  # fmt: skip
    def _update(self, _: Any = None) -> None:
        if not self._tensors:
            return
        now, base, chosen = self._answers(self.covered), self._answers([]), self.chosen_class
        likely = base.depth[-1].topk(min(LISTED, len(self._classes))).indices.tolist()
        listed = sorted({*likely, chosen, int(now.depth[-1].argmax())})
        choice = ("image", "covered", "station", "block", "token", "channel", "unit",
                  "channel_unit", "class_index", "picture")  # fmt: skip
        self._way = dict(
            choice={name: getattr(self, name) for name in choice},
            chosen=chosen,
            classes=listed,
            depth=packed(probabilities(now.depth, self._config)[:, listed]),  # (L + 1, listed)
            logits=packed(now.depth[-1][listed]),
            before=packed(probabilities(base.depth[-1], self._config)[listed]),
            evidence=packed(self._evidence(now, chosen)),  # (S,)
            evidence_before=packed(self._evidence(base, chosen)),
            maps=packed(now.way[:, :, self.channel]),  # (2 L + 1, S)
            tables=quantized(_pooled(now.way)) if self.picture == "table" else None,
            sum={
                name: packed(value) if value.ndim else value.item()
                for name, value in self.sum._asdict().items()
                if value is not None
            },
        )

    # --- the network ------------------------------------------------------------------------

    def _answers(self, covered: Sequence[int]) -> _Answers:
        # Of the photograph as it was, and as it is: those two are kept.
        key = (self.image, tuple(covered))
        if key not in self._known:
            way = stations.tokens_on_the_way(self._network, self._covered_image(covered)[None])
            self._known = {k: v for k, v in self._known.items() if k == (self.image, ())}
            self._known[key] = _Answers(way, stations.logits_by_depth(self._network, way))
        return self._known[key]

    @torch.no_grad()
    def _evidence(self, answers: _Answers, class_index: int) -> Tensor:
        head = cast(Tensor, self._network.head.weight)
        return self._network.norm(answers.way[-1]) @ head[class_index]  # (S, C) @ (C,) -> (S,)


def _pooled(way: Tensor) -> Tensor:
    # Means of neighbours, so that a table's picture has few numbers: (n, S, C) -> (n, s, c).
    for axis, most in ((1, TALLEST), (2, WIDEST)):
        step = -(-way.shape[axis] // most)
        parts = [part.mean(dim=axis) for part in way.split(step, dim=axis)]
        way = torch.stack(parts, dim=axis)
    return way


def explore_mixer(
    model: MlpMixer,
    images: ImageSource | Sequence[ImageSource] | None = None,
    *,
    labels: Sequence[str] | None = None,
    **view: Any,
) -> MixerExplorer:
    """A photograph's way through the whole Mixer: every station, and the sums inside.

    One strip leads from the photograph over its patches and the table of tokens through all blocks
    to the classes. Each station opens into its arithmetic with this photograph's own numbers. A
    reader may cover patches, choose a channel, a token, a unit or a class, and open a photograph
    of their own; a guided tour shows what to look at.

    Args:
        model: a loaded model; its ``config`` says how to prepare images and names the classes.
        images: as for :func:`explore_predictions`: one or several; ``None``: bundled photographs.
        labels: a name for each image.
        view: what to begin with: attributes of :class:`MixerExplorer`, for example ``block=3``.

    Raises:
        FileNotFoundError, ValueError: as :func:`explore_predictions`; or there is no such block,
            token, channel, unit, class or attribute.
    """
    explorer = MixerExplorer(model)
    explorer.add_all(images, labels)
    explorer._begin()
    for name, value in view.items():
        if name.startswith("_") or name not in explorer.traits(sync=True):
            raise ValueError(f"explore_mixer has no {name!r} to begin with.")
        try:
            setattr(explorer, name, value)
        except traitlets.TraitError as error:
            raise ValueError(str(error)) from None
    explorer._update()
    return explorer
