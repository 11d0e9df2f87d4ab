"""explore_patches in JupyterLab and in a saved page, held to the Python functions."""

import numpy as np
import pytest
from einops import rearrange
from lab import drag, pixels, shot, soon

import mixer_lite as ml
from mixer_lite.explorers.patches.page import PATCH_SIZES

CELLS = [
    "import mixer_lite as ml\n"
    'explorer = ml.explore_patches(ml.images.photo("cat"), patch_size=32, row=2, column=1)\n'
    "explorer",
    "chosen = []\n"
    "def hear(_):\n"
    "    now = (explorer.row, explorer.column)\n"
    "    if chosen[-1:] != [now]:\n"
    "        chosen.append(now)\n"
    "explorer.observe(hear, ['row', 'column'])",
    "print(explorer.patch_size, explorer.row, explorer.column, explorer.patches_shuffled, chosen)",
]


@pytest.fixture
def twin():
    """The same explorer on this side, moved as the page is: its pixels are the wanted ones."""
    return ml.explore_patches(ml.images.photo("cat"))


@pytest.fixture(scope="module")
def page(lab, browser):
    with lab.notebook(browser, CELLS) as opened:
        opened.run(0)
        opened.locator(".patches canvas").first.wait_for()
        opened.run(1)
        yield opened


def told(page, start, end=""):
    """What the third cell prints begins and ends so."""
    printed = page.run(2)
    assert printed.startswith(start) and printed.endswith(end)


def view(page, name):
    """Canvas of the photograph, the enlarged patch, the table or a token's values."""
    place = {"photo": 0, "patch": 1, "origin": 2, "table": 3, "values": 4}
    return page.locator(".patches canvas").nth(place[name])


def point(canvas, row, column, rows, columns):
    box = canvas.bounding_box()
    canvas.hover(
        position={
            "x": (column + 0.5) / columns * box["width"],
            "y": (row + 0.5) / rows * box["height"],
        }
    )


def agree(page, twin, token):
    """Everything on the page is what Python says."""
    p = twin.patch_size
    wanted = twin.pixels
    assert (pixels(view(page, "photo"))[..., :3] == wanted).all()
    table = rearrange(wanted, "(gh p1) (gw p2) c -> (gh gw) (c p1 p2)", p1=p, p2=p)
    patch = rearrange(table[token], "(c p1 p2) -> p1 p2 c", c=3, p1=p)
    assert (pixels(view(page, "patch"))[..., :3] == patch).all()
    starts = np.arange(0, 3 * p * p, -(-3 * p * p // 512))
    sums = np.add.reduceat(table.astype(float), starts, axis=1)
    grey = np.floor(sums / np.diff([*starts, 3 * p * p]) + 0.5)
    shown = pixels(view(page, "table"))
    assert (shown[..., :3] == grey[..., None]).all() and (shown[..., 3] == 255).all()
    assert (pixels(view(page, "values"))[0, :, 0] == grey[token]).all()


def drag_and_shuffle(page, twin):
    agree(page, twin, 15)
    slider = page.get_by_label("patch size")
    for p in (112, 7, 16):
        drag(slider, PATCH_SIZES.index(p))
        walk(twin, p)
        agree(page, twin, twin.row * (224 // p) + twin.column)
    names = {
        "patches": "patches_shuffled",
        "pixels within patches": "pixels_shuffled",
        "all pixels": "image_shuffled",
    }
    for on in (True, False):
        for label, name in names.items():
            button = page.get_by_role("button", name=label, exact=True)
            button.click()
            assert button.get_attribute("aria-pressed") == str(on).lower()
            setattr(twin, name, on)
            agree(page, twin, twin.row * 14 + twin.column)
            if label == "patches" and on:
                shot(page, "patches_shuffled")


def walk(twin, patch_size):
    """Through the sizes one by one, as the slider goes."""
    here, there = (PATCH_SIZES.index(p) for p in (twin.patch_size, patch_size))
    step = 1 if there > here else -1
    for k in range(here + step, there + step, step):
        twin.patch_size = PATCH_SIZES[k]


def test_slider_and_shuffles_do_not_wait_for_python(page, lab, twin):
    with page.busy(lab.work):
        drag_and_shuffle(page, twin)
    soon(lambda: told(page, f"16 {twin.row} {twin.column} False"))


def test_pointing_choosing_and_back(page, twin):
    page.python("explorer.patch_size = 32")
    page.get_by_text("32 pixels", exact=True).wait_for()
    page.python("explorer.row, explorer.column = 2, 1")
    page.get_by_text("is token 2 × 7 + 1 = 15").first.wait_for()
    photo, table = view(page, "photo"), view(page, "table")

    point(photo, 5, 3, 7, 7)
    agree(page, twin, 38)  # shown while pointed at
    marks = page.locator(".patches .shown")
    assert marks.count() == 2  # in the photograph and in the table
    assert marks.nth(1).evaluate("m => parseFloat(m.style.top)") == pytest.approx(
        100 * 38 / 49, abs=0.001
    )
    point(table, 10, 0, 49, 1)
    agree(page, twin, 10)
    place = marks.nth(0).evaluate("m => [parseFloat(m.style.left), parseFloat(m.style.top)]")
    assert place == pytest.approx([100 * 3 / 7, 100 / 7], abs=0.001)
    page.locator(".patches .title").hover()
    assert marks.count() == 0
    agree(page, twin, 15)

    page.python("chosen.clear()")
    point(table, 47, 0, 49, 1)
    page.mouse.down()
    page.mouse.up()
    page.locator(".patches .title").hover()
    agree(page, twin, 47)
    heard = [(6, 5)]
    soon(lambda: told(page, f"32 6 5 False {heard}\n"))
    for key, place in (("ArrowRight", (6, 6)), ("ArrowLeft", (6, 5)), ("ArrowLeft", (6, 4))):
        photo.press(key)
        heard.append(place)
        soon(lambda: told(page, f"32 {heard[-1][0]} {heard[-1][1]} False {heard}\n"))
    for key in ("ArrowUp", "ArrowRight", "ArrowRight", "ArrowDown", "ArrowLeft"):
        photo.press(key)
    # Quick strokes may come to Python as one, but the last place always comes.
    soon(lambda: told(page, "32 6 5 False ", "(6, 5)]\n"))
    table.focus()
    active = page.evaluate("window.panel.content.activeCellIndex")
    table.press("ArrowUp")
    agree(page, twin, 46)
    assert page.evaluate("window.panel.content.activeCellIndex") == active  # the notebook stayed

    point(view(page, "patch"), 4, 9, 32, 32)
    red, green, blue = twin.pixels[6 * 32 + 4, 4 * 32 + 9]
    sentence = (
        f"Pixel in line 4, place 9 of the patch: red {red} is value 137, "
        f"green {green} is value 1161, blue {blue} is value 2185."
    )
    assert page.get_by_text(sentence).count() == 1
    shot(page, "patches_lab")


def test_a_saved_page_works_offline(saved_page, twin, tmp_path):
    path = twin.save_html(tmp_path / "patches.html")
    page = saved_page(path, viewport={"width": 320, "height": 1600}, color_scheme="dark")
    view(page, "photo").wait_for()
    drag_and_shuffle(page, twin)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    shot(page, "patches_saved_narrow_dark")
