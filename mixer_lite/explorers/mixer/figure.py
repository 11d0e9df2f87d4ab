"""The strip of explore_mixer as a still picture."""

from __future__ import annotations

import numpy as np
from einops import rearrange
from torch import Tensor

from mixer_lite.figures.drawing import SIGNED, Picture, bare, canvas, style


@style()
def plot_way(
    photograph: np.ndarray,
    maps: Tensor,
    chances: Tensor,
    grid: tuple[int, int],
    *,
    title: str,
    class_name: str,
) -> Picture:
    """A photograph, one channel after each station, and a class's probability by depth.

    Args:
        photograph: as the model sees it, ``(h, w, 3)`` bytes.
        maps: ``(2 L + 1, S)``: after the stem, then after each block's two mixings.
        chances: of the class after the stem and after each block, ``(L + 1,)``.
        grid: of the patches.
        title: of the picture.
        class_name: whose probability it is.
    """
    blocks = len(chances) - 1
    said = ", ".join(f"{p:.0%}" for p in chances.tolist())
    figure, axes = canvas(
        2,
        blocks + 1,
        size=(1.1 * (blocks + 1), 3.2),
        alt=f"{title}: maps after the stem and after both mixings of {blocks} blocks. "
        f"Probability of {class_name} after 0 to {blocks} blocks: {said}.",
    )
    figure.suptitle(title)
    folded = rearrange(maps.cpu(), "n (gh gw) -> n gh gw", gh=grid[0]).numpy()
    bare(axes[0, 0], "photograph")
    axes[0, 0].imshow(photograph)
    for n, picture in enumerate(folded):
        # Below the photograph the stem's tokens; then token mixing above, channel mixing below.
        place = axes[1, 0] if n == 0 else axes[(n - 1) % 2, (n + 1) // 2]
        most = np.abs(picture).max()
        place.imshow(picture, cmap=SIGNED, vmin=-most, vmax=most, interpolation="nearest")
        name = "stem" if n == 0 else f"{'tokens' if n % 2 else 'channels'} {(n - 1) // 2}"
        bare(place, name if n == 0 or n % 2 else f"{name}\n{chances[n // 2]:.0%}")
    return figure
