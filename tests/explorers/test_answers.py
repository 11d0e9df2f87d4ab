"""What all explorers of predictions tell: probabilities as predict has them, and the network."""

import base64

import numpy as np
import pytest
import torch
from matplotlib.text import Text

import mixer_lite as ml
from mixer_lite.explorers import engine


@pytest.fixture(scope="module")
def model():
    return ml.load_pretrained("mixer_nano_cifar10")


@pytest.fixture(scope="module")
def cat():
    return ml.images.photo("cat")


@pytest.fixture
def said(model, cat):
    """What predict says of the cat, by class."""
    assert model.config.temperature != 1
    return {one.label: one.probability for one in ml.predict(model, cat, top_k=10)}


def values(entry):
    return np.frombuffer(entry["data"], entry["dtype"]).reshape(entry["shape"])


def test_explorers_show_the_probabilities_of_predict(model, cat, said):
    names = model.config.class_names
    wanted = [said[name] for name in names]
    predictions = ml.explore_predictions(model, cat)
    assert values(predictions._photographs[0]["probabilities"]) == pytest.approx(wanted, abs=1e-6)
    texts = [text.get_text() for text in predictions.figure().findobj(Text)]
    assert any(f"cat {said['cat']:.0%}, " in text for text in texts)
    way = ml.explore_mixer(model, cat)._way
    listed = [wanted[k] for k in way["classes"]]
    assert values(way["before"]) == pytest.approx(listed, abs=1e-6)
    assert values(way["depth"])[-1] == pytest.approx(listed, abs=1e-6)
    bars = ml.explore_filters(model, cat).predictions
    assert bars["before"] == pytest.approx([said[name] for name in bars["labels"]], abs=1e-6)


def messages(explorer):
    """What an explorer sends beside its traits."""
    sent = []
    explorer._send = lambda message, buffers=None: sent.append((message, buffers))
    return sent


def test_the_network_goes_to_a_notebook_s_page_once_it_asks(model, cat):
    explorer = ml.explore_filters(model, cat)
    sent = messages(explorer)
    explorer._handle_custom_msg({"ask": "network"}, [])
    [(message, [weights, kernel])] = sent
    told, packed = message["content"]["network"], engine.packed(model)
    assert {**told, "weights": base64.b64encode(weights).decode()} | {
        "kernel": base64.b64encode(kernel).decode()
    } == packed
    own = torch.cat([p.flatten() for p in model.state_dict().values()])
    assert torch.equal(torch.from_numpy(np.frombuffer(weights, "<f2").astype("<f4")), own)
    assert told["config"]["temperature"] == model.config.temperature


def test_no_network_goes_where_none_can_answer(model):
    large = ml.create_model("mixer_s32_224")
    for explorer in (
        ml.explore_filters(model),
        ml.explore_predictions(large, torch.zeros(3, 224, 224)),
    ):
        sent = messages(explorer)
        explorer._handle_custom_msg({"ask": "network"}, [])
        assert sent == []


def test_python_says_up_to_which_turn_it_has_answered(model, cat):
    explorer = ml.explore_filters(model, cat)
    sent = messages(explorer)
    explorer.set_state({"off": [[0, 3]], "_turn": 7})
    told = [
        name for message, _ in sent if message["method"] == "update" for name in message["state"]
    ]
    assert "predictions" in told and told[-1] == "_answered"  # after the answers
    assert explorer._answered == 7
    with pytest.raises(ml.explorers.filters.page.traitlets.TraitError):
        explorer.set_state({"block": 99, "_turn": 8})
    assert explorer._answered == 8  # or the page would wait for ever
