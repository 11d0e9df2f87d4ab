"""The predictions explorer: its state, what it sends, and what Python answers; no browser."""

import io
import re

import numpy as np
import pytest
import torch
import traitlets
from einops import rearrange, repeat
from PIL import Image

import mixer_lite as ml
from mixer_lite.explorers.photographs import MOST
from mixer_lite.explorers.predictions.page import FEW
from mixer_lite.specs import ModelConfig

P, GRID = 4, 3  # 12 x 12 pixels, S = 9 patches, C = 6


def small(classes=5, **config):
    model = ml.MlpMixer(
        image_size=P * GRID, patch_size=P, num_classes=classes, num_blocks=2, hidden_dim=6,
        tokens_mlp_dim=7, channels_mlp_dim=11,
    )  # fmt: skip
    torch.nn.init.normal_(model.head.bias)
    mean, std = (0.2, 0.5, 0.7), (0.3, 0.2, 0.25)
    model.config = ModelConfig("small", P * GRID, mean, std, crop=1.0, **config)
    return model


def pictures(count):
    dice = np.random.default_rng(1)
    return [dice.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(count)]


def values(entry):
    """What the page reads from an array that was sent."""
    return np.frombuffer(entry["data"], entry["dtype"]).reshape(entry["shape"])


def png(array):
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def model():
    return small()


@pytest.fixture
def explorer(model):
    return ml.explore_predictions(model, pictures(3))


def by_hand(explorer, model, picture):
    """The input by loops over patches: mean colour where covered, then each patch to its place."""
    x = torch.from_numpy(picture.astype(np.float32) / 255)
    x = rearrange((x - torch.tensor(model.config.mean)) / torch.tensor(model.config.std),
                  "h w c -> c h w")  # fmt: skip
    order = list(range(9))
    if explorer.shuffle is not None:
        order = torch.randperm(9, generator=torch.Generator().manual_seed(explorer.shuffle))
    out = torch.empty_like(x)
    for place, patch in enumerate(order):
        y0, x0 = divmod(int(patch), GRID)
        tile = x[:, y0 * P : y0 * P + P, x0 * P : x0 * P + P]
        if int(patch) in explorer.covered:
            tile = torch.zeros_like(tile)
        y1, x1 = divmod(place, GRID)
        out[:, y1 * P : y1 * P + P, x1 * P : x1 * P + P] = tile
    return out


@torch.no_grad()
def check(entry, model, x):
    """Every number of an answer, from the model's own forward pass."""
    logits = model(x[None])[0]
    torch.testing.assert_close(torch.tensor(values(entry["logits"])), logits)
    probabilities = torch.tensor(values(entry["probabilities"]))
    torch.testing.assert_close(probabilities, logits.softmax(0))
    assert entry["top"] == int(logits.argmax())
    kept = entry["classes"]
    evidence = torch.tensor(values(entry["evidence"]))
    assert evidence.shape == (len(kept), GRID, GRID)
    torch.testing.assert_close(evidence.mean((1, 2)) + model.head.bias[kept], logits[kept])
    tokens = model.forward_features(x[None])[0]  # (S, C)
    k = len(kept) - 1
    place = 5  # row 1, column 2
    wanted = tokens[place] @ model.head.weight[kept[k]]
    torch.testing.assert_close(evidence[k, 1, 2], wanted)
    depth = torch.tensor(values(entry["depth"]))
    first = model.head(model.norm(model.stem(model.patchify(x[None]))).mean(1))[0].softmax(0)
    assert depth.shape == (model.num_blocks + 1, len(kept))
    torch.testing.assert_close(depth[0], first[kept])
    torch.testing.assert_close(depth[-1], logits.softmax(0)[kept])


def test_every_photograph_is_sent_as_the_network_answers(explorer, model):
    assert len(explorer._photographs) == 3
    for entry, picture in zip(explorer._photographs, pictures(3), strict=True):
        assert (values(entry["pixels"]) == picture).all()
        assert entry["classes"] == [0, 1, 2, 3, 4]
        check(entry, model, by_hand(explorer, model, picture))
    assert np.allclose(values(explorer._bias), model.head.bias.detach())
    assert explorer._sizes["mean"] == [51, 128, 178]  # 0.2, 0.5, 0.7 of 255, to the nearest
    assert explorer._now == {}


def test_covering_and_shuffling_are_answered(explorer, model):
    explorer.image = 1
    for covered, shuffle in [([4], None), ([0, 4, 7], None), ([0, 4, 7], 3), ([], 3)]:
        explorer.covered, explorer.shuffle = covered, shuffle
        x = by_hand(explorer, model, pictures(3)[1])
        torch.testing.assert_close(explorer.input, x)
        now = explorer._now
        assert (now["image"], now["covered"], now["shuffle"]) == (1, covered, shuffle)
        assert values(now["order"]).tolist() == explorer.order.tolist()
        check(now, model, x)
    assert not torch.equal(explorer.order, torch.arange(9))
    explorer.shuffle = None
    assert explorer._now == {}


def test_another_photograph_starts_afresh(explorer):
    explorer.covered, explorer.shuffle = [2], 0
    explorer.image = 2
    assert (explorer.covered, explorer.shuffle, explorer._now) == ([], None, {})


def test_one_message_of_the_page_is_one_state(explorer, model):
    explorer.covered = [3]
    explorer.set_state({"image": 2, "covered": [1], "shuffle": None})
    # Another photograph starts uncovered, also when the page says otherwise.
    assert explorer.image == 2 and explorer.covered == [] and explorer._now == {}


def test_covered_patches_are_kept_in_order_and_once(explorer):
    explorer.covered = [7, 2, 7]
    assert explorer.covered == [2, 7]


@pytest.mark.parametrize(
    "name, value, sentence",
    [
        ("image", 3, "image must be from 0 to 2, not 3."),
        ("image", -1, "image must be from 0 to 2, not -1."),
        ("class_index", 5, "class_index must be from 0 to 4, not 5."),
        ("rather_than", 5, "rather_than must be from 0 to 4, not 5."),
        ("overlay", 101, "overlay must be from 0 to 100, not 101."),
        ("covered", [1, 9], "A covered patch is from 0 to 8, not 9."),
        ("shuffle", -2, "shuffle must be a seed from 0 to 2147483647, or None, not -2."),
    ],
)
def test_wrong_values_are_refused_and_the_old_stay(explorer, name, value, sentence):
    explorer.covered = [1]
    before, answer = getattr(explorer, name), explorer._now
    with pytest.raises(traitlets.TraitError) as error:
        setattr(explorer, name, value)
    assert str(error.value) == sentence
    assert getattr(explorer, name) == before and explorer._now == answer


def test_of_many_classes_the_likely_and_the_chosen_are_sent():
    model = small(classes=30)
    explorer = ml.explore_predictions(model, pictures(2))
    entry = explorer._photographs[0]
    logits = model(explorer.input[None])[0].detach()
    assert set(entry["classes"]) == set(logits.topk(FEW).indices.tolist())
    chosen = int(logits.argmin())
    explorer.class_index = chosen
    assert chosen in explorer._now["classes"]
    check(explorer._now, model, explorer.input)
    explorer.class_index = None
    assert explorer._now == {} and explorer.chosen_class == int(logits.argmax())
    explorer.covered = [0]
    assert set(entry["classes"]) <= set(explorer._now["classes"])  # so that lines have both ends
    explorer.class_index = chosen
    assert chosen in explorer._now["classes"]
    check(explorer._now, model, explorer.input)


def test_a_difference_brings_both_classes():
    model = small(classes=30)
    explorer = ml.explore_predictions(model, pictures(2))
    logits = model(explorer.input[None])[0].detach()
    ranked = logits.argsort(descending=True).tolist()
    assert explorer.other_class == ranked[1]
    explorer.class_index = ranked[1]
    assert explorer.other_class == ranked[0]  # no class rather than itself
    explorer.shows, explorer.rather_than = "difference", ranked[-1]
    assert explorer.other_class == ranked[-1] and ranked[-1] in explorer._now["classes"]
    check(explorer._now, model, explorer.input)
    gap = float(logits[ranked[1]] - logits[ranked[-1]])
    said = re.search(
        r"class \d+ rather than class \d+: mean .*? = (?:logit )?(−?[\d.]+)", explorer.figure().alt
    )
    assert float(said[1].replace("−", "-")) == pytest.approx(gap, abs=0.006)


def test_the_mean_of_all_photographs(explorer, model):
    explorer.averaged = True
    inputs = torch.stack([by_hand(explorer, model, picture) for picture in pictures(3)])
    chances = model(inputs).softmax(1).mean(0).detach()
    ranked = chances.argsort(descending=True).tolist()
    assert (explorer.chosen_class, explorer.other_class) == (ranked[0], ranked[1])
    alt = explorer.figure().alt
    logit = float(model(inputs)[:, ranked[0]].mean())
    said = re.search(rf"class {ranked[0]}: mean .*? = (?:logit )?(−?[\d.]+)", alt)
    assert float(said[1].replace("−", "-")) == pytest.approx(logit, abs=0.006)


def test_a_file_is_opened_as_from_a_path(explorer, model):
    explorer.covered = [1]
    picture = pictures(4)[3]
    explorer._upload = {"name": "my holiday.png", "data": memoryview(png(picture))}
    assert explorer.image == 3 and explorer.message == "" and explorer.covered == []
    entry = explorer._photographs[3]
    assert entry["label"] == "my holiday" and (values(entry["pixels"]) == picture).all()
    check(entry, model, by_hand(explorer, model, picture))
    assert explorer._upload == {}


@pytest.mark.parametrize(
    "data", [b"", b"no picture", png(pictures(1)[0])[:200]], ids=["empty", "words", "cut short"]
)
def test_a_bad_file_is_one_sentence_and_changes_nothing(explorer, data):
    explorer.image, explorer.covered = 1, [2]
    now = explorer._now
    explorer._upload = {"name": "notes.txt", "data": data}
    assert re.fullmatch(r"Cannot read notes\.txt: [^.]+\.", explorer.message)
    assert (explorer.image, explorer.covered, len(explorer._photographs)) == (1, [2], 3)
    assert explorer._now == now
    explorer._upload = {"name": "good.png", "data": png(pictures(1)[0])}
    assert explorer.message == "" and explorer.image == 3


def test_no_more_photographs_than_a_page_holds(model):
    explorer = ml.explore_predictions(model, pictures(MOST))
    explorer._upload = {"name": "one.png", "data": png(pictures(1)[0])}
    assert explorer.message.startswith(f"There are {MOST} photographs already")
    with pytest.raises(ValueError, match=f"from 1 to {MOST} images, not {MOST + 1}"):
        ml.explore_predictions(model, pictures(MOST + 1))


def test_one_image_or_several_and_labels(model, tmp_path):
    (picture,) = pictures(1)
    path = tmp_path / "tree.png"
    path.write_bytes(png(picture))
    batch = repeat(torch.from_numpy(picture), "h w c -> n c h w", n=2)
    for images, labels in [
        (path, ["tree"]),
        (picture, ["photograph 1"]),
        ([picture, str(path)], ["photograph 1", "tree"]),
        (batch, ["photograph 1", "photograph 2"]),
    ]:
        explorer = ml.explore_predictions(model, images)
        assert [entry["label"] for entry in explorer._photographs] == labels
        assert (values(explorer._photographs[-1]["pixels"]) == picture).all()
    explorer = ml.explore_predictions(model, [picture], labels=["oak"])
    assert explorer._photographs[0]["label"] == "oak"


def test_what_cannot_be_explored(model):
    picture = pictures(1)
    with pytest.raises(ValueError, match="1 images need as many labels, not 2"):
        ml.explore_predictions(model, picture, labels=["a", "b"])
    with pytest.raises(ValueError, match="from 1 to 24 images, not 0"):
        ml.explore_predictions(model, [])
    with pytest.raises(FileNotFoundError, match=r"There is no file nowhere\.png"):
        ml.explore_predictions(model, "nowhere.png")
    model.config = None
    with pytest.raises(ValueError, match="does not know how its images were prepared"):
        ml.explore_predictions(model, picture)
    with pytest.raises(ValueError, match="has no head"):
        ml.explore_predictions(ml.create_model("mixer_nano_cifar10", num_classes=0), picture)
    grey = ml.create_model("mixer_nano_cifar10", in_channels=1)
    with pytest.raises(ValueError, match="takes 1 x 32 x 32 numbers"):
        ml.explore_predictions(grey, picture)


def test_bundled_photographs_fit_the_model():
    explorer = ml.explore_predictions(ml.create_model("mixer_nano_cifar10"))
    labels = [entry["label"] for entry in explorer._photographs]
    assert labels == ["cat", "eagle", "dog", "horse", "ship", "truck", "frog", "deer"]
    images, truth = ml.datasets.cifar10_sample()
    seen = rearrange(values(explorer._photographs[4]["pixels"]), "h w c -> c h w")
    (found,) = [k for k in range(500) if (images[k].numpy() == seen).all()]
    assert explorer._classes[truth[found]] == "ship"
    # A model of other classes gets the photographs that show something of ImageNet.
    other = ml.explore_predictions(small())
    assert [entry["label"] for entry in other._photographs] == ["cat", "coffee", "photographer"]


def test_the_picture_says_what_is_chosen(explorer):
    explorer.class_index, explorer.covered = 2, [0]
    logit = float(values(explorer._now["logits"])[2])
    alt = explorer.figure().alt
    assert alt.index("class 2: mean") > 0
    said = re.search(r"class 2: mean .*? = (?:logit )?(−?[\d.]+)", alt)
    assert float(said[1].replace("−", "-")) == pytest.approx(logit, abs=0.006)
    bundle, metadata = explorer._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle and "image/png" in bundle
    assert "JupyterLab" in metadata["image/png"]["alt"]


def test_the_saved_page_stands_alone(explorer, tmp_path):
    page = explorer.save_html(tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|\bsrc=|\bhref=|@import|\bfetch\(|\bimport\(", page)
    assert page.count("export default") == 0
    assert len(page) < 200_000


def test_a_saved_page_of_the_nano_model_is_small(tmp_path):
    explorer = ml.explore_predictions(ml.create_model("mixer_nano_cifar10"))
    still = explorer.save_html(tmp_path / "still.html", live=False)
    assert still.stat().st_size < 200_000
    assert explorer.save_html(tmp_path / "page.html").stat().st_size < 4_000_000
