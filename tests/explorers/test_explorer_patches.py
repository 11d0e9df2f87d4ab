"""The patch explorer: its traits, what it sends to the page, its shuffles, its still picture."""

import re

import numpy as np
import pytest
import torch
import traitlets
from einops import rearrange
from IPython.core.formatters import DisplayFormatter
from PIL import Image

from mixer_lite import explain, images
from mixer_lite.explorers import explore_patches
from mixer_lite.explorers.patches.page import orders

KINDS = {"uint8": np.uint8, "int32": "<i4"}


def sent(entry):
    """The array that the page unpacks."""
    return np.frombuffer(entry["data"], KINDS[entry["dtype"]]).reshape(entry["shape"])


@pytest.fixture
def photo():
    return images.photo("coffee")


@pytest.fixture
def explorer(photo):
    return explore_patches(photo, patch_size=32, row=2, column=5)


def test_place_follows_the_patch_size(explorer):
    explorer.patch_size = 16  # the same spot of the photograph
    assert (explorer.row, explorer.column) == (4, 10)
    explorer.patch_size = 112
    assert (explorer.row, explorer.column) == (0, 1)
    explorer.row = 1
    assert "row 1, column 1" in explorer.figure().alt
    tokens = rearrange(np.asarray(explorer.image), "(a p) (b q) c -> a b p q c", p=112, q=112)
    (shown,) = explorer.figure().axes[1].images
    assert np.array_equal(shown.get_array(), tokens[1, 1])


def test_a_page_may_send_the_place_with_the_size(explorer):
    explorer.set_state({"patch_size": 16, "row": 4, "column": 11})
    assert (explorer.patch_size, explorer.row, explorer.column) == (16, 4, 11)
    explorer.set_state({"patch_size": 8, "row": 8, "column": 22})
    explorer.patch_size = 16
    assert (explorer.row, explorer.column) == (4, 11)


def test_python_can_follow_what_a_reader_chooses(explorer):
    seen = []
    explorer.observe(lambda change: seen.append((change.name, change.new)), ["row", "column"])
    explorer.set_state({"row": 3, "column": 0})
    assert sorted(seen) == [("column", 0), ("row", 3)]


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("patch_size", 30, "patch_size must be one of .*, not 30"),
        ("row", 7, "row must be from 0 to 6, not 7"),
        ("column", -1, "column must be from 0 to 6, not -1"),
        ("seed", -1, "seed"),
        ("patches_shuffled", "yes", "patches_shuffled"),
    ],
)
def test_a_wrong_value_is_refused_and_the_old_one_stays(explorer, name, value, sentence):
    old = getattr(explorer, name)
    with pytest.raises(traitlets.TraitError, match=sentence):
        setattr(explorer, name, value)
    assert getattr(explorer, name) == old


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ({"patch_size": 30}, "patch_size must be one of"),
        ({"patch_size": 112, "row": 2}, "must be from 0 to 1, not 2 and 1"),
    ],
)
def test_what_is_not_there_cannot_be_explored(sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        explore_patches(images.photo("cat"), **sizes)


def test_the_photograph_is_the_largest_square_and_sent_as_it_is(explorer):
    assert explorer.image.size == (224, 224)
    wide = Image.new("RGB", (448, 224))
    wide.paste((255, 0, 0), (112, 0, 336, 224))  # the middle half
    assert explore_patches(wide).image.getcolors() == [(224 * 224, (255, 0, 0))]
    assert np.array_equal(sent(explorer._image), np.asarray(explorer.image))


@pytest.mark.parametrize("seed", [0, 5])
def test_permutations_are_fixed_by_the_seed(explorer, seed):
    explorer.seed = seed
    for p in (7, 32, 112):
        chosen = orders(seed, p)
        assert np.array_equal(sent(explorer._order), chosen["order"])
        assert np.array_equal(sent(explorer._patch_orders[str(p)]), chosen["patch_order"])
        assert np.array_equal(sent(explorer._pixel_orders[str(p)]), chosen["pixel_order"])
        for name, size in (("order", 50176), ("patch_order", (224 // p) ** 2)):
            assert sorted(chosen[name].tolist()) == list(range(size))
    other = orders(seed + 1, 32)
    assert all(not torch.equal(orders(seed, 32)[name], other[name]) for name in other)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("patches", [False, True])
def test_shuffles_by_hand(explorer, patches, within, whole):
    explorer.patch_size, explorer.seed = 28, 3
    explorer.patches_shuffled, explorer.pixels_shuffled = patches, within
    explorer.image_shuffled = whole
    before = np.asarray(explorer.image).reshape(-1, 3)
    if whole:
        before = before[sent(explorer._order)]
    before = before.reshape(224, 224, 3)
    places, pixels = (sent(e["28"]) for e in (explorer._patch_orders, explorer._pixel_orders))
    for place, pixel in ((0, 0), (9, 700), (63, 783), (17, 30)):
        there, there_pixel = (
            (places[place] if patches else place),
            (pixels[pixel] if within else pixel),
        )
        y, x = 28 * (place // 8) + pixel // 28, 28 * (place % 8) + pixel % 28
        from_y, from_x = 28 * (there // 8) + there_pixel // 28, 28 * (there % 8) + there_pixel % 28
        assert np.array_equal(explorer.pixels[y, x], before[from_y, from_x])
    unmoved = np.array_equal(explorer.pixels, explorer.image)
    assert unmoved == (not (patches or within or whole))


def test_shuffles_are_those_of_the_course(explorer):
    x = torch.tensor(np.asarray(explorer.image)).permute(2, 0, 1)
    chosen = orders(0, 32)
    explorer.patches_shuffled = True
    wanted = explain.shuffle_patches(x, 32, patch_order=chosen["patch_order"])
    assert np.array_equal(explorer.pixels, wanted.permute(1, 2, 0))
    (shown,) = explorer.figure().axes[1].images  # the figure shows it, too
    assert np.array_equal(shown.get_array(), wanted.permute(1, 2, 0)[64:96, 160:192])


def test_a_picture_stays_where_no_kernel_runs():
    bundle, metadata = explore_patches(images.photo("cat"))._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["image/jpeg"] and metadata["image/jpeg"]["alt"] in bundle["text/plain"]
    assert "row 2, column 1 marked" in bundle["text/plain"]
    # and IPython takes both
    data, _ = DisplayFormatter().format(explore_patches(images.photo("cat")))
    assert {"application/vnd.jupyter.widget-view+json", "image/jpeg"} <= set(data)


def test_the_saved_page_needs_nothing_else(explorer, tmp_path):
    path = explorer.save_html(tmp_path / "patches.html")
    text = path.read_text(encoding="utf-8")
    assert len(text) < 800_000
    assert not re.search(r"https?://|<link|import ", text)
    assert "<title>Images as tokens</title>" in text
