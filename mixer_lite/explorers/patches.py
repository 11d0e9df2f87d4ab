"""Sliders over :func:`mixer_lite.figures.patch_figure`: which patch size, which patch."""

from __future__ import annotations

import base64
from html import escape
from typing import Any

import ipywidgets as widgets
from PIL import Image, ImageOps

from mixer_lite.figures import Picture, patch_figure
from mixer_lite.images import ImageSource, open_image

SIZE = 224  # pixels: the input of the paper's models
PATCH_SIZES = [p for p in range(7, SIZE) if SIZE % p == 0]  # smaller ones are dots on a page


class PatchExplorer(widgets.VBox):
    """What :func:`explore_patches` returns: ``patch_size``, ``row`` and ``column`` are sliders."""

    def __init__(self, image: Image.Image, patch_size: int, row: int, column: int):
        self.image = image
        grid = SIZE // patch_size
        late: dict[str, Any] = dict(continuous_update=False)  # a drawing takes a moment
        self.patch_size = widgets.SelectionSlider(
            options=PATCH_SIZES, value=patch_size, description="patch size", **late
        )
        self.row = widgets.IntSlider(row, 0, grid - 1, description="row", **late)
        self.column = widgets.IntSlider(column, 0, grid - 1, description="column", **late)
        self.view = widgets.HTML()
        super().__init__([self.patch_size, self.row, self.column, self.view])
        self.patch_size.observe(self._regrid, "value")
        self.row.observe(self._draw, "value")
        self.column.observe(self._draw, "value")
        self._draw()

    def figure(self) -> Picture:
        """The picture that the sliders stand at, for example to save it."""
        return patch_figure(self.image, self.patch_size.value, self.row.value, self.column.value)

    def _regrid(self, change: Any) -> None:
        for slider in (self.row, self.column):
            slider.unobserve(self._draw, "value")
            place = slider.value * change.old // change.new  # the same spot of the photograph
            slider.max = SIZE // change.new - 1
            slider.value = place
            slider.observe(self._draw, "value")
        self._draw()

    def _draw(self, _: Any = None) -> None:
        figure = self.figure()
        kind, data = figure.encode()
        source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        self.view.value = f'<img alt="{escape(figure.alt)}" src="{source}">'

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        # Where no kernel runs, a reader sees the picture that the sliders began with.
        picture, alt = self.figure()._repr_mimebundle_()
        return {**super()._repr_mimebundle_(**kwargs), **picture}, alt


def explore_patches(
    image: ImageSource, patch_size: int = 32, row: int = 2, column: int = 1
) -> PatchExplorer:
    """Sliders for the patch size and the patch, over a photograph of 224 x 224 pixels.

    Args:
        image: anything :func:`mixer_lite.images.open_image` takes; the largest centred square
            is used.
        patch_size: P to begin with, one of the divisors of 224 from 7 to 112.
        row, column: of the patch to begin with, from 0.

    Raises:
        ValueError: not an image, no such patch size, or no such patch.
    """
    if patch_size not in PATCH_SIZES:
        raise ValueError(f"patch_size must be one of {PATCH_SIZES}, not {patch_size!r}.")
    grid = SIZE // patch_size
    if not (0 <= row < grid and 0 <= column < grid):
        raise ValueError(f"row and column must be from 0 to {grid - 1}, not {row} and {column}.")
    return PatchExplorer(ImageOps.fit(open_image(image), (SIZE, SIZE)), patch_size, row, column)
