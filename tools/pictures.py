"""Draw the README's pictures from the bundled model: ``python tools/pictures.py``."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image

import mixer_lite as ml

DOCS = Path(__file__).resolve().parents[1] / "docs"


def predictions() -> ml.figures.Picture:
    """Two photographs and six test images of the bundled slice, with the model's answers."""
    model = ml.load_pretrained("mixer_nano_cifar10")
    names = ml.specs.CIFAR10_CLASSES
    sample, labels = ml.datasets.cifar10_sample()
    # The first of each of six classes in the slice, right or wrong: nothing is picked.
    picks = [int((labels == names.index(c)).nonzero()[0]) for c in names if c not in
             ("cat", "bird", "automobile", "deer")]  # fmt: skip
    images = [ml.images.photo("cat"), ml.images.photo("eagle"), *(sample[i] for i in picks)]
    truths = ["cat", "bird", *(names[labels[i]] for i in picks)]
    answers = ml.predict(model, images, top_k=3)
    return ml.figures.show_predictions(images, answers, truths)


def filters() -> ml.figures.Picture:
    """The strongest 24 first-layer units of three blocks, each on its own scale."""
    model = ml.load_pretrained("mixer_nano_cifar10")
    alt = "Token-mixing units of blocks 0, 3 and 7 on the 8 x 8 grid: edges, blobs, gradients."
    figure, axes = ml.figures.canvas(1, 3, size=(9, 4.6), alt=alt)
    for spot, block in zip(axes, (0, 3, 7), strict=True):
        f = ml.filters.token_filters(model, block)  # (D_S, 8, 8)
        f = f[f.square().sum(dim=(1, 2)).argsort(descending=True)[:24]]
        f = f / f.abs().amax(dim=(1, 2), keepdim=True)
        f = torch.nn.functional.pad(f, (0, 1, 0, 1), value=float("nan"))  # white gaps
        sheet = rearrange(f, "(r c) h w -> (r h) (c w)", c=4)
        spot.imshow(sheet, cmap=ml.figures.SIGNED, vmin=-1, vmax=1)
        spot.set_title(f"block {block}")
        spot.set_axis_off()
    return figure


if __name__ == "__main__":
    DOCS.mkdir(exist_ok=True)
    for draw in (predictions, filters):
        _, data = draw().encode()
        Image.open(io.BytesIO(data)).save(DOCS / f"{draw.__name__}.png", optimize=True)
        print(f"docs/{draw.__name__}.png")
