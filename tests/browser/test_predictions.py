"""explore_predictions in JupyterLab and in a saved page, held to the Python functions."""

import io
import json

import numpy as np
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
    explorer.shows, explorer.rather_than, explorer.one_scale = "deviation", None, False


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
    # Deviation, difference and evidence, each on both kinds of scale.
    for shows, wanted in (
        ("difference", 5),
        ("evidence", 5),
        ("difference", None),
        ("deviation", None),
    ):
        page.get_by_label("Map").select_option(shows)
        explorer.class_index, explorer.shows, explorer.rather_than = chosen, shows, wanted
        if shows == "difference":
            page.get_by_label("rather than", exact=True).select_option(
                "null" if wanted is None else str(wanted)
            )
        for one_scale in (True, False):
            explorer.one_scale = one_scale
            page.get_by_label("Colours", exact=True).select_option(str(one_scale).lower())
            soon_shows(page, blended(model, explorer, chosen, 50))
        if shows == "difference":
            says_the_gap(page, model, explorer)
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
    chances = (
        explain.prediction_by_depth(model, explorer.input) / model.config.temperature
    ).softmax(1)[3]
    words = page.locator(".readout span").all_text_contents()
    assert len(words) >= 5
    for word in words:
        name, number, _ = word.split(" ")
        assert float(number) == pytest.approx(100 * float(chances[names.index(name)]), abs=0.06)
    reset(page, explorer)


def says_the_gap(page, model, explorer):
    """The sum is the difference of the model's own logits, and the odds follow from it."""
    logits = model(explorer.input[None])[0].detach()
    gap = float(logits[explorer.chosen_class] - logits[explorer.other_class])
    said = page.locator(".sum").inner_text().replace("−", "-")
    assert float(said.split(" = ")[1].split(" ")[0]) == pytest.approx(gap, abs=0.0006)
    odds = float(said.split(" = ")[2].split(" ")[0])
    assert odds == pytest.approx(float(np.exp(gap / model.config.temperature)), rel=0.006)
    assert said.endswith(model.config.class_names[explorer.other_class])


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
        was = (model(explorer._tensors[0][None])[0] / model.config.temperature).softmax(0).max()
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


def test_a_saved_page_answers_without_python(saved_page, tmp_path, model, page_without_simd):
    explorer = ml.explore_predictions(model)
    path = explorer.save_html(tmp_path / "predictions.html")
    assert path.stat().st_size < 4_000_000
    for opened in (path, page_without_simd(path)):
        page = saved_page(opened, viewport={"width": 420, "height": 900})
        page.locator("canvas.seen").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 420
        assert page.get_by_text("needs Python").count() == 0
        use_everything(page, model, ml.explore_predictions(model))


def use_everything(page, model, explorer):
    """Covering by pointer and keys, shuffling, classes, a file of the reader's, the address."""
    canvas = page.locator("canvas.seen")
    for patch in (27, 28, 35):
        canvas.click(position=patch_position(page, patch))
    explorer.covered = [27, 28, 35]
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, explorer.chosen_class, 50))
    canvas.press("ArrowLeft")
    canvas.press(" ")
    explorer.covered = [27, 28, 34, 35]
    soon_says(page, model, explorer)
    page.get_by_role("button", name="Shuffle patches").click()
    explorer.shuffle = 0
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, explorer.chosen_class, 50))
    page.get_by_label("Evidence for").select_option("5")
    explorer.class_index = 5
    soon_shows(page, blended(model, explorer, 5, 50))
    # The address holds all that, and opens it again.
    soon(lambda: _holds(page.evaluate("location.href"), "class_index=5"))
    address = page.evaluate("location.href")
    page.goto("about:blank")
    page.goto(address)
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, 5, 50))
    reset(page, explorer)
    soon_says(page, model, explorer)
    file = page.locator("input[type=file]")
    file.set_input_files({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    alert = page.locator(".mixer-lite .alert")
    soon(lambda: _reads(alert, "Cannot read notes.txt: it is not an image"))
    jpeg = io.BytesIO()
    images.photo("coffee").save(jpeg, "JPEG", quality=92)
    file.set_input_files({"name": "cup.jpg", "mimeType": "image/jpeg", "buffer": jpeg.getvalue()})
    soon(lambda: _reads(page.locator(".thumbnails button").last, "cup"))
    explorer.image = explorer.add(Image.open(jpeg), "cup")
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, explorer.chosen_class, 50))
    assert alert.inner_text() == ""
    # Dropped.
    drop(page, jpeg.getvalue())
    soon(lambda: _reads(page.locator(".thumbnails button").last, "dropped"))
    soon_says(page, model, explorer)


def _holds(text, part):
    assert part in text


def drop(page, data):
    """A file falls onto the explorer."""
    page.evaluate(
        """(data) => {
            const files = new DataTransfer();
            const file = new File([Uint8Array.from(data)], "dropped.jpg", { type: "image/jpeg" });
            files.items.add(file);
            const how = { dataTransfer: files, bubbles: true, cancelable: true };
            document.querySelector("div.mixer-lite").dispatchEvent(new DragEvent("drop", how));
        }""",
        list(data),
    )


def test_a_saved_page_without_the_network_stands_still(saved_page, tmp_path, model):
    fresh = ml.explore_predictions(model)
    path = fresh.save_html(tmp_path / "predictions.html", live=False)
    assert path.stat().st_size < 200_000
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


def test_the_mean_of_all_photographs(saved_page, tmp_path, model):
    explorer = ml.explore_predictions(model)
    page = saved_page(explorer.save_html(tmp_path / "predictions.html", live=False))
    page.get_by_role("button", name="Mean of the 8").click()
    images_ = torch.stack(explorer._tensors)
    with torch.no_grad():
        logits = model(images_)
    chances = 100 * (logits / model.config.temperature).softmax(1).mean(0)
    maps = explain.average(lambda image: explain.patch_evidence(model, image), images_)
    names = model.config.class_names

    def check():
        for k in range(10):
            label = page.locator(".bars button").nth(k).get_attribute("aria-label")
            i = names.index(label.split(":")[0])
            assert float(label.split("probability ")[1].split(" ")[0]) == pytest.approx(
                float(chances[i]), abs=0.051
            )
            logit = float(label.split("logit ")[1].replace("−", "-"))
            assert logit == pytest.approx(float(logits[:, i].mean()), abs=0.0051)

    soon(check)
    page.get_by_label("Evidence for").select_option("4")
    canvas = page.locator("canvas.seen")
    canvas.focus()
    canvas.press("ArrowDown")
    said = page.locator(".note.patch").inner_text().replace("−", "-")
    row, column = (
        int(word) for word in said.split(" says ")[0].replace("Row ", "").split(", column ")
    )
    assert float(said.split(" says ")[1].split(" ")[0]) == pytest.approx(
        float(maps[4, row, column]), abs=0.0051
    )
    shot(page, "predictions_mean")
    page.locator(".thumbnails button").nth(2).click()
    explorer.image, explorer.class_index = 2, 4
    soon_says(page, model, explorer)


def test_a_saved_page_of_a_large_model_says_why_it_stands_still(saved_page, tmp_path):
    large = ml.create_model("mixer_s32_224")
    path = ml.explore_predictions(large, images.photo("cat")).save_html(tmp_path / "large.html")
    page = saved_page(path)
    note = page.get_by_text("needs Python").inner_text()
    assert "The network has 19.1 million parameters, and a page holds up to 3 million." in note
    assert path.stat().st_size < 2_000_000
