"""explore_predictions in JupyterLab and in a saved page, held to the Python functions."""

import io
import json

import pytest
import torch
from lab import at_rest, drag, shot, soon, soon_told
from PIL import Image
from shown import blended, soon_says, soon_shows

import mixer_lite as ml
from mixer_lite import explain, images

CELL = """import mixer_lite as ml
model = ml.load_pretrained("mixer_nano_cifar10")
explorer = ml.explore_predictions(model)
explorer"""
STATE = """import json
print(json.dumps([explorer.image, explorer.class_index, explorer.covered, explorer.shuffle,
                  explorer.message, len(explorer._photographs)]))"""


@pytest.fixture(scope="module")
def model():
    return ml.load_pretrained("mixer_nano_cifar10")


@pytest.fixture(scope="module")
def explorer(model):
    """The same explorer here: what the page must show is worked out with it."""
    return ml.explore_predictions(model)


@pytest.fixture(scope="module")
def page(lab, browser):
    with lab.notebook(browser, [CELL]) as opened:
        opened.run(0)
        opened.locator("canvas.seen").wait_for()
        yield opened


def reset(page, explorer):
    page.get_by_role("button", name="Reset").click()
    explorer.covered, explorer.shuffle, explorer.class_index = [], None, None


def patch_position(page, patch, across=8):
    box = page.locator("canvas.seen").bounding_box()
    side = box["width"] / across
    return {"x": side * (patch % across + 0.5), "y": side * (patch // across + 0.5)}


def look_through(page, model, explorer):
    """What needs no Python: photographs, classes, the overlay, patches pointed at, depth."""
    names = model.config.class_names
    for number, chosen in [(0, 3), (4, 8), (7, 0)]:
        page.locator(".thumbnails button").nth(number).click()
        explorer.image = number
        page.get_by_label("Evidence for").select_option(str(chosen))
        soon_shows(page, blended(model, explorer, chosen, 50))
        soon_says(page, model, explorer)
        logit = float(model(explorer.input[None])[0, chosen].detach())
        shown = page.locator(".sum").inner_text().replace("−", "-")
        assert shown.endswith(f"for {names[chosen]}")
        assert float(shown.split("logit ")[1].split(" ")[0]) == pytest.approx(logit, abs=0.0006)
    # A bar chooses a class, too.
    bar = page.locator(".bars button").nth(3)
    bar.click()
    chosen = names.index(bar.get_attribute("aria-label").split(":")[0])
    soon_shows(page, blended(model, explorer, chosen, 50))
    drag(page.get_by_label("Overlay"), 48)
    soon_shows(page, blended(model, explorer, chosen, 48))
    # Keys move from patch to patch; the sentence gives the patch's own number.
    canvas = page.locator("canvas.seen")
    canvas.focus()
    canvas.press("ArrowRight")
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft"):
        canvas.press(key)
    said = page.locator(".note.patch").inner_text().replace("−", "-")
    where, number = said.split(" says ")
    row, column = (int(word) for word in where.replace("Row ", "").split(", column "))
    evidence = explain.patch_evidence(model, explorer.input, chosen)
    assert (row, column) in [(2, 0), (2, 1)]
    assert float(number.split(" ")[0]) == pytest.approx(float(evidence[row, column]), abs=0.0051)
    # Depth by keys.
    chart = page.get_by_role("slider", name="Blocks passed")
    chart.focus()
    chart.press("Home")
    for _ in range(3):
        chart.press("ArrowRight")
    chances = explain.prediction_by_depth(model, explorer.input).softmax(1)[3]
    words = page.locator(".readout span").all_text_contents()
    assert len(words) >= 5
    for word in words:
        name, number, _ = word.split(" ")
        assert float(number) == pytest.approx(100 * float(chances[names.index(name)]), abs=0.06)
    reset(page, explorer)


def test_in_jupyterlab_classes_and_photographs_show_what_python_says(page, model, explorer):
    look_through(page, model, explorer)


def test_covering_changes_the_bars_by_the_right_amount(page, model, explorer):
    page.locator(".thumbnails button").nth(0).click()
    explorer.image = 0
    reset(page, explorer)
    soon_says(page, model, explorer)
    canvas = page.locator("canvas.seen")
    canvas.click(position=patch_position(page, 27))
    explorer.covered = [27]
    soon_says(page, model, explorer)
    before = page.locator(".bars button").first.get_attribute("aria-label")
    with torch.no_grad():
        was = model(explorer._tensors[0][None])[0].softmax(0).max()
    assert f"before {100 * float(was):.1f} %" in before
    # A drag along a row covers it.
    box = at_rest(canvas)
    side = box["width"] / 8
    page.mouse.move(box["x"] + 2.5 * side, box["y"] + 4.5 * side)
    page.mouse.down()
    page.mouse.move(box["x"] + 5.5 * side, box["y"] + 4.5 * side, steps=12)
    page.mouse.up()
    explorer.covered = [27, 34, 35, 36, 37]
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, explorer.chosen_class, 50))
    soon_told(lambda: json.loads(page.python(STATE))[2], explorer.covered)
    shot(page, "predictions_covered")
    # A click uncovers, and so does the space bar.
    canvas.click(position=patch_position(page, 27))
    canvas.press("ArrowDown")  # to 35
    canvas.press(" ")
    explorer.covered = [34, 36, 37]
    soon_says(page, model, explorer)
    soon_told(lambda: json.loads(page.python(STATE))[2], explorer.covered)


def test_shuffling_and_covering_and_back(page, model, explorer):
    reset(page, explorer)
    page.get_by_role("button", name="Shuffle patches").click()
    soon(lambda: _differs(page))
    seed = json.loads(page.python(STATE))[3]
    explorer.shuffle = seed
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, explorer.chosen_class, 50))
    # What is clicked is the patch that stands there now.
    page.locator("canvas.seen").click(position=patch_position(page, 10))
    explorer.covered = [int(explorer.order[10])]
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, explorer.chosen_class, 50))
    page.get_by_role("button", name="Put them back").click()
    explorer.shuffle = None
    soon_says(page, model, explorer)
    # Python chooses as well.
    page.python("explorer.covered, explorer.shuffle, explorer.class_index = [1, 2], 5, 6")
    explorer.covered, explorer.shuffle, explorer.class_index = [1, 2], 5, 6
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, 6, 50))
    reset(page, explorer)
    soon_says(page, model, explorer)


def _differs(page):
    assert json.loads(page.python(STATE))[3] is not None


def test_a_file_is_opened_and_a_bad_one_is_one_sentence(page, model, explorer):
    file = page.locator("input[type=file]")
    file.set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    alert = page.locator(".mixer-lite .alert")
    soon(lambda: _reads(alert, "Cannot read notes.txt: it is not an image"))
    soon_told(lambda: json.loads(page.python(STATE))[5], 8)
    picture = images.photo("coffee")
    png = io.BytesIO()
    picture.save(png, "PNG")
    file.set_input_files({"name": "my cup.png", "mimeType": "image/png", "buffer": png.getvalue()})
    thumbnails = page.locator(".thumbnails button")
    soon(lambda: _reads(thumbnails.last, "my cup"))
    explorer.image = explorer.add(Image.open(png), "my cup")
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, explorer.chosen_class, 50))
    assert alert.inner_text() == ""
    soon_told(lambda: json.loads(page.python(STATE)), [8, None, [], None, "", 9])
    explorer.image = 0
    thumbnails.first.click()


def _reads(locator, text):
    assert text in locator.inner_text()


def test_dark_and_narrow(lab, browser):
    with lab.notebook(browser, [CELL], dark=True, width=760) as opened:
        opened.run(0)
        opened.locator("canvas.seen").wait_for()
        root = opened.locator("div.mixer-lite")
        assert root.evaluate("(node) => node.scrollWidth <= node.clientWidth")
        shot(opened, "predictions_dark")


def test_saved_page_needs_no_python(saved_page, tmp_path, model, explorer):
    fresh = ml.explore_predictions(model)
    path = fresh.save_html(tmp_path / "predictions.html")
    assert path.stat().st_size < 2_000_000
    page = saved_page(path, viewport={"width": 320, "height": 900})
    page.locator("canvas.seen").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    look_through(page, model, fresh)
    assert "needs Python" in page.locator("div.mixer-lite").inner_text()
    assert page.get_by_role("button", name="Shuffle patches").is_disabled()
    assert page.locator("input[type=file]").is_disabled()
    page.locator("canvas.seen").click(position=patch_position(page, 27))
    soon_says(page, model, fresh)  # nothing is covered without Python
    assert page.locator("div.mixer-lite").get_attribute("data-covered") == "0"
