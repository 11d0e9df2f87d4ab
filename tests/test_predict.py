"""Predictions against a hand-made softmax, and every kind of input."""

import numpy as np
import pytest
import torch
from PIL import Image

import mixer_lite as ml
from mixer_lite.predict import logits


@pytest.fixture
def model():
    model = ml.create_model("mixer_pico_cifar10")
    torch.nn.init.normal_(model.head.weight, std=3)
    return model


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def by_hand(model, image):
    x = (torch.tensor(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.no_grad():
        return model.eval()(x).softmax(1)[0]


def test_probabilities_names_and_order(model):
    wanted = by_hand(model, IMAGES[1])
    got = ml.predict(model, IMAGES[1], top_k=4)
    assert [p.index for p in got] == wanted.argsort(descending=True)[:4].tolist()
    for p in got:
        assert p.probability == pytest.approx(wanted[p.index].item(), abs=1e-5)
        assert p.label == ml.specs.CIFAR10_CLASSES[p.index]


def test_all_kinds_of_input_agree(model, tmp_path):
    one = ml.predict(model, IMAGES[0])
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    tensor = torch.tensor(IMAGES[0]).permute(2, 0, 1)
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(IMAGES[0]), tensor):
        assert ml.predict(model, same) == one
    many = ml.predict(model, IMAGES, batch_size=2)
    assert len(many) == 3 and [p.index for p in many[0]] == [p.index for p in one]
    assert ml.predict(model, list(IMAGES), batch_size=2) == many
    assert ml.predict(model, torch.tensor(IMAGES).permute(0, 3, 1, 2), batch_size=2) == many
    assert ml.predict(model, [IMAGES[0]]) == [one]


def test_top_k_beyond_the_classes_gives_all_and_sums_to_one(model):
    got = ml.predict(model, IMAGES[0], top_k=99)
    assert len(got) == 10 and sum(p.probability for p in got) == pytest.approx(1, abs=1e-5)


def test_many_images_a_few_at_a_time_in_their_order(model, monkeypatch):
    many = np.random.default_rng(1).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    opened = []
    real = ml.images.preprocess

    def preprocess(images, config):
        opened.append(len(images))
        return real(images, config)

    monkeypatch.setattr("mixer_lite.images.preprocess", preprocess)
    got = ml.predict(model, many, top_k=3, batch_size=4)
    assert opened == [4, 4, 3]  # never all at once, and the last batch is what remains
    for image, predictions in zip(many, got, strict=True):
        wanted = by_hand(model, image)
        assert [p.index for p in predictions] == wanted.argsort(descending=True)[:3].tolist()
    out = logits(model, list(many), batch_size=5)
    assert out.shape == (11, 10) and not out.requires_grad
    wanted = torch.stack([by_hand(model, image) for image in many])
    assert (out.softmax(1) - wanted).abs().max() < 1e-5


def test_training_mode_is_left_as_it_was(model):
    model.train()
    ml.predict(model, IMAGES[0])
    assert model.training


def test_bad_calls_get_one_clear_sentence(model, tmp_path):
    with pytest.raises(ValueError, match="top_k must be 1 or more"):
        ml.predict(model, IMAGES[0], top_k=0)
    with pytest.raises(ValueError, match="the list is empty"):
        ml.predict(model, [])
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        ml.predict(model, IMAGES, batch_size=0)
    with pytest.raises(ValueError, match="no head"):
        ml.predict(ml.create_model("mixer_pico_cifar10", num_classes=0), IMAGES[0])
    with pytest.raises(FileNotFoundError):
        ml.predict(model, tmp_path / "nothing.jpg")
    model.config = None
    with pytest.raises(ValueError, match="does not know how its images were prepared"):
        ml.predict(model, IMAGES[0])
