"""explore_mixer: the sums of its stations, its traits, what it sends; on a model with S != C."""

import io

import numpy as np
import pytest
import torch
import traitlets
from PIL import Image

import mixer_lite as ml
from mixer_lite import explain, images
from mixer_lite.explorers.mixer import stations
from mixer_lite.explorers.mixer.page import TALLEST, WIDEST
from mixer_lite.specs import ModelConfig

# A grid of 3 x 3 patches (S = 9), 5 channels.
SIZES = dict(
    image_size=12, patch_size=4, num_classes=4, num_blocks=2,
    hidden_dim=5, tokens_mlp_dim=7, channels_mlp_dim=8,
)  # fmt: skip


@pytest.fixture
def model():
    made = ml.MlpMixer(**SIZES)
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.5)
    made.config = ModelConfig("tiny", 12, class_names=("a", "b", "c", "d"))
    return made


@pytest.fixture
def explorer(model):
    return ml.explore_mixer(model, [images.photo("cat"), images.photo("coffee")])


def values(entry):
    return np.frombuffer(entry["data"], entry["dtype"]).reshape(entry["shape"])


def test_the_way_is_what_the_model_s_own_modules_see(model):
    image = torch.randn(1, 3, 12, 12)
    seen = []
    for block in model.blocks:
        block.norm2.register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
        block.register_forward_hook(lambda _module, _args, out: seen.append(out[0]))
    model(image)
    way = stations.tokens_on_the_way(model, image)
    assert way.shape == (5, 9, 5)
    assert torch.allclose(way[0], model.stem(model.patchify(image))[0])
    assert torch.allclose(way[1:], torch.stack(seen[:4]), atol=1e-6)


def test_each_sum_is_the_number_that_it_takes_apart(model):
    image = torch.randn(1, 3, 12, 12)
    way = stations.tokens_on_the_way(model, image)
    block, token, channel, unit = 1, 7, 3, 5
    passed: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _m, _a, out, name=name: passed.update({name: out[0]}))
    logits = model(image)[0]
    seen = dict(passed)  # the functions below call the modules again
    stem = stations.stem_sum(model, image, way, token, channel)
    assert torch.allclose(stem.sum, seen["stem"][token, channel], atol=1e-6)
    assert torch.equal(stem.after, way[0, token]) and stem.activations is None
    tokens = stations.token_mixing_sum(model, way, block, channel, unit)
    # Token mixing sees the table turned: (C, D_S) and (C, S).
    assert torch.allclose(tokens.sum, seen["blocks.1.mlp_tokens.fc1"][channel, unit], atol=1e-5)
    assert torch.allclose(tokens.activations, seen["blocks.1.mlp_tokens.act"][channel], atol=1e-5)
    change = seen["blocks.1.mlp_tokens.fc2"][channel]
    assert torch.allclose(tokens.after - tokens.before, change, atol=1e-5)
    channels = stations.channel_mixing_sum(model, way, block, token, unit)
    assert torch.allclose(channels.sum, seen["blocks.1.mlp_channels.fc1"][token, unit], atol=1e-5)
    change = seen["blocks.1.mlp_channels.fc2"][token]
    assert torch.allclose(channels.after - channels.before, change, atol=1e-5)
    # All units' writings and the offsets make the change; one unit's is part of it.
    for told, mlp in ((tokens, "mlp_tokens"), (channels, "mlp_channels")):
        matrix = getattr(model.blocks[1], mlp).fc2.weight
        assert torch.equal(told.written, matrix[:, unit])
        whole = matrix @ told.activations + told.offsets
        assert torch.allclose(whole, told.after - told.before, atol=1e-5)
    head = stations.class_sum(model, way, 2)
    assert torch.allclose(head.sum, logits[2], atol=1e-5)
    for told in (stem, tokens, channels, head):
        assert torch.allclose((told.values * told.weights).sum() + told.bias, told.sum, atol=1e-5)


def test_what_is_sent_is_what_explain_says(model, explorer):
    explorer.covered, explorer.channel, explorer.class_index = [0, 4], 2, 1
    way, image = explorer._way, explorer.input
    assert (image[:, :4, :4] == 0).all() and (image[:, 4:8, 4:8] == 0).all()
    assert way["chosen"] == 1 and way["choice"]["covered"] == [0, 4]
    depth = explain.prediction_by_depth(model, image)
    assert way["classes"] == [0, 1, 2, 3]
    assert values(way["depth"]) == pytest.approx(depth.softmax(1).numpy(), abs=1e-6)
    assert values(way["logits"]) == pytest.approx(depth[-1].numpy(), abs=1e-5)
    evidence = explain.patch_evidence(model, image, 1).flatten().numpy()
    assert values(way["evidence"]) == pytest.approx(evidence, abs=1e-5)
    before = explain.patch_evidence(model, explorer._tensors[0], 1).flatten().numpy()
    assert values(way["evidence_before"]) == pytest.approx(before, abs=1e-5)
    tokens = stations.tokens_on_the_way(model, image[None])
    assert values(way["maps"]) == pytest.approx(tokens[:, :, 2].numpy(), abs=1e-6)
    assert way["tables"] is None
    explorer.picture = "table"
    tables = explorer._way["tables"]
    found = values(tables) * np.array(tables["scale"])[:, None, None]
    assert found == pytest.approx(tokens.numpy(), abs=tokens.abs().max().item() / 250)


@pytest.mark.parametrize("station", stations.STATIONS)
def test_the_open_station_s_numbers_are_sent(explorer, station):
    explorer.station, explorer.block, explorer.token, explorer.unit = station, 1, 8, 6
    sent, told = explorer._way["sum"], explorer.sum
    assert set(sent) == {name for name, value in told._asdict().items() if value is not None}
    for name, value in sent.items():
        number = values(value) if isinstance(value, dict) else value
        assert number == pytest.approx(getattr(told, name).detach().numpy(), abs=1e-6)


def test_it_begins_with_what_says_most(model, explorer):
    way = stations.tokens_on_the_way(model, explorer.input[None])
    top = int(model(explorer.input[None])[0].argmax())
    assert explorer.chosen_class == top
    told = stations.class_sum(model, way, top)
    assert explorer.channel == int((told.values * told.weights).argmax())
    heard = stations.token_mixing_sum(model, way, 0, explorer.channel, 0).activations.abs()
    assert heard[explorer.unit] == heard.max()


def test_another_photograph_starts_uncovered(explorer):
    explorer.covered = [1]
    explorer.image = 1
    assert explorer.covered == [] and explorer._way["choice"]["image"] == 1


def test_a_file_is_opened_and_a_bad_one_is_one_sentence(explorer):
    png = io.BytesIO()
    Image.new("RGB", (20, 30), "red").save(png, "PNG")
    explorer._upload = {"name": "red.png", "data": png.getvalue()}
    assert explorer.image == 2 and explorer._photographs[2]["label"] == "red"
    explorer._upload = {"name": "notes.txt", "data": b"words"}
    assert explorer.message.startswith("Cannot read notes.txt") and explorer.image == 2


@pytest.mark.parametrize(
    "view,sentence",
    [
        ({"block": 2}, "block must be from 0 to 1, not 2."),
        ({"token": 9}, "token must be from 0 to 8, not 9."),
        ({"channel": -1}, "channel must be from 0 to 4, not -1."),
        ({"unit": 7}, "unit must be from 0 to 6, not 7."),
        ({"channel_unit": 8}, "channel_unit must be from 0 to 7, not 8."),
        ({"class_index": 4}, "class_index must be from 0 to 3, not 4."),
        ({"image": 1}, "image must be from 0 to 0, not 1."),
        ({"covered": [9]}, "A covered patch is from 0 to 8, not 9."),
        ({"blok": 1}, "explore_mixer has no 'blok' to begin with."),
        ({"_way": {}}, "explore_mixer has no '_way' to begin with."),
    ],
)
def test_a_view_that_cannot_be_is_refused(model, view, sentence):
    with pytest.raises(ValueError) as error:
        ml.explore_mixer(model, images.photo("cat"), **view)
    assert str(error.value) == sentence


def test_wrong_values_are_refused_and_the_old_stay(explorer):
    with pytest.raises(traitlets.TraitError, match="station"):
        explorer.station = "kitchen"
    assert explorer.station == "tokens"


def test_a_view_to_begin_with(model):
    view = dict(block=1, station="channels", token=3, covered=[2, 0], picture="table", step=2)
    explorer = ml.explore_mixer(model, images.photo("cat"), **view)
    assert {name: getattr(explorer, name) for name in view} == {**view, "covered": [0, 2]}
    assert explorer._way["choice"]["covered"] == [0, 2]


def test_a_large_table_is_sent_as_means():
    model = ml.create_model("mixer_s32_224")  # 49 tokens of 512 channels
    explorer = ml.explore_mixer(model, images.photo("cat"), picture="table")
    n, rows, columns = explorer._way["tables"]["shape"]
    assert (n, rows, columns) == (17, 49, 128) and rows <= TALLEST and columns <= WIDEST
    tables = explorer._way["tables"]
    found = values(tables) * np.array(tables["scale"])[:, None, None]
    way = stations.tokens_on_the_way(model, explorer.input[None])
    wanted = way.reshape(17, 49, 128, 4).mean(dim=3).numpy()
    assert found == pytest.approx(wanted, abs=float(np.abs(wanted).max()) / 250)


def test_the_picture_says_what_is_chosen(explorer):
    explorer.class_index, explorer.channel = 2, 4
    alt = explorer.figure().alt
    chances = explain.prediction_by_depth(explorer._network, explorer.input).softmax(1)[:, 2]
    assert "channel 4" in alt and "Probability of c after 0 to 2 blocks" in alt
    assert ", ".join(f"{p:.0%}" for p in chances.tolist()) in alt


def test_what_cannot_be_explored():
    headless = ml.create_model("mixer_nano_cifar10", num_classes=0)
    with pytest.raises(ValueError, match="has no head"):
        ml.explore_mixer(headless)
    plain = ml.MlpMixer(**SIZES)
    with pytest.raises(ValueError, match="does not know how its images were prepared"):
        ml.explore_mixer(plain, images.photo("cat"))
