"""What explore_filters holds and sends, compared with the pure functions; no browser here."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
import traitlets
from torch import nn

import mixer_lite as ml
from mixer_lite import explain, filters
from mixer_lite.explorers.filters import page as module
from mixer_lite.images import preprocess

# A 3 x 3 grid, S = 9, C = 14, an odd number of units, 10 classes.
SIZES = dict(
    image_size=12, patch_size=4, num_classes=10, num_blocks=3,
    hidden_dim=14, tokens_mlp_dim=7, channels_mlp_dim=20,
)  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(5)
    made = ml.MlpMixer(**SIZES)
    for p in made.parameters():
        nn.init.normal_(p, std=0.5)
    nano = ml.create_model("mixer_nano_cifar10").config
    made.config = dataclasses.replace(nano, name="small", image_size=12)
    return made


@pytest.fixture
def cat():
    return ml.images.photo("cat")


def values(entry):
    """What packed() or quantized() made, as numbers."""
    numbers = np.frombuffer(entry["data"], entry["dtype"]).reshape(entry["shape"])
    return numbers.astype(float)


def test_weights_sent_are_those_of_the_model(model):
    explorer = ml.explore_filters(model)
    scale = values(explorer._weights["scale"])
    sent = values(explorer._weights).reshape(3, 2, 7, 3, 3) * scale.reshape(3, 2, 7, 1, 1)
    for block in range(3):
        for k, layer in enumerate(("fc1", "fc2")):
            maps = filters.token_filters(model, block, layer).numpy()
            most = np.abs(maps).max(axis=(1, 2), keepdims=True)
            assert (np.abs(sent[block, k] - maps) <= most * (0.5 / 127 + 1e-6)).all()
    explorer._ordering.join()


def test_orders_and_opposites_are_those_of_the_functions(model):
    explorer = ml.explore_filters(model)
    explorer._ordering.join()
    for block in range(3):
        for k, layer in enumerate(("fc1", "fc2")):
            maps = filters.token_filters(model, block, layer)
            explorer.block, explorer.layer = block, layer
            explorer.order = "frequency"
            assert explorer.shown() == filters.order_by_frequency(maps).tolist()
            explorer.order = "pairs"
            assert explorer.shown()[:6] == filters.pair_opposite_phases(maps).flatten().tolist()
            assert sorted(explorer.shown()) == list(range(7))
            sent = values(explorer._orders["pairs"])[block, k]
            assert sent.tolist() == explorer.shown()
            flat = maps.flatten(1).double().numpy()
            unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
            similarity = unit @ unit.T
            kin = values(explorer._opposites["unit"]).reshape(3, 2, 7)[block, k].astype(int)
            told = values(explorer._opposites["similarity"]).reshape(3, 2, 7)[block, k]
            assert (kin == similarity.argmin(axis=1)).all()
            assert told == pytest.approx(similarity.min(axis=1), abs=1e-6)


def test_responses_are_the_units_activations(model, cat):
    explorer = ml.explore_filters(model, cat)
    explorer.block, explorer.unit = 1, 4
    x = model.stem(model.patchify(preprocess(cat, model.config)))
    x = model.blocks[0](x)
    block = model.blocks[1]
    read = block.norm1(x)[0]  # (S, C)
    weight, bias = block.mlp_tokens.fc1.weight[4], block.mlp_tokens.fc1.bias[4]
    wanted = []
    for channel in range(14):
        total = sum(weight[s] * read[s, channel] for s in range(9)) + bias
        wanted.append(nn.functional.gelu(total).item())
    response = explorer._response
    assert (response["block"], response["unit"]) == (1, 4)
    assert values(response["values"]) == pytest.approx(wanted, abs=1e-5)
    top = np.argsort(wanted)[::-1][: module.CHANNELS]
    assert values(response["top"]).tolist() == top.tolist()
    scale = np.array(response["channels"]["scale"])[:, None]
    maps = values(response["channels"]).reshape(4, 9) * scale
    assert np.abs(maps - read[:, top.copy()].T.detach().numpy()).max() <= scale.max() / 2 + 1e-6


def test_units_off_change_the_prediction_and_not_the_model(model, cat):
    explorer = ml.explore_filters(model, cat)
    kept = {name: p.clone() for name, p in model.state_dict().items()}
    versions = [p._version for p in model.parameters()]
    assert explorer.predictions["before"] == explorer.predictions["after"]
    explorer.off = [(2, 3), [0, 1], (2, 3)]
    assert explorer.off == [[0, 1], [2, 3]]
    image = preprocess(cat, model.config)
    before = model(image)[0].softmax(dim=0)
    # Independent of edit(): weights taken away by hand, in a copy.
    twin = ml.MlpMixer(**SIZES)
    twin.load_state_dict(model.state_dict())
    with torch.no_grad():
        twin.blocks[0].mlp_tokens.fc2.weight[:, 1] = 0
        twin.blocks[2].mlp_tokens.fc2.weight[:, 3] = 0
    after = twin(image)[0].softmax(dim=0)
    told = explorer.predictions
    names = ml.specs.CIFAR10_CLASSES
    index = [names.index(label) for label in told["labels"]]
    assert told["before"] == pytest.approx(before[index].tolist(), abs=1e-6)
    assert told["after"] == pytest.approx(after[index].tolist(), abs=1e-6)
    assert set(index) == set(torch.maximum(before, after).topk(module.CLASSES).indices.tolist())
    # The block behind an edited one hears what is left.
    explorer.block = 1
    heard = explain.unit_responses(twin, image, 1)[1][:, 0]
    assert values(explorer._response["values"]) == pytest.approx(heard.tolist(), abs=1e-5)
    explorer.off = []
    assert explorer.predictions["after"] == explorer.predictions["before"]
    assert all(torch.equal(p, kept[name]) for name, p in model.state_dict().items())
    # Not even for a moment: a cell on another thread may be using the model.
    assert [p._version for p in model.parameters()] == versions


def test_importance_is_unit_importance_on_the_bundled_slice(model):
    explorer = ml.explore_filters(model)
    said = []
    explorer.observe(lambda change: said.append(change.new), "_busy")
    explorer.block, explorer.order = 2, "importance"
    images, labels = ml.datasets.cifar10_sample()
    batch = preprocess(images[::5], model.config)
    measured = explain.unit_importance(model, batch, labels[::5], 2)
    assert explorer.shown() == measured.loss.argsort(descending=True).tolist()
    sent = explorer._importance["2"]
    for name in ("loss", "accuracy", "changed"):
        assert values(sent[name]) == pytest.approx(getattr(measured, name).tolist(), abs=1e-6)
    assert len(said) == 2 and "7 units of block 2" in said[0] and said[1] == ""
    explorer.block = 0
    assert set(explorer._importance) == {"0", "2"} and len(said) == 4


def test_importance_is_not_offered_without_labelled_images(model):
    model.config = dataclasses.replace(model.config, class_names=tuple("abcdefghij"))
    explorer = ml.explore_filters(model)
    with pytest.raises(traitlets.TraitError, match="only for models of CIFAR-10's ten classes"):
        explorer.order = "importance"
    assert explorer.order == "pairs" and "CIFAR-10" in explorer._unoffered


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("block", 3, "block must be from 0 to 2, not 3"),
        ("block", -1, "block must be from 0 to 2, not -1"),
        ("unit", 7, "unit must be from 0 to 6, not 7"),
        ("layer", "fc3", "fc3"),
        ("order", "size", "size"),
        ("scale", "all", "all"),
        ("off", [[0, 7]], r"units from 0 to 6, not \[0, 7\]"),
        ("off", [[3, 0]], r"blocks from 0 to 2 and"),
        ("off", [4], "pairs"),
        ("off", [[0, 1.5]], "pairs"),
    ],
)
def test_wrong_values_are_refused_and_the_old_one_stays(model, name, value, sentence):
    explorer = ml.explore_filters(model)
    old = getattr(explorer, name)
    with pytest.raises(traitlets.TraitError, match=sentence):
        setattr(explorer, name, value)
    assert getattr(explorer, name) == old


def test_an_image_needs_to_know_its_preprocessing(model, cat):
    model.config = None
    assert ml.explore_filters(model).predictions == {}
    with pytest.raises(ValueError, match=r"set model\.config"):
        ml.explore_filters(model, cat)


def test_a_model_without_a_head_has_responses_and_no_bars(cat):
    torch.manual_seed(0)
    model = ml.MlpMixer(**{**SIZES, "num_classes": 0})
    model.config = dataclasses.replace(
        ml.create_model("mixer_nano_cifar10").config, image_size=12, class_names=()
    )
    explorer = ml.explore_filters(model, cat)
    assert explorer.predictions == {} and explorer._response["values"]["shape"] == [14]
    assert not explorer._sizes["head"]


def test_a_relative_with_one_matrix_a_block(tmp_path):
    import timm

    from mixer_lite.weights.relatives import token_mixing

    theirs = timm.create_model("resmlp_12_224", img_size=64, num_classes=2)
    state = {k: v for k, v in theirs.state_dict().items()}
    explorer = ml.explore_filters(token_mixing(state, name="random ResMLP"))
    explorer.block = 7
    sent, scale = explorer._weights, values(explorer._weights["scale"])
    maps = np.frombuffer(sent["data"], np.int8).reshape(12, 16, 4, 4) * scale.reshape(12, 16, 1, 1)
    wanted = state["blocks.7.linear_tokens.weight"].reshape(16, 4, 4).numpy()
    assert np.abs(maps[7] - wanted).max() <= scale.max() / 2 + 1e-7
    with pytest.raises(traitlets.TraitError, match="one matrix a block"):
        explorer.layer = "fc2"
    with pytest.raises(ValueError, match="predicts nothing: leave the image away"):
        ml.explore_filters(explorer.model, ml.images.photo("cat"))
    assert "16 token-mixing units of block 7 read" in explorer.figure().alt
    assert explorer.save_html(tmp_path / "resmlp.html").stat().st_size < 100_000


def test_pages_are_whole_and_small(tmp_path, cat):
    explorer = ml.explore_filters(ml.create_model("mixer_nano_cifar10"), cat)
    path = explorer.save_html(tmp_path / "nano.html")
    text = path.read_text(encoding="utf-8")
    assert len(text) < 4_000_000 and not re.search(r"https?://", text)
    still = explorer.save_html(tmp_path / "still.html", live=False)
    assert still.stat().st_size < 2_000_000
    state = json.loads(text.split('id="state">')[1].split("</script>")[0])
    assert (
        state["block"] == 0 and state["order"] == "pairs" and "$bytes" in state["_weights"]["data"]
    )
    large = ml.explore_filters(ml.create_model("mixer_b16_224"))
    assert large.save_html(tmp_path / "b16.html").stat().st_size < 10_000_000
    known = np.frombuffer(large._orders["pairs"]["data"], "<i4")
    assert (np.sort(known.reshape(24, 384)) == np.arange(384)).all()  # no order is missing


def test_the_still_picture_shows_the_maps_in_their_order(model):
    explorer = ml.explore_filters(model)
    explorer.block, explorer.layer, explorer.scale = 2, "fc2", "block"
    (image,) = explorer.figure().axes[0].images
    maps = filters.token_filters(model, 2, "fc2")
    maps = (maps / maps.abs().max()).double().numpy()
    across = explorer._sizes["columns"]
    shown = np.ma.filled(image.get_array(), np.nan)
    for k, unit in enumerate(explorer.shown()):
        y, x = 4 * (k // across), 4 * (k % across)
        assert shown[y : y + 3, x : x + 3] == pytest.approx(maps[unit])
        assert np.isnan(shown[y + 3, x : x + 3]).all()
    bundle, metadata = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert "run the cell in JupyterLab" in metadata["image/png"]["alt"]


@pytest.mark.parametrize(
    ("units", "width", "columns"), [(64, 8, 16), (384, 14, 24), (512, 14, 24), (7, 3, 4)]
)
def test_columns_are_even_and_fit(units, width, columns):
    assert module.columns_for(units, width) == columns


# --- two models, and many images ---------------------------------------------------------------


def test_two_models_are_matched_block_by_block(model):
    torch.manual_seed(6)
    other = ml.MlpMixer(**SIZES)
    explorer = ml.explore_filters(model, other)
    assert explorer.order == "match"
    for block in range(3):
        index, likeness = filters.match_units(model, other, block)
        assert values(explorer._other["match"])[block].tolist() == index.tolist()
        explorer.block = block
        ranked = likeness[explorer.shown()]
        assert sorted(explorer.shown()) == list(range(7)) and (ranked.diff() >= 0).all()
    sent = values(explorer._other["weights"]).reshape(3, 2, 7, 9)
    sent = sent * values(explorer._other["weights"]["scale"]).reshape(3, 2, 7, 1)
    maps = filters.token_filters(other, 1, "fc2").flatten(1).numpy()
    assert np.abs(sent[1, 1] - maps).max() <= np.abs(maps).max() / 200
    with pytest.raises(ValueError, match="as many blocks, not 3 and 2"):
        ml.explore_filters(model, ml.MlpMixer(**{**SIZES, "num_blocks": 2}))
    with pytest.raises(ValueError, match="the same patches and as many units"):
        ml.explore_filters(model, ml.MlpMixer(**{**SIZES, "tokens_mlp_dim": 8}))
    with pytest.raises(traitlets.TraitError, match="of two models; here is one"):
        ml.explore_filters(model).order = "match"


def test_images_that_excite_units_are_looked_for_when_asked(model):
    explorer = ml.explore_filters(model)
    assert explorer._sizes["searched"] == "500 test images of CIFAR-10" and explorer._found == {}
    dice = np.random.default_rng(4)
    images = [dice.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(8)]
    explorer.block = 1
    top = explorer.find_images(images)
    assert explorer._sizes["searched"] == "8 images" and set(explorer._found) == {"1"}
    batch = torch.cat([preprocess(image, model.config) for image in images])
    wanted = explain.top_images(model, batch, 1)
    assert torch.equal(top.image, wanted.image) and top.image.shape == (7, 5)
    found = explorer._found["1"]
    pixels = values(found["pixels"])
    for unit, k in ((0, 0), (6, 4)):
        n = int(wanted.image[unit, k])
        assert (pixels[int(values(found["image"])[unit, k])] == images[n]).all()
        read = explain.unit_responses(model, batch[n], 1)[0][wanted.channel[unit, k]]
        scale = found["maps"]["scale"][5 * unit + k]
        sent = values(found["maps"])[5 * unit + k] * scale
        assert np.abs(sent - read.detach().numpy()).max() <= scale / 2 + 1e-6
    explorer.block, explorer._wanted = 0, 1  # a click in the page
    assert set(explorer._found) == {"0", "1"}
    with pytest.raises(ValueError, match="at least one image"):
        explorer.find_images([])
    model.config = None
    with pytest.raises(ValueError, match="does not know how its images were prepared"):
        ml.explore_filters(model).find_images()
