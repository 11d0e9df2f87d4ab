"""Explanations against brute force: finite differences, whole Jacobians, identities in float64."""

import math

import pytest
import torch

import mixer_lite as ml
from mixer_lite import explain
from mixer_lite.prediction import logits as photo_logits

# S = 6 on a 2 x 3 grid, C = 7, D_S = 9, D_C = 11, K = 5: no two axes alike.
SIZES = dict(
    image_size=(8, 12), patch_size=4, num_classes=5, num_blocks=3,
    hidden_dim=7, tokens_mlp_dim=9, channels_mlp_dim=11,
)  # fmt: skip


def small(seed=1, **changes):
    """A float64 Mixer in which no weight, bias or gain is 0 or 1."""
    torch.manual_seed(seed)
    model = ml.MlpMixer(**{**SIZES, **changes}).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return model


@pytest.fixture
def model():
    return small()


@pytest.fixture
def image():
    return torch.randn(3, 8, 12, generator=torch.Generator().manual_seed(2)).double()


# --- evidence and depth ----------------------------------------------------------------------


def test_mean_evidence_plus_bias_is_the_logit(model, image):
    maps = explain.patch_evidence(model, image)
    assert maps.shape == (5, 2, 3)
    assert (maps.mean(dim=(1, 2)) + model.head.bias - model(image[None])[0]).abs().max() < 1e-12
    # Patch by patch: the last token of the last row is at the lower right.
    tokens = model.forward_features(image[None])[0]
    for y, x, k in ((0, 0, 0), (0, 2, 3), (1, 0, 4), (1, 2, 1)):
        wanted = sum(tokens[3 * y + x, c] * model.head.weight[k, c] for c in range(7))
        assert maps[k, y, x].item() == pytest.approx(wanted.item())
    for k in range(5):
        assert torch.equal(explain.patch_evidence(model, image[None], k), maps[k])
    assert not maps.requires_grad


def test_evidence_rather_than_another_class_splits_the_difference_of_logits(model, image):
    plain = explain.patch_evidence(model, image)
    logits, bias = model(image[None])[0], model.head.bias
    for a, b in ((0, 3), (4, 1)):
        tilt = explain.patch_evidence(model, image, a, rather_than=b)
        assert (tilt.mean() + bias[a] - bias[b] - (logits[a] - logits[b])).abs() < 1e-12
        for y, x in ((0, 1), (1, 2)):
            assert tilt[y, x].item() == pytest.approx((plain[a, y, x] - plain[b, y, x]).item())
        assert torch.equal(explain.patch_evidence(model, image, rather_than=b)[a], tilt)
    with pytest.raises(ValueError, match="rather_than must be from 0 to 4, not 9"):
        explain.patch_evidence(model, image, 0, rather_than=9)


def test_centred_evidence_is_what_differs_from_place_to_place(model, image):
    plain = explain.patch_evidence(model, image)
    centred = explain.patch_evidence(model, image, centred=True)
    for k in range(5):
        mean = sum(plain[k].flatten().tolist()) / 6
        for y, x in ((0, 0), (1, 2)):
            assert centred[k, y, x].item() == pytest.approx(plain[k, y, x].item() - mean)
    both = explain.patch_evidence(model, image, 2, rather_than=0, centred=True)
    assert (both - centred[2] + centred[0]).abs().max() < 1e-12
    assert centred.abs().max() > 1e-3


def test_mean_evidence_plus_bias_is_the_logit_of_a_photograph():
    model = ml.load_pretrained("mixer_nano_cifar10")
    photo = ml.images.photo("cat")
    image = ml.images.preprocess(photo, model.config)
    split = explain.patch_evidence(model, image).mean(dim=(1, 2)) + model.head.bias
    assert (split - photo_logits(model, photo)[0]).abs().max() < 1e-5
    assert split.std() > 0.1


def test_depth_is_the_model_cut_short(model, image):
    rows = explain.prediction_by_depth(model, image)
    assert rows.shape == (4, 5)
    for depth in range(4):
        short = small(num_blocks=max(depth, 1))
        short.load_state_dict(model.state_dict(), strict=False)
        short.blocks = short.blocks[:depth]
        assert (rows[depth] - short(image[None])[0]).abs().max() < 1e-12
    assert (rows[1:] - rows[:-1]).abs().amax(dim=1).min() > 1e-3


# --- influence -------------------------------------------------------------------------------


def brute(function, x):
    """Frobenius norms of the Jacobian's (C, C) blocks by central differences: (S, S)."""
    s, c = x.shape
    squared, step = torch.zeros(s, s).double(), 1e-5
    for j in range(s):
        for k in range(c):
            move = torch.zeros_like(x)
            move[j, k] = step
            with torch.no_grad():
                slope = (function((x + move)[None]) - function((x - move)[None]))[0] / (2 * step)
            squared[:, j] += slope.square().sum(dim=1)
    return squared.sqrt()


@pytest.mark.parametrize("gelu", ["exact", "tanh"])
@pytest.mark.parametrize("block", [None, 0, 1, 2, -1])
def test_influence_against_finite_differences(image, block, gelu):
    model = small(gelu=gelu, norm_eps=1e-2)
    x = model.stem(model.patchify(image[None]))[0]
    if block is None:
        wanted = brute(model.blocks, x)
    else:
        before = model.blocks[: block % 3]
        wanted = brute(model.blocks[block], before(x[None])[0] if len(before) else x)
    found = explain.influence(model, image, block)
    assert found.shape == (6, 6)
    assert (wanted - wanted.T).abs().max() > 0.05  # listening is not mutual: a transpose shows
    assert (found - wanted).abs().max() < 1e-8
    rows = explain.influence(model, image, block, tokens=[4, 1])
    assert (rows - wanted[[4, 1]]).abs().max() < 1e-8


def test_influence_of_a_block_that_does_nothing(model, image):
    for mlp in (model.blocks[1].mlp_tokens, model.blocks[1].mlp_channels):
        torch.nn.init.zeros_(mlp.fc2.weight)
    found = explain.influence(model, image, 1)
    assert (found - math.sqrt(7) * torch.eye(6).double()).abs().max() < 1e-12


def test_influence_of_all_blocks_is_of_the_only_block(image):
    model = small(num_blocks=1)
    # Two ways to the same numbers: backward passes, and the block's known structure.
    both = explain.influence(model, image), explain.influence(model, image, 0)
    assert (both[0] - both[1]).abs().max() < 1e-12
    wide = ml.create_model("mixer_pico_cifar10", num_blocks=1)
    picture = torch.randn(3, 32, 32)
    rows = [0, 37]
    one, other = (explain.influence(wide, picture, b, tokens=rows) for b in (None, 0))
    assert (one - other).abs().max() < 1e-4  # float32


def test_more_probes_come_closer(model, image):
    exact = explain.influence(model, image)
    error = [
        (explain.influence(model, image, probes=n) / exact - 1).square().mean().sqrt().item()
        for n in (1, 16, 1024)
    ]
    assert error[0] < 0.8
    assert error[2] < error[1] < error[0]
    assert error[2] < 0.03  # one over the root of the number of probes
    again = [explain.influence(model, image, probes=1, tokens=t) for t in (None, [5])]
    assert torch.equal(again[0][5:], again[1])  # the same vectors, whatever rows are asked for


def test_probes_stand_in_only_where_exact_is_too_much():
    wide = small(image_size=(32, 28), hidden_dim=180)  # S C = 56 * 180 > 10,000
    picture = torch.randn(3, 32, 28).double()
    default, two = (explain.influence(wide, picture, tokens=[3], probes=p) for p in (None, 2))
    assert torch.equal(default, two)


# --- importance and occlusion ----------------------------------------------------------------


@pytest.mark.parametrize("block", [0, 1, -1])
def test_unit_importance_by_removing_by_hand(model, block):
    images, labels = torch.randn(40, 3, 8, 12).double(), torch.randint(5, (40,))
    found = explain.unit_importance(model, images, labels, block)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        old = model(images)
        for unit in range(9):
            twin = small()
            twin.blocks[block].mlp_tokens.fc2.weight[:, unit] = 0
            new = twin(images)
            chosen = [(x.log_softmax(dim=1)[range(40), labels]).mean() for x in (old, new)]
            assert found.loss[unit].item() == pytest.approx((chosen[0] - chosen[1]).item())
            right = [(x.argmax(dim=1) == labels).double().mean() for x in (old, new)]
            assert found.accuracy[unit].item() == pytest.approx((right[1] - right[0]).item())
            share = (new.argmax(dim=1) != old.argmax(dim=1)).double().mean()
            assert found.changed[unit].item() == pytest.approx(share.item())
    assert found.changed.max() > 0
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_unit_importance_does_not_depend_on_batches(model, monkeypatch):
    images, labels = torch.randn(7, 3, 8, 12).double(), torch.randint(5, (7,))
    whole = explain.unit_importance(model, images, labels, 1)
    monkeypatch.setattr(explain, "_per_batch", lambda _: 3)
    for one, other in zip(whole, explain.unit_importance(model, images, labels, 1), strict=True):
        assert (one - other).abs().max() < 1e-12


@pytest.mark.parametrize("per_batch", [4, 100])
def test_occlusion_by_painting_over_pixels(model, image, monkeypatch, per_batch):
    monkeypatch.setattr(explain, "_per_batch", lambda _: per_batch)
    found = explain.occlusion(model, image, 3, fill=0.7)
    assert found.shape == (2, 3)
    for y in range(2):
        for x in range(3):
            covered = image.clone()
            covered[:, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 0.7
            fall = model(image[None])[0, 3] - model(covered[None])[0, 3]
            assert found[y, x].item() == pytest.approx(fall.item(), abs=1e-12)
    assert found.abs().min() > 1e-4


def test_without_token_mixing_evidence_and_occlusion_agree(model, image):
    def gap():
        blank = explain.patch_evidence(model, torch.zeros_like(image), 2)
        rise = explain.patch_evidence(model, image, 2) - blank
        return (explain.occlusion(model, image, 2) - rise / 6).abs().max()

    assert gap() > 0.01
    # Now nothing crosses from patch to patch: a patch's pixels cause what its token says.
    for block in model.blocks:
        torch.nn.init.zeros_(block.mlp_tokens.fc2.weight)
    assert gap() < 1e-12


# --- wrong input -----------------------------------------------------------------------------


def test_wrong_input_is_told_in_a_sentence(model, image):
    headless = small(num_classes=0)
    with pytest.raises(ValueError, match="no head"):
        explain.patch_evidence(headless, image)
    with pytest.raises(ValueError, match="no head"):
        explain.unit_importance(headless, image[None], torch.tensor([0]), 0)
    with pytest.raises(ValueError, match="class_index must be from 0 to 4, not 5"):
        explain.occlusion(model, image, 5)
    with pytest.raises(ValueError, match="takes one image, not 2"):
        explain.prediction_by_depth(model, torch.stack([image, image]))
    with pytest.raises(ValueError, match="not \\(1, 3, 8, 8\\)"):
        explain.influence(model, image[..., :8])
    with pytest.raises(TypeError, match="floating-point tensor, not list"):
        explain.influence(model, image.tolist())
    with pytest.raises(ValueError, match="block must be from 0 to 2, not 3"):
        explain.influence(model, image, 3)
    with pytest.raises(ValueError, match="numbers from 0 to 5, not \\[6\\]"):
        explain.influence(model, image, tokens=[6])
    with pytest.raises(ValueError, match="probes must be 1 or more"):
        explain.influence(model, image, probes=0)
    with pytest.raises(ValueError, match="1 images need as many labels, not 2"):
        explain.unit_importance(model, image[None], torch.tensor([0, 1]), 0)


# --- several images --------------------------------------------------------------------------


def test_top_images_are_found_by_asking_each(model):
    images = torch.randn(5, 3, 8, 12, generator=torch.Generator().manual_seed(3)).double()
    top = explain.top_images(model, images, 1, count=3)
    heard = torch.stack([explain.unit_responses(model, image, 1)[1] for image in images])
    assert heard.shape == (5, 7, 9) and top.image.shape == (9, 3)
    for unit in range(9):
        best = heard[:, :, unit].amax(dim=1)  # (n,)
        order = sorted(range(5), key=lambda n: -best[n].item())[:3]
        assert top.image[unit].tolist() == order
        for k, n in enumerate(order):
            assert top.activation[unit, k].item() == pytest.approx(best[n].item())
            assert top.channel[unit, k] == heard[n, :, unit].argmax()
    assert explain.top_images(model, images, 0, count=9).image.shape == (9, 5)
    with pytest.raises(ValueError, match="a count from 1, not 5 and 0"):
        explain.top_images(model, images, 0, count=0)


def test_the_average_is_the_mean_of_each(model):
    images = torch.randn(3, 3, 8, 12, generator=torch.Generator().manual_seed(4)).double()
    seen = explain.average(lambda image: explain.patch_evidence(model, image, 2), images)
    wanted = sum(explain.patch_evidence(model, images[n], 2) for n in range(3)) / 3
    assert (seen - wanted).abs().max() < 1e-12
    # The mean over images of the logit is what the mean map says.
    logit = model(images)[:, 2].mean()
    assert abs((seen.mean() + model.head.bias[2] - logit).item()) < 1e-12
    matrix = explain.average(lambda image: explain.influence(model, image, 1), images)
    first = explain.influence(model, images[0], 1)
    assert matrix.shape == (6, 6) and (matrix - first).abs().max() > 1e-6
    with pytest.raises(ValueError, match="no images"):
        explain.average(lambda image: image, images[:0])
