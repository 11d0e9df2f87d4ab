"""A photograph as tokens: patch sizes, one patch and its row of the table, shuffles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import traitlets
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor

from mixer_lite.explorers.base import Explorer, in_range, packed, page_code, page_style
from mixer_lite.figures import patch_figure
from mixer_lite.figures.drawing import Picture
from mixer_lite.images import ImageSource, open_image
from mixer_lite.interventions import shuffle_patches, shuffle_pixels

SIZE = 224  # pixels: the input of the paper's models
PATCH_SIZES = [p for p in range(7, SIZE) if SIZE % p == 0]  # smaller ones are dots on a page


def orders(seed: int, patch_size: int) -> dict[str, Tensor]:
    """The fixed permutations that a seed stands for.

    Returns:
        ``order`` of all 224 * 224 pixels, as ``explain.shuffle_pixels`` takes it;
        ``patch_order`` ``(S,)`` and ``pixel_order`` ``(P * P,)``, as ``explain.shuffle_patches``
        takes them.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = dict(
        order=SIZE**2, patch_order=(SIZE // patch_size) ** 2, pixel_order=patch_size**2
    )  # fmt: skip
    return {name: torch.randperm(size, generator=generator) for name, size in sizes.items()}


class PatchExplorer(Explorer):
    """What :func:`explore_patches` returns.

    Attributes:
        patch_size: P in pixels, one of the divisors of 224 from 7 to 112. When it changes,
            ``row`` and ``column`` follow, so that the place in the photograph stays.
        row, column: of the chosen patch on the grid, from 0.
        patches_shuffled: patches have changed places.
        pixels_shuffled: the pixels within each patch have, in all patches alike.
        image_shuffled: the pixels of the whole image have; this comes before the other two.
        seed: of the permutations, which stay the same until it changes: :func:`orders`.
        image: the photograph as it is, a PIL image of 224 x 224 pixels.
    """

    _page = _esm = page_code("patches")
    _css = page_style("patches")
    title = "Images as tokens"

    patch_size = traitlets.Int(32).tag(sync=True)
    row = traitlets.Int(0).tag(sync=True)
    column = traitlets.Int(0).tag(sync=True)
    patches_shuffled = traitlets.Bool(False).tag(sync=True)
    pixels_shuffled = traitlets.Bool(False).tag(sync=True)
    image_shuffled = traitlets.Bool(False).tag(sync=True)
    seed = traitlets.Int(0, min=0).tag(sync=True)

    # For the page alone.
    _sizes = traitlets.List(PATCH_SIZES).tag(sync=True)
    _image = traitlets.Dict().tag(sync=True)  # (224, 224, 3)
    _order = traitlets.Dict().tag(sync=True)  # (224 * 224,)
    _patch_orders = traitlets.Dict().tag(sync=True)  # P -> (S,)
    _pixel_orders = traitlets.Dict().tag(sync=True)  # P -> (P * P,)

    def __init__(self, image: Image.Image, **state: Any):
        self.image = image
        super().__init__(_image=packed(np.asarray(image)), **state)
        self._place = (self.patch_size, self.row, self.column)
        self._send_orders()
        self.observe(self._follow, ["patch_size", "row", "column"])
        self.observe(self._send_orders, "seed")

    @property
    def pixels(self) -> np.ndarray:
        """The photograph as it is shown, shuffled or not: uint8 ``(224, 224, 3)``."""
        chosen = orders(self.seed, self.patch_size)
        x = rearrange(torch.tensor(np.asarray(self.image)), "h w c -> c h w")
        if self.image_shuffled:
            x = shuffle_pixels(x, chosen["order"])
        x = shuffle_patches(
            x,
            self.patch_size,
            patch_order=chosen["patch_order"] if self.patches_shuffled else None,
            pixel_order=chosen["pixel_order"] if self.pixels_shuffled else None,
        )
        return rearrange(x, "c h w -> h w c").numpy()

    def figure(self) -> Picture:
        """The picture of what is chosen now, for example to save it."""
        return patch_figure(self.pixels, self.patch_size, self.row, self.column)

    @traitlets.validate("patch_size")
    def _check_patch_size(self, proposal: Any) -> int:
        if proposal.value not in PATCH_SIZES:
            raise traitlets.TraitError(
                f"patch_size must be one of {PATCH_SIZES}, not {proposal.value}."
            )
        return proposal.value

    @traitlets.validate("row", "column")
    def _check_place(self, proposal: Any) -> int:
        return in_range(proposal, SIZE // self.patch_size)

    def _follow(self, _: Any) -> None:
        # A page sends the new place with the new patch size; Python code sets the size alone.
        size, row, column = self._place
        if self.patch_size != size and (self.row, self.column) == (row, column):
            self._place = (self.patch_size, row, column)
            self.row = row * size // self.patch_size
            self.column = column * size // self.patch_size
        self._place = (self.patch_size, self.row, self.column)

    def _send_orders(self, _: Any = None) -> None:
        every = {p: orders(self.seed, p) for p in PATCH_SIZES}
        with self.hold_sync():
            self._order = packed(every[PATCH_SIZES[0]]["order"])
            self._patch_orders = {str(p): packed(o["patch_order"]) for p, o in every.items()}
            self._pixel_orders = {str(p): packed(o["pixel_order"]) for p, o in every.items()}


def explore_patches(
    image: ImageSource, patch_size: int = 32, row: int = 2, column: int = 1
) -> PatchExplorer:
    """A photograph of 224 x 224 pixels, cut into patches: choose the size, point at a patch.

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
    square = ImageOps.fit(open_image(image), (SIZE, SIZE))
    return PatchExplorer(square, patch_size=patch_size, row=row, column=column)
