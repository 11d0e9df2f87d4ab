"""What explorers must show, worked out with Python's functions, and that the page shows it."""

from __future__ import annotations

import time

import matplotlib
import numpy as np
import pytest
import torch
from lab import PATIENCE, pixels, soon

from mixer_lite import explain, images
from mixer_lite.explorers.base import quantized

# --- filters ---------------------------------------------------------------------------------


def laid(canvas):
    """How maps lie on a sheet: how many across, the gap between pairs, room for numbers below."""
    return {name: int(canvas.get_attribute(f"data-{name}")) for name in ("across", "apart", "foot")}


def colours(maps, order, across=1, shared=False, apart=0, foot=0):
    """The whole sheet, from Python's own numbers: RGBA ``(h, w, 4)``."""
    sent = quantized(maps)
    numbers = np.frombuffer(sent["data"], np.int8).reshape(sent["shape"]).astype(float)
    if shared:
        scale = np.float32(sent["scale"]).astype(float)
        numbers = np.floor(numbers * (scale / scale.max())[:, None, None] + 0.5)
    table = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, 255), bytes=True)
    n, gh, gw = maps.shape
    width = across * (gw + 1) + (across - 1) // 2 * apart
    sheet = np.zeros((-(-n // across) * (gh + 1 + foot), width, 4), np.uint8)
    for k, unit in enumerate(order):
        row, column = divmod(k, across)
        y, x = row * (gh + 1 + foot), column * (gw + 1) + column // 2 * apart
        sheet[y : y + gh, x : x + gw] = table[127 + numbers[unit].astype(int)]
    return sheet


def soon_equal(canvas, wanted):
    """Wait until the canvas shows these pixels; say how many differ if it never does.

    A function is asked again each time, because the pixels may depend on how the sheet is laid.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        shown, right = pixels(canvas), wanted() if callable(wanted) else wanted
        if shown.shape == right.shape and (shown == right).all():
            return
        time.sleep(0.1)
    assert shown.shape == right.shape
    assert (shown != right).any(axis=2).sum() == 0


def shares(page):
    """The bars' texts: [(before, after)] in percent."""
    texts = page.locator(".mixer-lite").first.locator(".bar output").all_inner_texts()
    return [[float(part.removesuffix(" %")) for part in text.split(" → ")] for text in texts]


def soon_shares(page, wanted):
    """Wait until the bars say these percentages, to their one decimal."""
    end = time.monotonic() + PATIENCE
    while np.abs(np.array(shares(page)) - wanted).max() > 0.0501:
        assert time.monotonic() < end, f"{shares(page)} are not {wanted}"
        time.sleep(0.1)


# --- influence -------------------------------------------------------------------------------


def agree(page, row, token, top=None):
    """The first map is this row of numbers, but for the own cell, and its scale's end is told."""
    others = np.delete(row, token)
    top = top or others.max()
    table = matplotlib.colormaps["viridis"](np.linspace(0, 1, 256), bytes=True).astype(int)
    wanted = table[(255 * row / top).round().astype(int).clip(0, 255)]
    wanted[token] = 0  # no colour: it is hatched
    shown = pixels(page.locator(".influence canvas").nth(1)).reshape(64, 4).astype(int)
    # Sums in another order may round to the next of 256 colours.
    assert np.abs(shown - wanted).max() <= 6
    numbers = page.locator(".influence .legend span").all_inner_texts()[:3]
    assert numbers[0] == "0"
    assert float(numbers[2]) == pytest.approx(top, rel=0.006)


# --- predictions -----------------------------------------------------------------------------


def blended(model, explorer, chosen, overlay):
    """The photograph under the colours of its map, from Python's functions: ``(h, w, 3)``."""
    seen = images.unnormalize(explorer.input[None], model.config)[0].astype(float)
    against = explorer.other_class if explorer.shows == "difference" else None
    look = dict(rather_than=against, centred=explorer.shows == "deviation")

    def maps(image):
        return explain.patch_evidence(model, image, **look).double().numpy()  # (K, gh, gw)

    now, before = maps(explorer.input), maps(explorer._tensors[explorer.image])
    coloured = slice(None) if explorer.one_scale else chosen
    top = max(np.abs(now[coloured]).max(), np.abs(before[coloured]).max())
    table = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, 255), bytes=True)[:, :3]
    steps = 127 + np.floor(127 * now[chosen] / top + 0.5).astype(int)  # (gh, gw)
    colours = table[steps].repeat(model.patch_size, 0).repeat(model.patch_size, 1)
    return (1 - overlay / 100) * seen + overlay / 100 * colours


def soon_shows(page, wanted):
    def check():
        shown = pixels(page.locator("canvas.seen"))
        assert (shown[..., 3] == 255).all()
        # One level for rounding, and colours whose evidence lies between two steps of the map.
        off = np.abs(shown[..., :3] - wanted).max(axis=2)
        assert off.max() < 4 and (off > 0.51).mean() < 0.05

    soon(check)


def soon_says(page, model, explorer):
    """Wait until the bars' probabilities and logits are the model's own."""
    with torch.no_grad():
        logits = model(explorer.input[None])[0]
    chances = (logits / model.config.temperature).softmax(0)

    def check():
        rows = page.locator(".bars button")
        assert rows.count() == 10
        for k in range(10):
            name, *_ = rows.nth(k).get_attribute("aria-label").split(":")
            i = model.config.class_names.index(name)
            shown = rows.nth(k).locator(".number").all_text_contents()
            probability = float(shown[0].split("%")[0])
            assert abs(probability - 100 * float(chances[i])) < 0.06
            fill = rows.nth(k).locator(".fill").evaluate("(bar) => parseFloat(bar.style.width)")
            assert abs(fill - 100 * float(chances[i])) < 0.01
            label = rows.nth(k).get_attribute("aria-label")
            logit = float(label.split("logit ")[1].split(";")[0].replace("−", "-"))
            assert abs(logit - float(logits[i])) < 0.006

    soon(check)
