"""explore_influence in JupyterLab and in a saved page, held to explain.influence."""

import io

import numpy as np
import pytest
import torch
from lab import at_rest, drag, shot, soon, soon_told
from shown import agree

import mixer_lite as ml
from mixer_lite import explain
from mixer_lite.images import preprocess

CELLS = [
    "import mixer_lite as ml\n"
    'model = ml.load_pretrained("mixer_nano_cifar10")\n'
    'explorer = ml.explore_influence(model, ml.images.photo("cat"), row=2, column=5)\n'
    "explorer",
    "print(explorer.block, explorer.whole, explorer.row, explorer.column, explorer.direction)",
    # A model that counts as large: it is asked patch by patch.
    "import mixer_lite.explorers.influence.page as influence\n"
    "influence.SMALL = 0\n"
    "influence.InfluenceExplorer._live_network = lambda self: None\n"
    'large = ml.explore_influence(model, ml.images.photo("cat"), row=0, column=0)\n'
    "large",
]


@pytest.fixture(scope="module")
def model():
    return ml.load_pretrained("mixer_nano_cifar10")


@pytest.fixture(scope="module")
def matrix(model):
    """Matrices by block, or None for the whole as the explorer estimates it."""
    image = preprocess(ml.images.photo("cat"), model.config)
    known = {}

    def of(block):
        if block not in known:
            probes = 8 if block is None else None
            known[block] = explain.influence(model, image, block, probes=probes).numpy()
        return known[block]

    return of


@pytest.fixture(scope="module")
def page(lab, browser):
    with lab.notebook(browser, CELLS) as opened:
        opened.run(0)
        opened.locator(".influence canvas").first.wait_for()
        yield opened


def spot(canvas, token):
    """Middle of a patch, once the page has come to rest."""
    box = at_rest(canvas)
    y, x = divmod(token, 8)
    return {"x": (x + 0.5) / 8 * box["width"], "y": (y + 0.5) / 8 * box["height"]}


def hover(page, canvas, token):
    target = page.locator(".influence canvas").nth(canvas)
    place = spot(target, token)
    target.hover(position=place)
    return target, place


def move_about(page, matrix):
    """What needs no Python: blocks, patches, directions, scales."""
    agree(page, matrix(0)[21], 21)
    slider = page.get_by_label("block", exact=True).first
    for block in (5, 7, 3):
        drag(slider, block)
        agree(page, matrix(block)[21], 21)
    hover(page, 0, 50)
    agree(page, matrix(3)[50], 50)
    page.locator(".influence .title").first.hover()
    agree(page, matrix(3)[21], 21)
    # Shares by distance, ring by ring.
    row = matrix(3)[21]
    rings = [max(abs(t // 8 - 2), abs(t % 8 - 5)) for t in range(64)]
    sums = np.bincount(rings, weights=np.where(np.arange(64) == 21, 0, row))[1:]
    shares = page.locator(".influence").first.locator(".ring output").all_inner_texts()
    assert [float(s.removesuffix(" %")) for s in shares] == pytest.approx(
        100 * sums / sums.sum(), abs=0.51
    )
    # The other direction, and a number read off the map.
    page.locator(".influence select").nth(0).select_option("heard")
    agree(page, matrix(3)[:, 21], 21)
    hover(page, 1, 13)
    rank = (np.delete(matrix(3)[:, 21], 21) > matrix(3)[13, 21]).sum() + 1
    assert page.get_by_text(
        f"Row 1, column 5: {matrix(3)[13, 21]:#.3g}, number {rank} of 63."
    ).count()
    page.locator(".influence .title").first.hover()
    page.locator(".influence select").nth(1).select_option("true")
    agree(page, matrix(3)[:, 21], 21, top=(matrix(3) - np.diag(np.diag(matrix(3)))).max())
    page.locator(".influence select").nth(1).select_option("false")
    page.locator(".influence select").nth(0).select_option("listens")


def test_moving_about_does_not_wait_for_python(page, lab, matrix):
    with page.busy(lab.work):
        move_about(page, matrix)
    shot(page, "influence_lab")


def test_choices_reach_python_and_come_from_it(page, matrix):
    target, place = hover(page, 0, 44)
    target.click(position=place)
    for key in ("ArrowLeft", "ArrowUp", "ArrowRight", "ArrowRight"):
        target.press(key)
    soon_told(lambda: page.run(1), "3 False 4 5 listens\n")
    page.python("explorer.row, explorer.column, explorer.block = 6, 0, 1")
    page.locator(".influence .title").first.hover()
    page.get_by_text("In block 1 the patch in row 6, column 0 listens most").first.wait_for()
    agree(page, matrix(1)[48], 48)


def test_the_whole_network_estimated_by_python_and_exact_in_the_page(page, model, matrix):
    image = preprocess(ml.images.photo("cat"), model.config)
    exact = explain.influence(model, image, None, tokens=[48], probes=None).numpy()[0]
    page.get_by_role("button", name="whole network").first.click()
    page.get_by_text("In the whole network the patch in row 6, column 0").first.wait_for()
    soon(lambda: agree(page, exact, 48))
    hover(page, 0, 20)  # of the other patches Python's estimates are shown
    soon(lambda: agree(page, matrix(None)[20], 20))
    page.locator(".influence .title").first.hover()
    soon_told(lambda: page.run(1), "1 True 6 0 listens\n")


def test_a_large_model_is_asked_patch_by_patch(page, matrix):
    page.run(2)
    second = page.locator(".influence").nth(1)
    second.get_by_text("In block 0 the patch in row 0, column 0 listens").first.wait_for()
    canvas = second.locator("canvas").nth(0)
    canvas.hover(position=spot(canvas, 4))
    assert second.get_by_text("This patch was not asked yet: click it.").count() == 1
    canvas.click(position=spot(canvas, 4))
    second.get_by_text("In block 0 the patch in row 0, column 4 listens").first.wait_for()
    others = np.delete(matrix(0)[4], 4)
    assert float(second.locator(".legend span").nth(2).inner_text()) == pytest.approx(
        others.max(), rel=0.006
    )
    second.locator("select").nth(0).select_option("heard")
    assert second.get_by_text("patches were not asked yet").count() == 1
    second.get_by_role("button", name="Ask all 64 patches").click()
    second.locator(".ring").first.wait_for()
    heard = np.delete(matrix(0)[:, 4], 4)
    assert float(second.locator(".legend span").nth(2).inner_text()) == pytest.approx(
        heard.max(), rel=0.006
    )


def test_a_saved_page_works_offline(saved_page, model, matrix, tmp_path):
    explorer = ml.explore_influence(model, ml.images.photo("cat"), row=2, column=5)
    path = explorer.save_html(tmp_path / "influence.html", live=False)
    assert path.stat().st_size < 400_000
    page = saved_page(path, viewport={"width": 320, "height": 1400}, color_scheme="dark")
    page.locator(".influence canvas").first.wait_for()
    move_about(page, matrix)
    page.get_by_role("button", name="whole network").click()
    agree(page, matrix(None)[21], 21)
    assert page.get_by_text("Opening another photograph needs Python").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    shot(page, "influence_saved_narrow_dark")


def test_a_saved_page_asks_about_another_photograph(saved_page, model, tmp_path, page_without_simd):
    explorer = ml.explore_influence(model, ml.images.photo("cat"), row=2, column=5)
    path = explorer.save_html(tmp_path / "influence.html")
    assert path.stat().st_size < 4_000_000
    png = io.BytesIO()
    ml.images.photo("dahlia").save(png, "PNG")
    image = preprocess(png, model.config)
    one = explain.influence(model, image, 3).numpy()
    whole = explain.influence(model, image, tokens=[21]).numpy()[0]
    for opened in (path, page_without_simd(path)):
        page = saved_page(opened)
        file = {"name": "flower.png", "mimeType": "image/png", "buffer": png.getvalue()}
        page.locator("input[type=file]").set_input_files(file)
        drag(page.get_by_label("block", exact=True).first, 3)
        soon(lambda page=page: agree(page, one[21], 21))
        # Who listens to a patch needs all patches.
        page.locator(".influence select").nth(0).select_option("heard")
        soon(lambda page=page: agree(page, one[:, 21], 21))
        page.locator(".influence select").nth(0).select_option("listens")
        # An estimate, then the exact numbers: with the kernel; half a minute of plain JavaScript
        # says nothing of this page that test_engine.py does not say of the engine.
        page.get_by_role("button", name="whole network").click()
        if opened != path:
            page.locator(".ring").first.wait_for()
            continue
        soon(lambda page=page: agree(page, whole, 21))
        assert page.get_by_text("these numbers are an estimate").is_hidden()


def test_a_saved_page_shows_the_mean_of_several(saved_page, model, tmp_path):
    photos = [ml.images.photo(name) for name in ("cat", "dahlia", "coffee")]
    explorer = ml.explore_influence(model, photos, block=3, row=2, column=5)
    page = saved_page(explorer.save_html(tmp_path / "mean.html"))
    batch = [preprocess(photo, model.config)[0] for photo in photos]
    mean = explain.average(lambda x: explain.influence(model, x, 3), torch.stack(batch)).numpy()
    soon(lambda: agree(page, mean[21], 21))
    assert page.get_by_text("3 photographs, averaged, as the model sees them").count() == 1
    page.locator(".influence select").nth(0).select_option("heard")
    soon(lambda: agree(page, mean[:, 21], 21))
