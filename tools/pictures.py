"""Explorers as a browser shows them: ``python tools/pictures.py`` takes the README's picture.

``tools/notebooks.py`` takes those of the lessons' explorers.
"""

from __future__ import annotations

import importlib
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import browser
from PIL import Image
from playwright.sync_api import sync_playwright

import mixer_lite as ml
from mixer_lite.explorers.base import Explorer

DOCS = Path(__file__).resolve().parents[1] / "docs"
COLOURS = (64, 48, 32, 24, 16)  # of a picture: the most that keep it within LARGEST bytes
LARGEST, TALLEST = 36_000, 800


@contextmanager
def opened(width: int, height: int) -> Iterator[Any]:
    """A page of a browser that stands still, in light colours."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser.find(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        look: Any = dict(reduced_motion="reduce", color_scheme="light", offline=True)
        yield chromium.new_page(viewport={"width": width, "height": height}, **look)
        chromium.close()


def taken(page: Any, text: str, selector: str | None = None) -> bytes:
    """A screenshot of a saved page, or of the top of one element in it: a PNG of few colours."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "page.html")
        path.write_text(text, encoding="utf-8")
        page.goto(path.as_uri())
        page.locator(".mixer-lite canvas").first.wait_for()
        page.wait_for_timeout(700)
        shot = (page.locator(selector).first if selector else page).screenshot()
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    picture = picture.crop((0, 0, picture.width, min(picture.height, TALLEST)))
    for colours in COLOURS:
        file = io.BytesIO()
        # By coverage: what is rare, a thin line or the deepest red, keeps its colour.
        few = picture.quantize(colours, Image.Quantize.MAXCOVERAGE, 3, dither=Image.Dither.NONE)
        few.save(file, "png", optimize=True)
        if file.tell() <= LARGEST:
            break
    return file.getvalue()


def of_explorer(page: Any, saved: dict[str, Any]) -> bytes:
    """What an explorer's stored state looks like: a PNG."""
    module = importlib.import_module(f"mixer_lite.explorers.{saved['kind']}.page")
    (kind,) = (
        one
        for one in vars(module).values()
        if isinstance(one, type) and issubclass(one, Explorer) and one.__module__ == module.__name__
    )
    network = ml.load_pretrained(saved["network"]) if saved["network"] else None
    return taken(page, kind.page(saved, network), "div.mixer-lite")


def overview() -> bytes:
    """The overview explorer at the cat's first block."""
    explorer = ml.explore_mixer(
        model := ml.load_pretrained("mixer_nano_cifar10"), ml.images.photo("cat"), labels=["cat"]
    )
    with opened(1100, 820) as page:
        return taken(page, explorer.page(explorer.saved_state(), model))


if __name__ == "__main__":
    DOCS.mkdir(exist_ok=True)
    (DOCS / "overview.png").write_bytes(overview())
    print("docs/overview.png")
