"""explore_filters in JupyterLab and in a saved page, held to the Python functions."""

import io
import json

import matplotlib
import numpy as np
import pytest
import torch
from lab import at_rest, drag, pixels, shot, soon, until
from shown import colours, laid, soon_equal, soon_shares

import mixer_lite as ml
from mixer_lite import datasets, explain, filters
from mixer_lite.explorers.filters.page import IMAGES
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
    slider = page.get_by_label("block", exact=True).first
    page.get_by_label("order").first.select_option("index")
    before = pixels(canvas)
    for block in (5, model.num_blocks - 1, 2):
        drag(slider, block)
        shown = pixels(canvas)
        wanted = colours(filters.token_filters(model, block), range(64), **laid(canvas))
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
    drag(page.get_by_label("block", exact=True).first, 3)
    reads, writes = (filters.token_filters(model, 3, layer) for layer in ("fc1", "fc2"))
    page.get_by_label("order").first.select_option("frequency")
    soon_equal(
        canvas, lambda: colours(reads, filters.order_by_frequency(reads).tolist(), **laid(canvas))
    )
    page.get_by_label("layer").first.select_option("fc2")
    page.get_by_label("order").first.select_option("pairs")
    pairs = filters.pair_opposite_phases(writes).flatten().tolist()
    soon(lambda: _apart(canvas, True))
    soon_equal(canvas, lambda: colours(writes, pairs, **laid(canvas)))
    says_the_pair(page, writes, pairs)
    page.get_by_label("colours").first.select_option("block")
    soon_equal(canvas, lambda: colours(writes, pairs, shared=True, **laid(canvas)))
    # Python can choose, too, once it has heard of this choice.
    until(page, "explorer.scale", "block")
    page.python("explorer.layer, explorer.order, explorer.scale = 'fc1', 'index', 'unit'")
    soon(lambda: _apart(canvas, False))
    soon_equal(canvas, lambda: colours(reads, range(64), **laid(canvas)))
    assert page.get_by_label("layer").first.input_value() == "fc1"


def _apart(canvas, wanted):
    assert (laid(canvas)["apart"] > 0) == wanted


def says_the_pair(page, maps, pairs):
    """The sentence under the unit gives its mate and their cosine."""
    unit = int(
        page.get_by_text("of block 3", exact=False)
        .locator("visible=true")
        .all_inner_texts()[-1]
        .split(" ")[1]
    )
    mate = pairs[pairs.index(unit) ^ 1]
    cosine = torch.nn.functional.cosine_similarity(
        maps[unit].flatten(), maps[mate].flatten(), dim=0
    )
    said = page.get_by_text("In its pair: ").inner_text().replace("−", "-")
    words = said.split(" ")
    assert int(words[4].strip(",")) == mate
    assert float(words[6].strip(",.")) == pytest.approx(float(cosine), abs=0.011)


def test_a_chosen_unit_reaches_python(page, model):
    page.run(1)
    page.python("explorer.block, explorer.layer, explorer.order = 4, 'fc1', 'index'")
    canvas = page.locator("canvas.units").first
    soon(lambda: _apart(canvas, False))
    soon_equal(canvas, lambda: colours(filters.token_filters(model, 4), range(64), **laid(canvas)))
    across = laid(canvas)["across"]
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
    figures = page.locator(".mixer-lite").first.locator("section + section figure canvas")
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
        before = (model(image)[0] / model.config.temperature).softmax(dim=0)
        order = before.argsort(descending=True)[:6]
        change = []
        for unit in range(64):  # the two that matter most, else the test says little
            with explain.edit(model) as units:
                units.remove(2, unit)
                change.append(
                    ((model(image)[0] / model.config.temperature).softmax(dim=0) - before)
                    .abs()
                    .max()
                    .item()
                )
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
            after = (model(image)[0] / model.config.temperature).softmax(dim=0)
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
    soon(lambda: _apart(canvas, False))
    wanted = colours(filters.token_filters(small, 0), order, **laid(canvas))
    soon_equal(canvas, lambda: wanted)
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
    path = explorer.save_html(tmp_path / "filters.html", live=False)
    assert path.stat().st_size < 2_000_000
    page = saved_page(path)
    page.locator("canvas.units").wait_for()
    drag_through_blocks(page, model)
    assert page.get_by_role("button", name="Switch this unit off").is_disabled()
    assert (
        page.get_by_text("Switching units off or opening another photograph needs Python").count()
        == 1
    )
    shot(page, "filters_saved")


def test_a_saved_page_switches_units_off_without_python(
    saved_page, model, tmp_path, page_without_simd
):
    explorer = ml.explore_filters(model, ml.images.photo("eagle"))
    path = explorer.save_html(tmp_path / "filters.html")
    assert path.stat().st_size < 4_000_000
    png = io.BytesIO()
    ml.images.photo("coffee").save(png, "PNG")
    for opened in (path, page_without_simd(path)):
        switch_off_and_look(saved_page(opened), model, png)


def switch_off_and_look(page, model, png):
    """Units off one after the other, then another photograph, each time held to Python."""
    image = preprocess(ml.images.photo("eagle"), model.config)
    off = []
    for block, unit in ((0, 0), (5, 3)):
        drag(page.get_by_label("block", exact=True).first, block)
        page.locator("canvas.units").focus()
        page.get_by_label("order").first.select_option("index")
        for _ in range(unit):
            page.locator("canvas.units").press("ArrowRight")
        page.get_by_role("button", name="Switch this unit off").click()
        off.append([block, unit])
        soon_shares(page, shares_without(model, image, off))
    soon(lambda: answers_as(page, model, image, block, unit, off))
    file = {"name": "cup.png", "mimeType": "image/png", "buffer": png.getvalue()}
    page.locator("input[type=file]").set_input_files(file)
    other = preprocess(png, model.config)
    soon_shares(page, shares_without(model, other, off))
    soon(lambda: answers_as(page, model, other, block, unit, off))
    page.get_by_role("button", name="Switch all on again").click()
    soon_shares(page, shares_without(model, other, []))


def shares_without(model, image, off):
    """Percentages before and after, of the classes that are highest in either."""
    with torch.no_grad(), explain.edit(model) as units:
        before = (model(image)[0] / model.config.temperature).softmax(0)
        for block, unit in off:
            units.remove(block, unit)
        after = (model(image)[0] / model.config.temperature).softmax(0)
    high = torch.maximum(before, after).topk(6).indices
    top = high[before[high].argsort(descending=True)]
    return 100 * torch.stack([before[top], after[top]], dim=1).numpy()


def answers_as(page, model, image, block, unit, off=()):
    """The four channels that a unit answers to most while some are off, as captions say."""
    with explain.edit(model) as units:
        for pair in off:
            units.remove(*pair)
        values = explain.unit_responses(model, image, block)[1][:, unit]
    top = values.topk(4)
    wanted = [f"channel {int(c)}: {v:.2f}".replace("-", "−") for v, c in zip(*top, strict=True)]
    said = page.locator("figcaption").all_inner_texts()
    assert [text for text in said if text.startswith("channel ")] == wanted


def test_dark_and_narrow(lab, browser, saved_page, model, tmp_path):
    explorer = ml.explore_filters(model)
    path = explorer.save_html(tmp_path / "filters.html")
    page = saved_page(path, viewport={"width": 320, "height": 900}, color_scheme="dark")
    page.locator("canvas.units").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    # Fewer maps in a row, so that a finger can hit one; still the right ones.
    canvas = page.locator("canvas.units")
    page.get_by_label("order").select_option("index")
    soon(lambda: _apart(canvas, False))
    assert laid(canvas)["across"] <= 8 and canvas.bounding_box()["width"] / 8 >= 22
    soon_equal(canvas, lambda: colours(filters.token_filters(model, 0), range(64), **laid(canvas)))
    shot(page, "filters_narrow_dark")


def test_two_models_stand_side_by_side(saved_page, model, tmp_path):
    """Units of a shuffled and disturbed copy stand beside their own, the least alike first."""
    other = ml.load_pretrained("mixer_nano_cifar10")
    dice = torch.Generator().manual_seed(0)
    order = torch.randperm(64, generator=dice)
    noise = torch.linspace(0, 0.6, 64)[:, None] * torch.randn(64, 64, generator=dice) * 0.05
    with torch.no_grad():
        mlp = other.blocks[2].mlp_tokens
        mlp.fc1.weight.copy_((mlp.fc1.weight + noise)[order])
        mlp.fc2.weight.copy_(mlp.fc2.weight[:, order])
    explorer = ml.explore_filters(model, other)
    path = explorer.save_html(tmp_path / "two.html")
    page = saved_page(path, viewport={"width": 1400, "height": 900})
    drag(page.get_by_label("block", exact=True).first, 2)
    index, likeness = filters.match_units(model, other, 2)
    assert (order[index] == torch.arange(64)).all()
    places = likeness.argsort(stable=True).tolist()
    first, second = (page.locator("canvas.units").nth(k) for k in (0, 1))
    mine, its = filters.token_filters(model, 2), filters.token_filters(other, 2)
    soon_equal(first, colours(mine, places, **laid(first)))
    soon_equal(second, colours(its, index[places].tolist(), **laid(second)))
    # The chosen unit beside its match, and their cosine.
    box = at_rest(second)
    second.click(position={"x": box["width"] * 0.01, "y": box["height"] * 0.01})
    unit = places[0]
    page.get_by_text(f"Unit {unit} of block 2").first.wait_for()
    cosine = torch.nn.functional.cosine_similarity(
        mine[unit].flatten(), its[index[unit]].flatten(), dim=0
    )
    said = page.get_by_text(f"second model: unit {int(index[unit])} reads, cosine ").inner_text()
    assert float(said.split(" ")[-1].replace("−", "-")) == pytest.approx(float(cosine), abs=0.011)
    shot(page, "filters_two_models")


def test_the_images_that_excite_a_unit_are_shown(saved_page, model, tmp_path):
    explorer = ml.explore_filters(model)
    explorer.block = 3
    images, _ = datasets.cifar10_sample()
    batch = preprocess(images, model.config)
    explorer.find_images(images[:40])
    page = saved_page(explorer.save_html(tmp_path / "found.html"))
    page.get_by_label("order").first.select_option("index")
    page.locator("canvas.units").press("ArrowRight")
    heard = torch.stack([explain.unit_responses(model, x, 3)[1][:, 1] for x in batch[:40]])
    best = heard.amax(dim=1).topk(5)
    wanted = [
        f"image {int(n)}, channel {int(heard[n].argmax())}: {v:.2f}"
        for v, n in zip(*best, strict=True)
    ]
    soon(lambda: _captions(page, wanted))
    # The picture is the image, and beside it stands the channel as the unit read it.
    n = int(best.indices[0])
    shown = pixels(page.locator(".found canvas").nth(0))[..., :3]
    assert (shown == images[n].permute(1, 2, 0).numpy()).all()
    read = explain.unit_responses(model, batch[n], 3)[0][heard[n].argmax()]
    soon_equal(page.locator(".found canvas").nth(1), colours(read[None], [0])[:8, :8])
    drag(page.get_by_label("block", exact=True).first, 2)
    assert page.get_by_text("they were looked for in block 3 only").count() == 1


def _captions(page, wanted):
    assert page.locator(".found figcaption").all_inner_texts() == wanted
