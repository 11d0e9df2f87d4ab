"""Draw the README's pictures from the bundled model: ``python tools/pictures.py``."""

from __future__ import annotations

import io
from pathlib import Path

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
    return ml.figures.show_predictions(images, answers, truths, columns=4)


def filters() -> ml.figures.Picture:
    """The strongest 32 first-layer units of three blocks, each on its own scale."""
    model = ml.load_pretrained("mixer_nano_cifar10")
    sheets, titles = [], []
    for block in (0, 3, 7):
        f = ml.filters.token_filters(model, block)  # (D_S, 8, 8)
        f = f[f.square().sum(dim=(1, 2)).argsort(descending=True)[:32]]
        f = f / f.abs().amax(dim=(1, 2), keepdim=True)
        sheets.append(rearrange(f, "(r c) h w -> (r h) (c w)", c=4))
        titles.append(f"block {block + 1}")
    return ml.figures.show_signed(
        sheets,
        titles,
        blocks=(8, 8),
        height=5.2,
        alt="Token-mixing units of the first, fourth and last block, folded to the 8 x 8 grid.",
    )


if __name__ == "__main__":
    DOCS.mkdir(exist_ok=True)
    for draw in (predictions, filters):
        _, data = draw().encode()
        Image.open(io.BytesIO(data)).save(DOCS / f"{draw.__name__}.png", optimize=True)
        print(f"docs/{draw.__name__}.png")
