"""The quick way to logits: against timm and integer arithmetic, and that nothing gets stale."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.mlp_mixer import MlpMixer as TimmMixer
from torch import nn
from torch.nn.utils import parametrizations, prune

import mixer_lite as ml
from mixer_lite import fast
from mixer_lite.datasets import cifar10_sample
from mixer_lite.training.measures import normalize
from mixer_lite.weights.checkpoints import to_timm_state_dict

SHAPE = dict(image_size=(32, 24), patch_size=8, num_classes=7, num_blocks=3)  # S = 12
WIDTHS = dict(hidden_dim=20, tokens_mlp_dim=14, channels_mlp_dim=36)


@pytest.fixture
def allowed(monkeypatch):
    """8 bits whatever the processor: one that is slow at them computes the same numbers."""
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(fast, "PART", 2 * 12 * 36)  # two images of these models


@pytest.fixture
def taken(monkeypatch):
    """Every block that goes the quick way."""
    blocks, mixing = [], fast._mixing
    monkeypatch.setattr(fast, "_mixing", lambda b, shape: blocks.append(b) or mixing(b, shape))
    return blocks


def random_model(**changes):
    model = ml.MlpMixer(**SHAPE | WIDTHS | changes).eval()
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)  # the head as well, biases and LayerNorms
    return model


def images(n=5):
    return torch.randn(n, 3, 32, 24)


def close(a, b):
    return ((a - b).abs().max() / b.abs().max()).item() < 5e-6


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_gives_timms_logits(n, mode, taken):
    model = random_model()
    timms = TimmMixer(num_classes=7, img_size=(32, 24), patch_size=8, num_blocks=3, embed_dim=20,
                      mlp_ratio=(0.7, 1.8)).eval()  # fmt: skip
    timms.load_state_dict(to_timm_state_dict(model))
    x = images(n)
    with mode():
        wanted = timms(x)
        assert close(fast.logits(model, x), wanted) and len(taken) == 3
        assert close(fast.logits(model.double(), x.double()).float(), wanted) and len(taken) == 3


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("changes", [
    dict(gelu="tanh"), dict(num_classes=0), dict(norm_eps=1e-2), dict(tokens_mlp_dim=50),
    dict(patch_size=4), dict(num_blocks=1),
])  # fmt: skip
def test_gives_the_models_logits(changes, onednn, taken, monkeypatch):
    monkeypatch.setattr(fast, "ONEDNN", onednn and fast.ONEDNN)
    model, x = random_model(**changes), images(7)
    with torch.inference_mode():
        got = fast.logits(model, x)
        assert taken and close(got, model.double()(x.double()).float())


def test_gives_the_bundled_models_logits(monkeypatch, taken):
    monkeypatch.undo()
    model = ml.load_pretrained("mixer_nano_cifar10").eval()
    x = normalize(cifar10_sample()[0][:100], model.config.mean, model.config.std)
    with torch.inference_mode():
        assert fast.applies(model, x) and not fast.applies(model, x[:4])
        assert close(fast.logits(model, x), model(x))


def test_parts_of_a_model_that_were_taken_out_stay_out(taken):
    model, x = random_model(), images()
    model.blocks[0].mlp_tokens = nn.Identity()
    model.blocks[1].norm2 = nn.Identity()
    model.blocks[1].mlp_channels.act = nn.Identity()
    model.blocks[2].mlp_channels.fc1.bias = None
    with torch.no_grad():
        assert close(fast.logits(model, x), model(x)) and len(taken) == 3
        model.blocks[1] = nn.Identity()
        assert torch.equal(fast.logits(model, x), model(x)) and len(taken) == 3


def test_changed_weights_are_seen_at_once(taken):
    model, other, x = random_model(), random_model(), images()
    weight = model.blocks[1].mlp_channels.fc1.weight
    model.requires_grad_(True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def step():
        model(x).square().mean().backward()
        optimizer.step()

    changes = [
        lambda: weight.data.mul_(-1),  # which no version counter notices
        lambda: weight.detach().numpy().fill(0.2),
        lambda: model.load_state_dict(other.state_dict()),
        lambda: setattr(model.blocks[0].mlp_tokens, "fc2", nn.Linear(14, 12)),
        lambda: model.blocks[2].norm1.weight.data.zero_(),
        step,
    ]
    with torch.no_grad():
        before = fast.logits(model, x)
    for change in changes:
        change()
        with torch.no_grad():
            after = fast.logits(model, x)
            assert close(after, model(x)) and not close(after, before)
        before = after
    assert len(taken) == 3 * (len(changes) + 1)


class Doubled(ml.MlpMixer):
    def forward(self, images):
        return 2 * super().forward(images)


class Scaled(nn.Module):
    def forward(self, weight):
        return 3 * weight


def test_anything_but_the_plain_model_is_called_itself(taken):
    x = images()
    fc1 = "mlp_channels.fc1"
    relu, own, shared = random_model(), random_model(), random_model()
    relu.blocks[0].mlp_tokens.act = nn.ReLU()
    own.blocks[0].forward = lambda x: x * 2
    parametrized, weighted, pruned, cut = (random_model() for _ in range(4))
    nn.utils.parametrize.register_parametrization(
        parametrized.blocks[0].get_submodule(fc1), "weight", Scaled()
    )
    parametrizations.weight_norm(weighted.blocks[0].get_submodule(fc1))
    prune.random_unstructured(pruned.blocks[0].get_submodule(fc1), "weight", 0.5)
    cut.blocks[1].norm1 = nn.Sequential(cut.blocks[1].norm1, nn.Dropout())
    subclass = Doubled(**SHAPE | WIDTHS).eval()
    nn.init.normal_(subclass.head.weight)
    cut.eval()
    with torch.no_grad():
        for model in (relu, own, parametrized, weighted, pruned, cut, subclass):
            assert torch.equal(fast.logits(model, x), model(x))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(fast.logits(shared, x), shared(x))
        assert torch.equal(fast.logits(shared, x[:1]), shared(x[:1]))
        assert torch.equal(fast.logits(shared.train(), x), shared(x))
    shared.eval()
    assert fast.logits(shared, x).requires_grad
    assert not taken
    with pytest.raises(ValueError, match="takes images of shape"), torch.no_grad():
        fast.logits(shared, torch.zeros(9, 3, 8, 8))


@pytest.mark.parametrize("where", ["", "blocks.1", "blocks.0.mlp_tokens.fc1", "norm"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_called_once_with_the_whole_batch(where, kind, taken):
    model, x, seen = random_model(), images(), []
    handle = getattr(model.get_submodule(where), kind)(lambda m, a, *_: seen.append(len(a[0])))
    with torch.no_grad():
        fast.logits(model, x)
        assert seen == [5] and not taken
        handle.remove()
        fast.logits(model, x)
    assert seen == [5] and len(taken) == 3


def test_number_of_threads_stays_what_it_was(monkeypatch):
    model, x, found = random_model(), images(), []
    before = torch.get_num_threads()
    mixing = fast._mixing

    def checked(block, shape):
        mix = mixing(block, shape)
        return lambda part: (found.append(torch.get_num_threads()), mix(part))

    def breaks(block, shape):
        raise KeyboardInterrupt

    try:
        for cores in (1, 3):
            torch.set_num_threads(cores)
            for act in (checked, breaks):
                monkeypatch.setattr(fast, "_mixing", act)
                with torch.no_grad():
                    if act is breaks:
                        with pytest.raises(KeyboardInterrupt):
                            fast.logits(model, x)
                    else:
                        fast.logits(model, x)
                later = []
                thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))  # noqa: B023
                thread.start()
                thread.join()
                assert torch.get_num_threads() == cores and later == [cores]
        assert set(found) == {1} and len(found) == 3 * (3 + 3)
    finally:
        torch.set_num_threads(before)


def test_predict_and_evaluate_go_the_quick_way(taken, tmp_path):
    model = ml.create_model("mixer_pico_cifar10")
    nn.init.normal_(model.head.weight, std=3)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
    got = ml.predict(model, pixels, top_k=3)
    assert len(taken) == model.num_blocks
    one_by_one = [ml.predict(model, image, top_k=3) for image in pixels]
    assert len(taken) == model.num_blocks
    for a, b in zip(got, one_by_one, strict=True):
        assert [p.label for p in a] == [p.label for p in b]
        assert [p.probability for p in a] == pytest.approx([p.probability for p in b], abs=1e-5)
    from PIL import Image

    from mixer_lite.training.evaluation import evaluate

    for image, (first, *_) in zip(pixels, got, strict=True):
        folder = tmp_path / first.label
        folder.mkdir(exist_ok=True)
        Image.fromarray(image).save(folder / f"{len(list(folder.iterdir()))}.png")
    assert evaluate(model, tmp_path, progress=False).top1 == 1
    assert len(taken) == 2 * model.num_blocks


def test_8_bit_layer_against_whole_numbers(allowed):
    linear, x = nn.Linear(300, 11), torch.randn(4, 5, 300) * torch.logspace(-3, 3, 5)[:, None]
    x[0, 0] = 0
    got = fast.Int8Linear(linear)(x)

    def rounded(a):
        scale = np.maximum(np.abs(a).max(1, keepdims=True) / np.float32(127), np.float32(1e-30))
        return np.rint(a / scale).astype(np.int64), scale.astype(np.float64)

    (w, ws), (r, rs) = rounded(linear.weight.detach().numpy()), rounded(x.view(20, 300).numpy())
    wanted = torch.tensor((r @ w.T) * rs * ws.T + linear.bias.detach().numpy()).view(4, 5, 11)
    assert torch.allclose(got.double(), wanted, rtol=1e-5, atol=1e-6)
    # a row's error is a part of its own size, however large the others are
    error = (got - linear(x)).detach().norm(dim=-1) / x.norm(dim=-1).clamp_min(1)
    assert 1e-6 < error[:, 1:].max() < 5e-3


def test_8_bit_model_agrees_on_real_predictions(monkeypatch, taken, allowed):
    monkeypatch.setattr(fast, "PART", 500_000)
    model = ml.load_pretrained("mixer_nano_cifar10").eval()
    small = fast.quantize(model)
    assert type(small) is ml.MlpMixer and small.config.name == "mixer_nano_cifar10_int8"
    pixels, labels = cifar10_sample()
    x = normalize(pixels, model.config.mean, model.config.std)
    with torch.inference_mode():
        exact, got = fast.logits(model, x), fast.logits(small, x)
        assert len(taken) == 2 * model.num_blocks
        assert torch.allclose(fast.logits(small, x[:1]), got[:1], atol=1e-4)  # alone or among 500
    assert 0 < (got - exact).abs().max() < 0.1 * exact.abs().max()
    assert (got.argmax(1) == exact.argmax(1)).float().mean() > 0.98
    accuracies = [(out.argmax(1) == labels).float().mean().item() for out in (exact, got)]
    assert abs(accuracies[0] - accuracies[1]) < 0.01
    assert model.blocks[0].mlp_tokens.fc1.weight.dtype == torch.float32  # ours is as it was


def test_8_bits_are_refused_where_they_are_slow(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
    with pytest.raises(RuntimeError, match="use the model as it is"):
        fast.quantize(random_model())


def test_8_bit_model_without_a_config_or_bias(allowed):
    model, x = random_model(), images()
    model.blocks[0].mlp_tokens.fc1.bias = None
    model.config = None
    small = fast.quantize(model)
    model.config = replace(ml.create_model("mixer_pico_cifar10").config, name="mine")
    assert small.config is None and fast.quantize(model).config.name == "mine_int8"
    with torch.no_grad():
        error = fast.logits(small, x) - model(x)
    assert error.norm() / model(x).norm() < 0.05
