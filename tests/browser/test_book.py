"""The web book as it is built, in a browser: from a disk and from a server, without a network."""

from __future__ import annotations

import functools
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag

import axe_playwright_python
import nbformat
import numpy as np
import pytest
import torch
from lab import ARTIFACTS, PATIENCE, ROOT

import mixer_lite as ml

LESSONS = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
STATES = ROOT / "docs" / "states"
STILL = "The picture of an explorer"
SLIDERS = "(Sliders appear here when the notebook runs.)"


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    """The book's folder, built for these tests."""
    folder = tmp_path_factory.mktemp("web") / "book"
    command = [sys.executable, str(ROOT / "tools" / "book"), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.fixture(scope="module")
def address(book):
    """Where a server of this machine has the book."""
    handler = functools.partial(_Quiet, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def opened(browser, book):
    """A page of the book, from the disk; errors and requests to elsewhere fail at the end."""
    visits = []

    def visit(name="", root=None, **look):
        context = browser.new_context(**look)
        context.set_default_timeout(1000 * PATIENCE)
        visits.append(_Visit(context, root or book.as_uri()))
        if name:
            visits[-1].goto(name)
        return visits[-1]

    yield visit
    for visit in visits:
        visit.context.unroute_all(behavior="ignoreErrors")  # what still loads is of no interest
        visit.context.close()
    assert [visit.faults for visit in visits] == [[]] * len(visits)


class _Visit:
    def __init__(self, context, root):
        self.context, self.root, self.faults = context, root, []
        self.page = context.new_page()
        context.route("**/*", self._ask)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self._note(str(error)))
        self.page.on("requestfailed", self._failed)
        self.page.on("response", lambda r: r.status >= 400 and self._note(f"{r.status} {r.url}"))

    def _note(self, text):
        self.faults.append(f"{self.page.url}: {text}")

    def _said(self, message):
        if message.type in ("error", "warning"):
            self._note(f"{message.text} ({message.location['url']})")

    def _failed(self, request):
        # A page that is left stops what it still loads; how much that is depends on the machine.
        if request.failure != "net::ERR_ABORTED":
            self._note(f"{request.failure} {request.url}")

    def _ask(self, route):
        # The network is off for all but the book itself.
        url = route.request.url
        if url.startswith((self.root, "data:", "blob:")):
            route.continue_()
        else:
            self._note(f"asks {url}")
            route.abort()

    def goto(self, name):
        self.page.goto(f"{self.root}/{name}")
        return self.page

    def explorers(self):
        """The places of all explorers of the page, each alive; sliders are none."""
        places = self.page.locator(".explorer")
        for k in range(places.count()):
            place = places.nth(k)
            tab = place.evaluate(
                "p => p.closest('.sd-tab-content')?.previousElementSibling.htmlFor"
            )
            if tab:
                self.page.locator(f"label[for='{tab}']").click()
            place.scroll_into_view_if_needed()
            self.page.wait_for_function("p => p.dataset.ready", arg=place.element_handle())
            assert place.evaluate("p => p.getBoundingClientRect().right <= innerWidth")
        all_places = [places.nth(k) for k in range(places.count())]
        return [place for place in all_places if place.evaluate("p => !!p.shadowRoot")]


def _pages(book):
    return sorted(str(path.relative_to(book).as_posix()) for path in book.rglob("*.html"))


# What a page must be like, asked in the page.
LOOK = """async () => {
    const images = [...document.images];
    images.forEach((image) => (image.loading = "eager"));
    await Promise.all(images.map((image) => image.decode().catch(() => {})));
    const wide = document.documentElement;
    return {
        broken: images.filter((image) => !image.naturalWidth).map((image) => image.src),
        silent: images.filter((image) => !image.hasAttribute("alt")).map((image) => image.src),
        overflow: wide.scrollWidth - wide.clientWidth,
        titles: document.querySelectorAll("h1").length,
    };
}"""
FINE = {"broken": [], "silent": [], "overflow": 0, "titles": 1}


def _shot(page, name, kind):
    folder = ARTIFACTS / "book"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name.replace('/', '-').removesuffix('.html')}_{kind}.png")


def test_every_page_on_a_telephone_from_a_disk_in_the_dark(book, opened):
    visit = opened(viewport={"width": 420, "height": 900}, color_scheme="dark")
    found = {}
    for name in _pages(book):
        page = visit.goto(name)
        found[name] = page.evaluate(LOOK)
        _shot(page, name, "420_dark")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 20, 22)"
    assert len(found) > 30
    assert {n: look for n, look in found.items() if look != {k: FINE[k] for k in look}} == {}


AXE = Path(axe_playwright_python.__file__).parent / "axe.min.js"
BARRIERS = """async (only) => {
    const rules = only ? { runOnly: only } : { rules: { "color-contrast": { enabled: false } } };
    const { violations } = await axe.run({ resultTypes: ["violations"], ...rules });
    return violations.filter((v) => ["serious", "critical"].includes(v.impact))
        .map((v) => [`${v.id}: ${v.help}`, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 160))]);
}"""
# Contrast takes most of axe's time. Code is coloured alike everywhere and looked at on one page; of
# the pages that are made alike, prose and reference, one of each kind is looked at, and in the dark
# one lesson and two explorers.
COLOURED = "lessons/08_bug_hunt.html"
OF_THEIR_KIND = (
    "index.html", "start.html", "genindex.html", "search.html", "lessons/", "explore/",
    "reference/checks.html", "reference/measured.html", "reference/models.html",
)  # fmt: skip
DARK = (
    "index.html", "search.html", COLOURED, "explore/mixer.html", "explore/filters.html",
    "reference/checks.html", "reference/models.html",
)  # fmt: skip


def test_every_page_from_a_server_without_serious_barriers(book, address, opened):
    """In the light and in the dark."""
    # Explorers at rest: what fades in has little contrast on its way.
    look = {"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"}
    visit, found = opened(root=address, **look), {}
    visit.page.add_init_script(path=AXE)
    for name in _pages(book):
        page = visit.goto(name)
        visit.explorers()
        _shot(page, name, "1280_light")
        found[name, "any"] = page.evaluate(BARRIERS)
        if not name.startswith(OF_THEIR_KIND):
            continue
        if name != COLOURED:
            page.add_style_tag(content=".highlight { display: none }")
        for scheme in ("light", "dark") if name in DARK else ("light",):
            page.emulate_media(color_scheme=scheme)
            found[name, scheme] = page.evaluate(BARRIERS, ["color-contrast"])
        page.emulate_media(color_scheme="light")
    assert {where: barriers for where, barriers in found.items() if barriers} == {}


class _Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.names, self.targets = set(), []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for key, value in attributes:
            if key in ("id", "name"):
                self.names.add(value)
            elif key in ("href", "src") and value:
                self.targets.append(value)


def test_links_and_files(book):
    """Every link within the book leads to a page and a place in it, every file is there."""
    known = {name: _Links((book / name).read_text(encoding="utf-8")) for name in _pages(book)}
    broken = []
    for name, links in known.items():
        for target in links.targets:
            if target.startswith(("http://", "https://", "data:", "mailto:")):
                continue
            path, anchor = urldefrag(target.split("?")[0] if "#" not in target else target)
            file = (book / name).parent / unquote(path.split("?")[0]) if path else book / name
            here = file.resolve()
            if here.is_dir():
                here /= "index.html"
            if not here.is_file():
                broken.append((name, target))
            elif anchor and here.suffix == ".html":
                page = here.relative_to(book.resolve()).as_posix()
                if unquote(anchor) not in known[page].names:
                    broken.append((name, target))
    assert broken == []


def test_sizes(book, address, browser):
    size = sum(path.stat().st_size for path in book.rglob("*") if path.is_file())
    assert size < 25e6
    for name in ("lessons/01_images_as_tokens.html", "index.html"):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        context.set_default_timeout(1000 * PATIENCE)
        page = context.new_page()
        page.goto(f"{address}/{name}", wait_until="networkidle")
        loaded = page.evaluate(
            "[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType("
            "'resource')].map((e) => e.decodedBodySize).reduce((a, b) => a + b)"
        )
        context.close()
        assert loaded < (5e6 if name == "index.html" else 1.5e6)


def test_search_finds_with_excerpts(opened, address):
    for root in (None, address):
        page = opened("search.html?q=jacobian", root=root).page
        # Results come one after the other.
        page.locator("#search-results li > a", has_text="Two ways to mix").first.wait_for()
        page.locator("#search-results li .context").first.wait_for()
        excerpts = page.locator("#search-results li .context").all_inner_texts()
        assert all("jacobian" in text.lower() for text in excerpts[:3])
        page.locator("#search-results li > a").first.click()
        page.wait_for_url(lambda url: "search.html" not in url)


def test_search_without_a_question_asks_for_one(opened):
    page = opened("search.html").page
    page.locator("#search-results input").fill("jacobian")
    page.locator("#search-results input").press("Enter")
    page.locator("#search-results li > a", has_text="Two ways to mix").first.wait_for()


def test_the_dark_can_be_chosen(opened):
    page = opened("lessons/06_why_this_prediction.html", color_scheme="light").page
    colour = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(colour) == "rgb(255, 255, 255)"
    for _ in range(3):
        page.locator(".theme-toggle:visible").first.click()
        if page.evaluate("document.body.dataset.theme") == "dark":
            break
    assert page.evaluate(colour) == "rgb(19, 20, 22)"
    page.reload()  # and stays chosen
    assert page.evaluate(colour) == "rgb(19, 20, 22)"


def test_lessons_are_the_notebooks(book):
    """Each can be had as it is, and each answer in it is folded."""
    for name in LESSONS:
        text = (book / "lessons" / f"{name}.html").read_text(encoding="utf-8")
        found = [target for target in _Links(text).targets if target.endswith(".ipynb")]
        assert len(found) == 1
        original = (ROOT / "notebooks" / f"{name}.ipynb").read_bytes()
        assert (book / "lessons" / found[0]).read_bytes() == original
        prose = "".join(
            c.source
            for c in nbformat.reads(original.decode(), 4).cells
            if c.cell_type == "markdown"
        )
        assert text.count("<details>") >= prose.count("<details>") > 0


def test_only_drafts_are_marked_as_exercises(book):
    """Not the folded cells, which hold answers, nor the cells that only look at the checks."""
    for name in LESSONS:
        text = (book / "lessons" / f"{name}.html").read_text(encoding="utf-8")
        cells = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells
        sources = [c.source for c in cells if c.cell_type == "code"]
        # Only the check of a draft is asked for with a fixed seed, and it is the last line; of a
        # mystery the seed comes first.
        draft = re.compile(
            r"^((print\()?check\.\w+\(.*seed=0\)+|check\.culprit\(.*)$", re.MULTILINE
        )
        drafts = [s for s in sources if draft.search(s)]
        marked = re.findall(r'<div class="cell ([^"]*tag_exercise[^"]*)"', text)
        assert len(marked) == len(drafts), name
        assert not any("tag_hide-input" in classes for classes in marked), name


def test_every_public_name_is_in_the_reference(book):
    lines = (book / "objects.inv").read_bytes().split(b"\n", 4)
    names = {line.split(" ")[0] for line in zlib.decompress(lines[4]).decode().split("\n")}
    for name in ml.__all__:
        held = f"mixer_lite.{name}"
        assert held in names or any(n.startswith(held + ".") for n in names), name
    for name in ml.check.__all__:
        function = getattr(ml.check, name)
        if callable(function) and not isinstance(function, type):
            assert f"mixer_lite.check.{name}" in names, name


# --- explorers -----------------------------------------------------------------------------------


def test_every_explorer_and_slider_of_a_lesson_has_its_state():
    """Where not, ``python tools/notebooks.py`` was not run after the last change."""
    missing = []
    for name in LESSONS:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        for cell in notebook.cells:
            if cell.cell_type != "code" or "varies" in cell.metadata.get("tags", []):
                continue
            told = json.dumps(cell.outputs)
            if STILL in told or SLIDERS in told:
                if not (STATES / f"{name}-{cell.id}.json").is_file():
                    missing.append((name, cell.id))
    assert missing == []


WITH_EXPLORERS = ["index.html", *(f"explore/{kind}.html" for kind in (
    "mixer", "patches", "filters", "predictions", "influence", "training"))]  # fmt: skip


def _kind(path):
    return json.loads(path.read_text(encoding="utf-8"))["kind"]


def _with_explorers():
    paths = [path for path in STATES.glob("*.json") if _kind(path) != "sliders"]
    lessons = {path.name.split("-")[0] for path in paths}
    return [*WITH_EXPLORERS, *(f"lessons/{name}.html" for name in sorted(lessons))]


@pytest.mark.parametrize("name", _with_explorers())
def test_explorers_answer_as_python_does(opened, name):
    visit = opened(name, viewport={"width": 420, "height": 900})
    alive = visit.explorers()
    assert alive
    for place in alive:
        assert place.evaluate("p => p.shadowRoot.textContent.trim().length") > 20
        if place.evaluate("p => !p.model?.engine"):
            continue
        asked = place.evaluate(
            """async (place) => {
                const { engine } = place.model, side = engine.config.image_size;
                const count = side * side * 3;
                const pixels = Uint8Array.from({ length: count }, (_, k) => (k * k) % 251);
                const { logits } = await engine.ask("logits", { picture: { pixels } });
                return { name: engine.config.name, side, logits: Array.from(logits) };
            }"""
        )
        model, side = ml.load_pretrained(asked["name"]), asked["side"]
        k = np.arange(side * side * 3)
        pixels = ((k * k) % 251).astype(np.uint8).reshape(1, side, side, 3)
        with torch.no_grad():
            wanted = model(ml.images.preprocess(pixels, model.config))[0].numpy()
        np.testing.assert_allclose(asked["logits"], wanted, atol=1e-4)
    assert visit.page.evaluate(LOOK)["overflow"] == 0


def test_sliders_of_lessons_move(opened):
    """A stored figure for every place of a slider, and the one that was asked for."""
    paths = [path for path in STATES.glob("*.json") if _kind(path) == "sliders"]
    assert paths
    for path in paths:
        saved = json.loads(path.read_text(encoding="utf-8"))
        visit = opened(f"lessons/{path.name.split('-')[0]}.html")
        place = visit.page.locator(f".explorer[data-state='{path.stem}']")
        place.scroll_into_view_if_needed()
        sliders = place.locator("input")
        sliders.first.wait_for()
        assert sliders.count() == len(saved["sliders"])
        last = len(saved["sliders"][0]["values"]) - 1
        sliders.first.fill(str(last))
        where = [last, *(s["start"] for s in saved["sliders"][1:])]
        wanted = saved["pictures"][",".join(map(str, where))]
        shown = place.locator("img")
        assert shown.get_attribute("src") == wanted["src"]
        assert shown.get_attribute("alt") == wanted["alt"]
        assert saved["sliders"][0]["values"][last] in place.inner_text()


def test_covering_a_patch_on_the_home_page(opened):
    visit = opened("index.html", viewport={"width": 1280, "height": 900})
    (place,) = visit.explorers()
    said = place.locator(".mixer-lite").first
    model = ml.load_pretrained("mixer_nano_cifar10")
    x = ml.images.preprocess(ml.images.photo("cat"), model.config)
    for covered in ([], [27, 28, 35, 36]):
        seen = x.clone()
        for patch in covered:
            row, column = 4 * (patch // 8), 4 * (patch % 8)
            seen[..., row : row + 4, column : column + 4] = 0
        with torch.no_grad():
            chance, best = (model(seen)[0] / model.config.temperature).softmax(0).max(0)
        place.evaluate(
            "async (p, covered) => { p.model.set('covered', covered); await p.model.follow(); }",
            covered,
        )
        wanted = f"{model.config.class_names[best]}, {100 * float(chance):.1f} %"
        said.get_by_text(wanted).first.wait_for()


def test_a_view_can_be_sent(opened, address):
    for root in (None, address):
        visit = opened(root=root, viewport={"width": 1280, "height": 900})
        page = visit.goto("explore/predictions.html#predictions-grid16?covered=[3]&image=1")
        place = page.locator("#predictions-grid16")
        page.wait_for_function("p => p.dataset.ready", arg=place.element_handle())
        assert place.is_visible()
        assert place.evaluate("p => [p.model.get('image'), p.model.get('covered')]") == [1, [3]]
        place.evaluate("p => p.model.set('image', 2)")
        page.wait_for_function("location.hash.includes('image=2')")
        assert page.url.split("#")[1].startswith("predictions-grid16?")


def test_the_book_comes_with_an_installed_wheel(book, opened, tmp_path):
    """Which stays small; and the command opens it."""
    wheels = tmp_path / "wheels"
    environment = {**os.environ, "MIXER_LITE_BOOK": str(book)}
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(wheels)]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True)
    (wheel,) = wheels.glob("*.whl")
    assert wheel.stat().st_size < 25e6
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    told = subprocess.run(
        [sys.executable, "-m", "mixer_lite.cli", "book"], cwd=site, check=True,
        env={**os.environ, "PYTHONPATH": str(site), "BROWSER": "true"},
        stdout=subprocess.PIPE, text=True,
    ).stdout.strip()  # fmt: skip
    assert told == (site / "mixer_lite/_book/index.html").as_uri()
    installed = site / "mixer_lite" / "_book"
    files = [path.relative_to(book) for path in book.rglob("*") if path.is_file()]
    assert [path for path in files if not (installed / path).is_file()] == []
    visit = opened("index.html", root=installed.as_uri())
    assert len(visit.explorers()) == 1


def test_sliders_have_a_picture_where_no_script_runs(opened):
    for path in STATES.glob("*.json"):
        if _kind(path) == "sliders":
            page = opened(f"lessons/{path.name.split('-')[0]}.html", java_script_enabled=False).page
            still = page.locator(f"[id='{path.stem}'] > img")
            still.scroll_into_view_if_needed()
            assert still.bounding_box()["height"] > 100
            assert len(still.get_attribute("alt")) > 20


def test_pictures_stand_where_no_script_runs(opened):
    page = opened("explore/filters.html", java_script_enabled=False).page
    still = page.locator("#filters-nano > img")
    still.scroll_into_view_if_needed()
    end = time.monotonic() + PATIENCE
    while still.bounding_box()["height"] < 100 and time.monotonic() < end:
        page.wait_for_timeout(100)  # it is loaded as late as it is seen
    assert still.is_visible() and still.bounding_box()["height"] > 100
