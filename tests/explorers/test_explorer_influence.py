"""The influence explorer: its traits, what it computes and sends, on two sizes of model."""

import re

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

import mixer_lite as ml
from mixer_lite import explain, images
from mixer_lite.explorers import explore_influence
from mixer_lite.explorers.influence import page as module
from mixer_lite.images import preprocess
from mixer_lite.specs import ModelConfig

# A grid of 3 x 3 patches and 5 channels: S = 9.
SIZES = dict(
    image_size=12, patch_size=4, num_classes=4, num_blocks=2,
    hidden_dim=5, tokens_mlp_dim=7, channels_mlp_dim=8,
)  # fmt: skip
PROBES = 8


@pytest.fixture
def model():
    made = ml.MlpMixer(**SIZES)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    made.config = ModelConfig("tiny", 12)
    return made


@pytest.fixture
def photo():
    return images.photo("coffee")


@pytest.fixture
def large(monkeypatch):
    """Every model counts as a large one."""
    monkeypatch.setattr(module, "SMALL", 0)


def sent(explorer, key):
    entry = explorer._maps[key]
    assert entry["dtype"] == "float32"
    return np.frombuffer(entry["data"], "<f4").reshape(entry["shape"])


def wanted(model, photo, block, **how):
    return explain.influence(model, preprocess(photo, model.config), block, **how).numpy()


def test_all_blocks_of_a_small_model_are_there_at_once(model, photo):
    explorer = explore_influence(model, photo)
    assert set(explorer._maps) == {"0", "1"}
    for block in (0, 1):
        assert np.allclose(sent(explorer, str(block)), wanted(model, photo, block), atol=1e-6)
    assert np.abs(sent(explorer, "0") - sent(explorer, "0").T).max() > 0.01  # a transpose shows
    explorer.block = 1
    assert np.array_equal(explorer.matrix, sent(explorer, "1"))
    assert (explorer.row, explorer.column, explorer.token) == (1, 1, 4)


def test_the_whole_network_when_it_is_asked_for(model, photo):
    explorer = explore_influence(model, photo, row=2, column=0)
    busy = []
    explorer.observe(lambda change: busy.append(change.new), "_busy")
    explorer.whole = True
    assert np.allclose(sent(explorer, "whole"), wanted(model, photo, None, probes=PROBES))
    assert busy == ["Python is asking the whole network. This takes a moment.", ""]
    explorer.whole = False
    explorer.whole = True
    assert len(busy) == 2  # known by now
    exact = explore_influence(model, photo, probes=None)
    exact.whole = True
    assert np.allclose(sent(exact, "whole"), wanted(model, photo, None))
    assert np.abs(sent(exact, "whole") - sent(explorer, "whole")).max() > 1e-3


def test_a_large_model_is_asked_patch_by_patch(model, photo, large):
    explorer = explore_influence(model, photo, block=1, row=1, column=2)
    assert set(explorer._maps) == {"1"}
    full = wanted(model, photo, 1)

    def known():
        return np.flatnonzero(~np.isnan(sent(explorer, "1")).any(axis=1)).tolist()

    assert known() == [5]
    explorer.set_state({"row": 0, "column": 1})  # as a page does
    assert known() == [1, 5]
    assert np.allclose(sent(explorer, "1")[[1, 5]], full[[1, 5]], atol=1e-6)
    explorer.whole = True
    probes = wanted(model, photo, None, tokens=[1], probes=PROBES)
    assert np.allclose(sent(explorer, "whole")[[1]], probes, atol=1e-6)
    explorer.whole = False

    busy = []
    explorer.observe(lambda change: busy.append(change.new), "_busy")
    explorer.set_state({"_asked": 1})
    assert known() == list(range(9))
    assert np.allclose(sent(explorer, "1"), full, atol=1e-6)
    assert [re.search("([0-9]) of 7", b)[1] for b in busy[:-1]] == ["0", "4"]
    assert busy[-1] == ""


def test_an_error_does_not_leave_the_page_waiting(model, photo, large, monkeypatch):
    explorer = explore_influence(model, photo)

    def fails(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(module, "influence", fails)
    with pytest.raises(RuntimeError, match="no memory"):
        explorer.block = 1
    assert explorer._busy == ""


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("block", 2, "block must be from 0 to 1, not 2"),
        ("row", 3, "row must be from 0 to 2, not 3"),
        ("column", -1, "column must be from 0 to 2, not -1"),
        ("direction", "up", "direction"),
    ],
)
def test_a_wrong_value_is_refused_and_the_old_one_stays(model, photo, name, value, sentence):
    explorer = explore_influence(model, photo)
    old = getattr(explorer, name)
    with pytest.raises(traitlets.TraitError, match=sentence):
        setattr(explorer, name, value)
    assert getattr(explorer, name) == old


def test_what_is_not_there_cannot_be_explored(model, photo):
    for wrong, sentence in (
        ({"block": 2}, "block must be from 0 to 1, not 2"),
        ({"row": 9}, "row must be from 0 to 2, not 9"),
        ({"probes": 0}, "probes must be 1 or more"),
    ):
        with pytest.raises(ValueError, match=sentence):
            explore_influence(model, photo, **wrong)
    with pytest.raises(FileNotFoundError, match="no file"):
        explore_influence(model, "nowhere.jpg")
    model.config = None
    with pytest.raises(ValueError, match="does not know how its images were prepared"):
        explore_influence(model, photo)


def test_the_page_shows_what_the_model_sees(model):
    left = Image.new("RGB", (24, 24))
    left.paste((255, 255, 255), (0, 0, 12, 24))
    model.config = ModelConfig("tiny", 12, crop=1.0)
    entry = explore_influence(model, left)._image
    pixels = np.frombuffer(entry["data"], np.uint8).reshape(entry["shape"])
    assert pixels.shape == (12, 12, 3)
    assert (pixels[:, :4] > 250).all() and (pixels[:, 8:] < 5).all()


def test_the_figure_is_of_what_is_chosen(model, photo, large):
    explorer = explore_influence(model, photo, block=1, row=2, column=1)
    full = wanted(model, photo, 1)

    def drawn():
        return np.ma.filled(explorer.figure().axes[1].images[0].get_array(), np.nan).ravel()

    def others(numbers):
        return np.where(np.arange(9) == 7, np.nan, numbers)

    assert np.allclose(drawn(), others(full[7]), equal_nan=True)
    explorer.direction = "heard"
    assert np.allclose(drawn(), others(full[:, 7]), equal_nan=True)
    bundle, _ = explorer._repr_mimebundle_()
    assert "Who listens to token 7, block 1" in bundle["text/plain"]


def test_the_saved_page_holds_the_whole_of_a_small_model(photo, tmp_path):
    model = ml.create_model("mixer_pico_cifar10")
    model.config = ModelConfig("pico", 32)
    explorer = explore_influence(model, photo)
    text = explorer.save_html(tmp_path / "influence.html").read_text(encoding="utf-8")
    assert set(explorer._maps) == {"0", "1", "2", "3", "whole"}
    assert not np.isnan(sent(explorer, "whole")).any()
    assert len(text) < 1_200_000
    still = explorer.save_html(tmp_path / "still.html", live=False)
    assert still.stat().st_size < 250_000
    assert not re.search(r"https?://|<link|import ", text)


def test_of_several_photographs_the_mean_is_shown(model):
    names = ("coffee", "cat", "photographer")
    photos = [images.photo(name) for name in names]
    explorer = explore_influence(model, photos, block=1)
    total = sum(wanted(model, photo, 1) for photo in photos)
    assert explorer._count == 3 and np.allclose(sent(explorer, "1"), total / 3, atol=1e-6)
    explorer.whole = True
    total = sum(wanted(model, photo, None, probes=PROBES) for photo in photos)
    assert np.allclose(sent(explorer, "whole"), total / 3, atol=1e-6)
    shown = np.frombuffer(explorer._image["data"], np.uint8).reshape(12, 12, 3)
    seen = [
        images.unnormalize(preprocess(photo, model.config), model.config)[0] for photo in photos
    ]
    assert np.abs(shown - np.mean(seen, axis=0)).max() <= 0.5
    assert "mean of 3 photographs" in explorer.figure().alt
    batch = torch.stack(
        [torch.from_numpy(np.array(photo.resize((12, 12)))).permute(2, 0, 1) for photo in photos]
    )
    assert explore_influence(model, batch)._count == 3
    with pytest.raises(ValueError, match="at least one image"):
        explore_influence(model, [])
