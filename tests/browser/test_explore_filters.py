"""explore_filters in JupyterLab and in a saved page, held to the Python functions."""

import json

import matplotlib
import numpy as np
import pytest
import torch
from lab import at_rest, drag, pixels, shot, soon, until
from shown import colours, soon_equal, soon_shares

import mixer_lite as ml
from mixer_lite import datasets, explain, filters
from mixer_lite.explorers.filters import IMAGES
from mixer_lite.images import preprocess

CELLS = [
    "import mixer_lite as ml\n"
    'model = ml.load_pretrained("mixer_nano_cifar10")\n'
    'explorer = ml.explore_filters(model, ml.images.photo("eagle"))\n'
    "explorer",
    "chosen = []\nexplorer.observe(lambda change: chosen.append(change.new), 'unit')",
    "print(chosen, explorer.unit)",
    # A model that importance and re-runs cost little.
    "import torch\n"
    "torch.manual_seed(3)\n"
    "small = ml.MlpMixer(image_size=32, patch_size=8, num_classes=10, num_blocks=2,\n"
    "                    hidden_dim=12, tokens_mlp_dim=7, channels_mlp_dim=20)\n"
    "small.config = model.config\n"
    "other = ml.explore_filters(small)\n"
    "other",
]


@pytest.fixture(scope="module")
def model():
    return ml.load_pretrained("mixer_nano_cifar10")


@pytest.fixture(scope="module")
def page(lab, browser):
    with lab.notebook(browser, CELLS) as opened:
        opened.run(0)
        opened.locator("canvas.units").wait_for()
        yield opened


def drag_through_blocks(page, model):
    canvas = page.locator("canvas.units").first
    across = pixels(canvas).shape[1] // 9
    slider = page.get_by_label("block", exact=True).first
    page.get_by_label("order").first.select_option("index")
    before = pixels(canvas)
    for block in (5, model.num_blocks - 1, 2):
        drag(slider, block)
        shown = pixels(canvas)
        wanted = colours(filters.token_filters(model, block), range(64), across)
        assert shown.shape == wanted.shape and (shown == wanted).all()
        assert (shown != before).any()
        before = shown


def test_dragging_shows_what_python_says_without_waiting_for_it(page, lab, model):
    with page.busy(lab.work):
        drag_through_blocks(page, model)
    until(page, "(explorer.block, explorer.order)", "(2, 'index')")


# Move the slider every 20 ms for two seconds: the values it was given, and those told each frame.
LONG_DRAG = """async (slider) => {
    const told = slider.parentElement.querySelector("output"), wanted = [], shown = [];
    let going = true;
    const watch = () => {
        shown.push([wanted.at(-1), Number(told.textContent)]);
        if (going) requestAnimationFrame(watch);
    };
    for (let k = 0; k < 100; k++) {
        slider.value = wanted[k] = k % 8;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        if (k === 0) requestAnimationFrame(watch);
        await new Promise((done) => setTimeout(done, 20));
    }
    going = false;
    return shown;
}"""


def test_a_long_drag_is_never_set_back_and_python_hears_of_it(page):
    page.python("heard = []; explorer.observe(lambda change: heard.append(change.new), 'block')")
    slider = page.get_by_label("block", exact=True).first
    shown = page.evaluate(LONG_DRAG, slider.element_handle())
    assert len(shown) > 20 and all(wanted == told for wanted, told in shown)
    until(page, "explorer.block", "3")
    heard = json.loads(page.python("print(heard)"))
    assert 2 <= len(heard) <= 20  # on the way too, and not each step


def test_orders_layers_and_scales(page, model):
    canvas = page.locator("canvas.units").first
    across = pixels(canvas).shape[1] // 9
    drag(page.get_by_label("block", exact=True).first, 3)
    reads, writes = (filters.token_filters(model, 3, layer) for layer in ("fc1", "fc2"))
    page.get_by_label("order").first.select_option("frequency")
    soon_equal(canvas, colours(reads, filters.order_by_frequency(reads).tolist(), across))
    page.get_by_label("layer").first.select_option("fc2")
    page.get_by_label("order").first.select_option("pairs")
    pairs = filters.pair_opposite_phases(writes).flatten().tolist()
    soon_equal(canvas, colours(writes, pairs, across))
    page.get_by_label("colours").first.select_option("block")
    soon_equal(canvas, colours(writes, pairs, across, shared=True))
    # Python can choose, too.
    page.python("explorer.layer, explorer.order, explorer.scale = 'fc1', 'index', 'unit'")
    soon_equal(canvas, colours(reads, range(64), across))
    assert page.get_by_label("layer").first.input_value() == "fc1"


def test_a_chosen_unit_reaches_python(page, model):
    page.run(1)
    page.python("explorer.block, explorer.layer, explorer.order = 4, 'fc1', 'index'")
    canvas = page.locator("canvas.units").first
    across = pixels(canvas).shape[1] // 9
    soon_equal(canvas, colours(filters.token_filters(model, 4), range(64), across))
    box = at_rest(canvas)
    rows = 64 // across
    canvas.click(position={"x": box["width"] * 5.4 / across, "y": box["height"] * 1.4 / rows})
    unit = across + 5
    page.wait_for_function(f"document.body.innerText.includes('Unit {unit} of block 4')")
    until(page, "explorer.unit", str(unit))
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "End", "Home"):
        canvas.press(key)
    steps = [unit, unit + 1, unit + 1 + across, unit + across, unit, 63, 0]
    # Of choices that follow each other quickly Python hears the last; so some may be left out.

    def heard():
        told, now = page.run(2).strip().rsplit(" ", 1)
        left = iter(steps)
        assert now == "0" and told.endswith(" 0]") and all(u in left for u in json.loads(told))

    soon(heard)

    # The pictures of one unit.
    canvas.press("End")
    maps = filters.token_filters(model, 4)
    figures = page.locator(".mixer-lite").first.locator("figure canvas")
    writes = filters.token_filters(model, 4, "fc2")
    other = filters.closest_inverse(maps)[0][63].item()
    for k, wanted in ((0, maps[63:]), (1, writes[63:]), (3, maps[other : other + 1])):
        soon_equal(figures.nth(k), colours(wanted, [0], 1)[:8, :8])
    power = filters.spectrum(maps[63:])[0]
    table = matplotlib.colormaps["viridis"](np.linspace(0, 1, 256), bytes=True).astype(int)
    wanted = table[(255 * power / power.max()).round().int().numpy()]
    assert np.abs(pixels(figures.nth(2)) - wanted).max() <= 16  # weights are rounded on their way


def test_switching_units_off_changes_the_bars_by_the_right_amount(page, model):
    image = preprocess(ml.images.photo("eagle"), model.config)
    with torch.no_grad():
        before = model(image)[0].softmax(dim=0)
        order = before.argsort(descending=True)[:6]
        change = []
        for unit in range(64):  # the two that matter most, else the test says little
            with explain.edit(model) as units:
                units.remove(2, unit)
                change.append((model(image)[0].softmax(dim=0) - before).abs().max().item())
        one, two = sorted(np.argsort(change)[-2:].tolist())
        page.python(f"explorer.block, explorer.unit = 2, {one}")
        page.get_by_text(f"Unit {one} of block 2").wait_for()
        page.get_by_role("button", name="Switch this unit off").click()
        page.get_by_text("1 unit off").wait_for()
        page.python(f"explorer.unit = {two}")
        page.get_by_text(f"Unit {two} of block 2").wait_for()
        page.get_by_role("button", name="Switch this unit off").click()
        page.get_by_text("2 units off").wait_for()
        until(page, "explorer.off", f"[[2, {one}], [2, {two}]]")
        with explain.edit(model) as units:
            units.remove(2, [one, two])
            after = model(image)[0].softmax(dim=0)
    assert (after - before).abs().max() > 2e-3, "must show in percent with one decimal"
    top = torch.maximum(before, after).argsort(descending=True)[:6]
    top = top[before[top].argsort(descending=True)]
    wanted = [[100 * before[i].item(), 100 * after[i].item()] for i in top]
    soon_shares(page, wanted)
    shot(page, "filters_off")
    page.get_by_role("button", name="Switch all on again").click()
    page.get_by_text("all units on", exact=True).wait_for()
    soon_shares(page, [[100 * p] * 2 for p in before[order].tolist()])
    until(page, "explorer.off", "[]")


def test_order_by_importance(page, model):
    page.run(3)
    canvas = page.locator("canvas.units").nth(1)
    canvas.wait_for()
    page.get_by_label("order").nth(1).select_option("importance")
    torch.manual_seed(3)
    small = ml.MlpMixer(image_size=32, patch_size=8, num_classes=10, num_blocks=2, hidden_dim=12,
                        tokens_mlp_dim=7, channels_mlp_dim=20)  # fmt: skip
    images, labels = datasets.cifar10_sample()
    step = len(images) // IMAGES
    batch = preprocess(images[::step], model.config)
    measured = explain.unit_importance(small, batch, labels[::step], 0)
    order = measured.loss.argsort(descending=True).tolist()
    wanted = colours(filters.token_filters(small, 0), order, pixels(canvas).shape[1] // 5)
    soon_equal(canvas, wanted)
    assert f"loss {'+' if measured.loss[0] >= 0 else '−'}" in page.cell(3).inner_text()


def test_twenty_runs_of_a_cell_leave_nothing_behind(page):
    def left(session):
        session.send("HeapProfiler.collectGarbage")
        metrics = session.send("Performance.getMetrics")["metrics"]
        return {m["name"]: m["value"] for m in metrics}

    session = page.context.new_cdp_session(page.page)
    session.send("Performance.enable")
    page.run(3)
    canvases = page.locator("canvas").count()
    before = left(session)
    for _ in range(20):
        page.run(3)
        page.cell(3).locator("canvas.units").wait_for()
    assert page.locator("canvas").count() == canvases
    after = left(session)
    # JupyterLab keeps the bare view of every output that it replaced, 3 listeners each, whatever
    # the widget. An explorer has some 35 more (controls and their abort signals): none may stay.
    assert after["JSEventListeners"] - before["JSEventListeners"] <= 20 * 4
    assert after["Nodes"] - before["Nodes"] <= 20 * 200
    waiting = page.python(
        "import threading; print(sum('_order_rest' in t.name for t in threading.enumerate()))"
    )
    assert int(waiting) <= 1


def test_a_saved_page_passes_the_same_drag_test_offline(saved_page, model, tmp_path):
    explorer = ml.explore_filters(model, ml.images.photo("cat"))
    path = explorer.save_html(tmp_path / "filters.html")
    assert path.stat().st_size < 2_000_000
    page = saved_page(path)
    page.locator("canvas.units").wait_for()
    drag_through_blocks(page, model)
    assert page.get_by_role("button", name="Switch this unit off").is_disabled()
    assert page.get_by_text("Switching units off needs Python").count() == 1
    shot(page, "filters_saved")


def test_dark_and_narrow(lab, browser, saved_page, model, tmp_path):
    explorer = ml.explore_filters(model)
    path = explorer.save_html(tmp_path / "filters.html")
    page = saved_page(path, viewport={"width": 320, "height": 900}, color_scheme="dark")
    page.locator("canvas.units").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    # Fewer maps in a row, so that a finger can hit one; still the right ones.
    canvas = page.locator("canvas.units")
    page.get_by_label("order").select_option("index")
    across = pixels(canvas).shape[1] // 9
    assert canvas.bounding_box()["width"] / across >= 22
    soon_equal(canvas, colours(filters.token_filters(model, 0), range(64), across))
    shot(page, "filters_narrow_dark")
