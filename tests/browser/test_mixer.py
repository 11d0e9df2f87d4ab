"""explore_mixer in a saved page and in JupyterLab, held to Python's numbers."""

import io
import json

import matplotlib
import numpy as np
import pytest
import torch
from lab import drag, pixels, shot, soon

import mixer_lite as ml
from mixer_lite import explain, images
from mixer_lite.explorers.mixer import stations


@pytest.fixture(scope="module")
def model():
    return ml.load_pretrained("mixer_nano_cifar10")


@pytest.fixture
def explorer(model):
    return ml.explore_mixer(model)


@pytest.fixture(scope="module")
def path(model, tmp_path_factory):
    path = ml.explore_mixer(model).save_html(tmp_path_factory.mktemp("mixer") / "mixer.html")
    assert path.stat().st_size < 4_000_000
    return path


def coloured(values):
    """Numbers as the page colours them, on a scale of their own: RGBA."""
    values = np.asarray(values, np.float64)
    table = matplotlib.colormaps["RdBu_r"](np.linspace(0, 1, 255), bytes=True).astype(int)
    steps = np.floor(127 * values / np.abs(values).max() + 0.5).astype(int)
    return table[127 + steps]


def shows(canvas, values):
    """A canvas shows these numbers; one between two of the 255 colours may be either."""
    shown, wanted = pixels(canvas).astype(int), coloured(values)
    assert shown.shape == wanted.shape
    assert np.abs(shown - wanted).max() <= 6


def says(page, explorer):
    """The strip, the open station, the classes and the evidence are Python's."""
    model, image = explorer._network, explorer.input
    with torch.no_grad():
        logits = model(image[None])[0]
    chances, names, chosen = (
        (logits / model.config.temperature).softmax(0),
        model.config.class_names,
        explorer.chosen_class,
    )
    bars = page.locator(".bars button")
    for label in (bars.nth(k).get_attribute("aria-label") for k in range(bars.count())):
        name, rest = label.split(": probability ")
        k = names.index(name)
        assert abs(float(rest.split(" %")[0]) - 100 * float(chances[k])) < 0.06
        logit = rest.split("logit ")[1].split(";")[0].replace("−", "-")
        assert abs(float(logit) - float(logits[k])) < 0.006
    depth = (explain.prediction_by_depth(model, image) / model.config.temperature).softmax(1)[
        :, chosen
    ]
    texts = page.locator(".depth .said").all_inner_texts()[1:]
    for text, p in zip(texts, depth[1:].tolist(), strict=True):
        name, share, _ = text.split()
        assert name == names[chosen] and abs(float(share) - 100 * p) < 0.06
    way = stations.tokens_on_the_way(model, image[None])
    stops = page.locator(".strip .stop canvas")
    for n, table in enumerate(way):
        values = table if explorer.picture == "table" else table[:, explorer.channel].view(8, 8)
        if explorer.picture == "channel":
            shows(stops.nth(n + 1), values)
        else:
            assert pixels(stops.nth(n + 1)).shape == (64, 128, 4)
    evidence = explain.patch_evidence(model, image, chosen).numpy()
    shows(page.locator(".said canvas"), evidence - evidence.mean())
    station_says(page, explorer)


def station_says(page, explorer):
    told = explorer.sum
    folds = dict(stem=(4, 12), tokens=(8, 8), channels=(8, 16), classes=(8, 16))
    rows, columns = folds[explorer.station]
    parts = [told.values, told.weights, told.values * told.weights, told.written]
    parts += [told.before, None if told.before is None else told.after - told.before]
    parts += [told.after if told.before is not None else None]
    maps = page.locator(".station .flow-row canvas")
    for n, values in enumerate(parts):
        assert maps.nth(n).is_visible() == (values is not None)
        if values is None:
            continue
        laid = values.detach().numpy()
        if explorer.station == "stem":  # red, green and blue side by side
            laid = laid.reshape(3, 4, 4).transpose(1, 0, 2)
        shows(maps.nth(n), laid.reshape(rows, columns))
    text = page.locator(".total").inner_text().replace("−", "-")
    numbers = [
        float(word.strip(".,:")) for word in text.split() if word.strip("-.,:")[:1].isdigit()
    ]
    assert any(abs(number - float(told.sum)) < 0.0006 for number in numbers)
    if told.activations is not None:
        unit = explorer.unit if explorer.station == "tokens" else explorer.channel_unit
        assert abs(numbers[-1] - float(told.activations[unit])) < 0.0006


def soon_says(page, explorer):
    soon(lambda: says(page, explorer))


def address_with(page, part):
    """The page's address, once it holds this."""

    def check():
        address = page.evaluate("location.href")
        assert part in address
        return address

    return soon(check)


def patch(page, token):
    box = page.locator("canvas.seen").bounding_box()
    side = box["width"] / 8
    return {"x": side * (token % 8 + 0.5), "y": side * (token // 8 + 0.5)}


def use_everything(page, explorer):
    """Every control of the page, each time held to Python."""
    soon_says(page, explorer)
    # Stations, by the strip.
    for station, block, which in (("stem", None, 0), ("channels", 3, 3), ("classes", None, 0)):
        page.locator(f".stop.{station}").nth(which).click()
        explorer.station = station
        if block is not None:
            explorer.block = block
        soon_says(page, explorer)
    # Cover with the pointer, drag along a row, uncover.
    canvas = page.locator("canvas.seen")
    canvas.click(position=patch(page, 18))
    explorer.covered = [18]
    soon_says(page, explorer)
    box = canvas.bounding_box()
    side = box["width"] / 8
    page.mouse.move(box["x"] + 2.5 * side, box["y"] + 4.5 * side)
    page.mouse.down()
    page.mouse.move(box["x"] + 4.5 * side, box["y"] + 4.5 * side, steps=8)
    page.mouse.up()
    explorer.covered = [18, 34, 35, 36]
    soon_says(page, explorer)
    # Another token, unit, channel, block and class.
    page.get_by_role("button", name="Choose a patch").click()
    canvas.click(position=patch(page, 9))
    page.locator(".stop.channels").nth(6).click()
    explorer.token, explorer.station, explorer.block = 9, "channels", 6
    page.get_by_role("button", name="The loudest unit").click()
    explorer.channel_unit = int(explorer.sum.activations.abs().argmax())
    soon_says(page, explorer)
    page.locator(".stop.tokens").nth(2).click()  # the first is the stem's
    explorer.station, explorer.block = "tokens", 2
    drag(page.get_by_label("channel", exact=True), explorer.channel + 3)
    explorer.channel += 3
    units = page.get_by_role("slider", name="Unit")
    units.focus()
    for _ in range(2):
        units.press("ArrowLeft" if explorer.unit > 1 else "ArrowRight")
    explorer.unit += -2 if explorer.unit > 1 else 2
    soon_says(page, explorer)
    page.locator(".bars button").nth(2).click()
    name = page.locator(".bars button").nth(2).get_attribute("aria-label").split(":")[0]
    explorer.class_index = explorer._network.config.class_names.index(name)
    soon_says(page, explorer)
    page.get_by_label("pictures").select_option("table")
    explorer.picture = "table"
    soon_says(page, explorer)
    # The address holds the view.
    address = address_with(page, "picture=")
    page.goto("about:blank")
    page.goto(address)
    soon_says(page, explorer)
    page.get_by_label("pictures").select_option("channel")
    page.get_by_role("button", name="Uncover all").click()
    explorer.picture, explorer.covered = "channel", []
    soon_says(page, explorer)
    # Another photograph, and one of the reader's.
    page.locator(".thumbnails button").nth(4).click()
    explorer.image = 4
    soon_says(page, explorer)
    jpeg = io.BytesIO()
    images.photo("dahlia").save(jpeg, "JPEG", quality=90)
    file = {"name": "flower.jpg", "mimeType": "image/jpeg", "buffer": jpeg.getvalue()}
    page.locator("input[type=file]").set_input_files(file)
    explorer.image = explorer.add(jpeg, "flower")
    soon_says(page, explorer)


@pytest.mark.parametrize("simd", [True, False], ids=["simd", "javascript"])
def test_everything_in_a_saved_page_is_python_s(
    saved_page, path, explorer, page_without_simd, simd
):
    page = saved_page(
        path if simd else page_without_simd(path), viewport={"width": 1300, "height": 1200}
    )
    page.locator("canvas.seen").wait_for()
    use_everything(page, explorer)
    shot(page, f"mixer_saved_{'simd' if simd else 'javascript'}")


def test_pointing_at_a_number_lights_what_it_came_from(saved_page, path, explorer):
    page = saved_page(path, viewport={"width": 1300, "height": 1200})
    page.locator(".station canvas").nth(2).hover(position={"x": 1, "y": 1})
    told = explorer.sum
    products = (told.values * told.weights).detach()
    rank = int((products.abs() > products[0].abs()).sum()) + 1
    text = page.locator(".told").inner_text().replace("−", "-")
    assert text.startswith(
        f"Patch in row 0, column 0: {told.values[0]:.3f} × {told.weights[0]:.3f} = "
        f"{products[0]:.3f}, number {rank} of 64 by size."
    )
    place = page.locator(".photo .layer .shown")
    assert json.loads(place.evaluate("(n) => JSON.stringify([n.style.left, n.style.top])")) == [
        "0%", "0%",
    ]  # fmt: skip
    assert page.locator(".station .flow-row .layer .kept").count() == 7


def test_the_tour_sets_the_views_that_it_speaks_of(saved_page, path, explorer):
    page = saved_page(path, viewport={"width": 1300, "height": 1200})
    page.get_by_role("button", name="Take the tour, 9 steps").click()
    explorer.station, explorer.token = "stem", 36
    soon_says(page, explorer)
    steps = [("tokens", 0), ("tokens", 0), ("channels", 0), ("tokens", 4), ("channels", 7)]
    for number, (station, block) in enumerate(steps, start=2):
        page.get_by_role("button", name="Next").click()
        explorer.station, explorer.block = station, block
        explorer.picture = "table" if number == 6 else "channel"
        soon_says(page, explorer)
        assert page.locator(".tour .count").inner_text() == f"{number} of 9"
        address_with(page, f"step={number}")
    page.get_by_role("button", name="Next").click()
    explorer.station, explorer.picture = "classes", "channel"
    soon_says(page, explorer)
    evidence = explain.patch_evidence(explorer._network, explorer.input, explorer.chosen_class)
    ranked = evidence.flatten().argsort(descending=True).tolist()
    page.get_by_role("button", name="Next").click()
    for phrase, covered in (
        (None, ranked[:8]),
        ("the 8 that say least", ranked[-8:]),
        ("only the loudest 8", ranked[8:]),
    ):
        if phrase:
            page.get_by_role("button", name=phrase).click()
        explorer.covered = sorted(covered)
        soon_says(page, explorer)
    page.get_by_role("button", name="Next").click()
    explorer.station, explorer.covered = "tokens", []
    soon_says(page, explorer)
    assert page.get_by_role("button", name="Next").is_hidden()
    page.get_by_role("button", name="End the tour").click()
    page.get_by_role("button", name="Take the tour, 9 steps").wait_for()


def test_by_keyboard_alone(saved_page, path, explorer):
    page = saved_page(path, viewport={"width": 1300, "height": 1200})
    page.locator("canvas.seen").focus()
    for key in ("ArrowLeft", "ArrowUp", " ", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    explorer.token, explorer.covered = 19, [19, 27]
    soon_says(page, explorer)
    page.locator(".stop").first.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")  # patches, tokens, block 0, block 0, block 1, block 1
    page.keyboard.press("Enter")
    explorer.station, explorer.block = "channels", 1
    soon_says(page, explorer)
    # What a screen reader finds.
    tree = page.locator("div.mixer-lite").aria_snapshot()
    top = explorer.sum.sum.item()
    assert f"{top:.3f}".replace("-", "−") in tree
    assert "Block 1, channel mixing" in tree and "probability" in tree and "Unit" in tree


@pytest.mark.parametrize("width", [420, 1300])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_wide_and_narrow_light_and_dark(saved_page, path, width, scheme):
    page = saved_page(path, viewport={"width": width, "height": 1000}, color_scheme=scheme)
    page.locator("canvas.seen").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sides = page.locator(".strip").evaluate("(n) => [n.scrollWidth, n.clientWidth]")
    assert (sides[0] > sides[1]) == (width == 420)  # the strip alone is longer than a phone
    # A finger hits every button of the strip, and a vertical swipe over the photograph scrolls.
    for box in (one.bounding_box() for one in page.locator(".stop").all()):
        assert box["width"] >= 40 and box["height"] >= 40
    touch = page.locator("canvas.seen").evaluate("(n) => getComputedStyle(n).touchAction")
    assert touch == "pan-y pinch-zoom"
    shot(page, f"mixer_{width}_{scheme}")


def test_nothing_moves_where_that_is_asked_for(saved_page, path):
    for motion, moves in (("no-preference", "mixer-arrive"), ("reduce", "none")):
        page = saved_page(path, reduced_motion=motion)
        stop = page.locator(".flow .stop").first
        assert stop.evaluate("(n) => getComputedStyle(n).animationName") == moves


def test_an_address_that_means_nothing_is_passed_over(saved_page, path, explorer):
    for nonsense in ("block=99", "block=", "station=%22kitchen%22", "covered=7", "nothing=1"):
        page = saved_page(path.with_suffix(path.suffix), viewport={"width": 1300, "height": 1200})
        page.goto(f"{path.as_uri()}#{nonsense}")
        page.reload()
        soon_says(page, explorer)


def test_without_the_network_the_page_stands_still(saved_page, explorer, tmp_path):
    path = explorer.save_html(tmp_path / "still.html", live=False)
    assert path.stat().st_size < 250_000
    page = saved_page(path, viewport={"width": 1300, "height": 1200})
    says(page, explorer)
    assert page.get_by_text("needs Python").count() == 1
    page.locator("canvas.seen").click(position=patch(page, 18))
    assert page.get_by_label("channel", exact=True).is_disabled()
    says(page, explorer)


def test_in_jupyterlab_python_answers(lab, browser, model, explorer):
    cell = (
        "import mixer_lite as ml\n"
        'explorer = ml.explore_mixer(ml.load_pretrained("mixer_nano_cifar10"))\nexplorer'
    )
    with lab.notebook(browser, [cell], width=1500) as page:
        page.run(0)
        page.locator("canvas.seen").wait_for()
        soon_says(page, explorer)
        page.locator(".stop.channels").nth(2).click()
        page.locator("canvas.seen").click(position=patch(page, 20))
        explorer.station, explorer.block, explorer.covered = "channels", 2, [20]
        soon_says(page, explorer)
        assert page.python("print(explorer.covered, explorer.station)") == "[20] channels\n"
        page.python("explorer.token, explorer.picture, explorer.image = 3, 'table', 2")
        explorer.token, explorer.picture, explorer.image = 3, "table", 2
        soon_says(page, explorer)
        shot(page, "mixer_lab")
