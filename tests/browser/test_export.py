"""What explorers save for a reader: the view as SVG and PNG, and its numbers as CSV."""

import csv
import io
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

import mixer_lite as ml
from mixer_lite import explain, filters
from mixer_lite.images import preprocess
from mixer_lite.prediction import probabilities


@pytest.fixture(scope="module")
def model():
    return ml.load_pretrained("mixer_nano_cifar10")


def saved(page, kind):
    """The bytes of the file that a button gives."""
    with page.expect_download() as waiting:
        page.locator(".saver").get_by_role("button", name=kind).click()
    return waiting.value.path().read_bytes(), waiting.value.suggested_filename


def rows_of(page):
    data, name = saved(page, "CSV")
    assert name.endswith(".csv")
    return list(csv.DictReader(io.StringIO(data.decode())))


def pictures_of(page, words):
    """SVG and PNG hold these words and every canvas on screen; they are returned."""
    data, name = saved(page, "SVG")
    assert name.endswith(".svg")
    root = ElementTree.fromstring(data)
    tags = [element.tag.split("}")[1] for element in root.iter()]
    text = " ".join(element.text or "" for element in root.iter() if element.tag.endswith("text"))
    assert words in " ".join(text.split())
    visible = page.locator("div.mixer-lite canvas").filter(visible=True).count()
    assert tags.count("image") == visible > 0
    assert "foreignObject" not in tags  # it opens in any program
    png, name = saved(page, "PNG")
    assert name.endswith(".png")
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    assert picture.width == pytest.approx(2 * float(root.get("width")), abs=2)
    return root, np.asarray(picture)


def test_predictions(saved_page, model, tmp_path):
    explorer = ml.explore_predictions(model)
    page = saved_page(explorer.save_html(tmp_path / "predictions.html", live=False))
    rows = rows_of(page)
    maps = explain.patch_evidence(model, explorer.input)
    depth = probabilities(explain.prediction_by_depth(model, explorer.input), model.config)
    names = model.config.class_names
    told = [row for row in rows if row["quantity"] == "evidence"]
    assert len(told) == 640
    for row in told:
        y, x = int(row["row"]), int(row["column"])
        wanted = float(maps[names.index(row["class"]), y, x])
        assert float(row["value"]) == pytest.approx(wanted, abs=1e-5)
    for row in rows:
        if row["quantity"].startswith("probability after"):
            wanted = float(depth[int(row["quantity"].split()[2]), names.index(row["class"])])
            assert float(row["value"]) == pytest.approx(wanted, abs=1e-5)
    _, shown = pictures_of(page, "Why this prediction? mixer_nano_cifar10")
    # The PNG shows what the page shows: the photograph's place has the photograph's colours.
    box = page.locator("canvas.seen").bounding_box()
    root = page.locator("div.mixer-lite").bounding_box()
    x, y = box["x"] - root["x"] + box["width"] / 64, box["y"] - root["y"] + box["height"] / 64
    own = page.locator("canvas.seen").evaluate(
        "(c) => Array.from(c.getContext('2d').getImageData(0, 0, 1, 1).data.slice(0, 3))"
    )
    assert np.abs(shown[int(2 * y), int(2 * x)].astype(int) - own).max() <= 2


def test_filters(saved_page, model, tmp_path):
    explorer = ml.explore_filters(model)
    page = saved_page(explorer.save_html(tmp_path / "filters.html"))
    rows = rows_of(page)
    maps = filters.token_filters(model, 0)
    kin, cosine = filters.closest_inverse(maps)
    assert [int(row["unit"]) for row in rows] == explorer.shown()
    for row in rows:
        unit = int(row["unit"])
        sent = [float(row[f"row {y} column {x}"]) for y in range(8) for x in range(8)]
        own = maps[unit].flatten().numpy()
        assert np.abs(sent - own).max() <= np.abs(own).max() * 0.0045
        assert int(row["closest inverse"]) == kin[unit]
        assert float(row["cosine"]) == pytest.approx(float(cosine[unit]), abs=1e-4)
    pictures_of(page, "What the 64 token-mixing units of block 0 read")


def test_influence(saved_page, model, tmp_path):
    explorer = ml.explore_influence(model, ml.images.photo("cat"), row=2, column=5)
    page = saved_page(explorer.save_html(tmp_path / "influence.html", live=False))
    matrix = explain.influence(model, preprocess(ml.images.photo("cat"), model.config), 0)
    for row in rows_of(page):
        assert (row["listening row"], row["listening column"]) == ("2", "5")
        wanted = float(matrix[21, 8 * int(row["row"]) + int(row["column"])])
        assert float(row["influence"]) == pytest.approx(wanted, rel=1e-4)
    pictures_of(page, "By distance in patches")


def test_patches_mixer_and_training(saved_page, model, tmp_path):
    patches = ml.explore_patches(ml.images.photo("cat"))
    page = saved_page(patches.save_html(tmp_path / "patches.html"))
    rows = rows_of(page)
    assert len(rows) == 3 * 32 * 32
    for row in rows[::97]:
        y, x, colour = int(row["line"]), int(row["place"]), row["channel"]
        wanted = patches.pixels[2 * 32 + y, 32 + x, ["red", "green", "blue"].index(colour)]
        assert int(row["brightness"]) == wanted
    pictures_of(page, "A photograph as a table of tokens")

    mixer = ml.explore_mixer(model)
    page = saved_page(mixer.save_html(tmp_path / "mixer.html", live=False))
    logits = model(mixer.input[None])[0]
    said = {row["of"]: row["value"] for row in rows_of(page) if row["quantity"] == "logit"}
    assert len(said) == 10
    for name, value in said.items():
        wanted = float(logits[model.config.class_names.index(name)])
        assert float(value) == pytest.approx(wanted, abs=1e-4)
    pictures_of(page, "A photograph's way through")

    training = ml.explore_training()
    page = saved_page(training.save_html(tmp_path / "training.html"))
    losses = [float(row["value"]) for row in rows_of(page) if row["quantity"] == "loss"]
    wanted = [values[0] for values in training.history.curve.values]
    assert losses == pytest.approx(wanted, rel=1e-5)
    pictures_of(page, "How mixer_nano_cifar10 learns")
