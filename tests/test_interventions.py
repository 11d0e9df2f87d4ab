"""Shuffles by loops, the identity that they leave, and edits that leave no trace."""

import math

import numpy as np
import pytest
import torch

import mixer_lite as ml
from mixer_lite import explain

# S = 6 on a 2 x 3 grid, 16 pixels in a patch, C = 7, D_S = 9, D_C = 11, K = 5.
SIZES = dict(
    image_size=(8, 12), patch_size=4, num_classes=5, num_blocks=3,
    hidden_dim=7, tokens_mlp_dim=9, channels_mlp_dim=11,
)  # fmt: skip


@pytest.fixture
def model():
    """A float64 Mixer in which no weight, bias or gain is 0 or 1."""
    model = ml.MlpMixer(**SIZES).double()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.5)
    return model


@pytest.fixture
def images():
    return torch.randn(4, 3, 8, 12).double()


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(one, other):
    return all(torch.equal(v, other[k]) for k, v in one.items())


# --- shuffles --------------------------------------------------------------------------------


@pytest.mark.parametrize("patches", [True, False])
@pytest.mark.parametrize("pixels", [True, False])
def test_shuffle_patches_by_loops(images, patches, pixels):
    patch_order = torch.randperm(6) if patches else None
    pixel_order = torch.randperm(16) if pixels else None
    found = explain.shuffle_patches(images, 4, patch_order=patch_order, pixel_order=pixel_order)
    for place in range(6):
        source = int(patch_order[place]) if patches else place
        for spot in range(16):
            pixel = int(pixel_order[spot]) if pixels else spot
            to = 4 * (place // 3) + spot // 4, 4 * (place % 3) + spot % 4
            fro = 4 * (source // 3) + pixel // 4, 4 * (source % 3) + pixel % 4
            assert torch.equal(found[:, :, to[0], to[1]], images[:, :, fro[0], fro[1]])
    one = explain.shuffle_patches(images[0], 4, patch_order=patch_order, pixel_order=pixel_order)
    assert torch.equal(one, found[0])


def test_shuffle_pixels_by_loops(images):
    order = torch.randperm(96)
    found = explain.shuffle_pixels(images, order)
    for place, source in enumerate(order.tolist()):
        spots = found[:, :, place // 12, place % 12], images[:, :, source // 12, source % 12]
        assert torch.equal(*spots)


@pytest.mark.parametrize("patches", [True, False])
@pytest.mark.parametrize("pixels", [True, False])
def test_weights_that_follow_the_shuffle_leave_the_logits(model, images, patches, pixels):
    before = state(model)
    orders = dict(
        patch_order=torch.randperm(6) if patches else None,
        pixel_order=torch.randperm(16) if pixels else None,
    )
    shuffled = explain.shuffle_patches(images, 4, **orders)
    twin = explain.reparametrise(model, **orders)
    assert (twin(shuffled) - model(images)).abs().max() < 1e-12
    if patches or pixels:  # both halves are needed
        assert (model(shuffled) - model(images)).abs().max() > 1e-2
        assert (twin(images) - model(images)).abs().max() > 1e-2
    if patches:  # the tokens are the same ones elsewhere, and so is the evidence
        maps = [
            explain.patch_evidence(m, x, 1).flatten()
            for m, x in ((twin, shuffled[0]), (model, images[0]))
        ]
        assert (maps[0] - maps[1][orders["patch_order"]]).abs().max() < 1e-12
    assert same(before, model.state_dict())


def test_the_bundled_size_follows_too():
    model = ml.create_model("mixer_nano_cifar10").double()
    images = torch.randn(2, 3, 32, 32).double()
    orders = dict(patch_order=torch.randperm(64), pixel_order=torch.randperm(16))
    twin = explain.reparametrise(model, **orders)
    out = twin(explain.shuffle_patches(images, 4, **orders))
    assert (out - model(images)).abs().max() < 1e-12
    assert twin.config == model.config


def gradient_rank(function, images, place):
    """In how many directions the logits move with the 48 numbers of one patch of the images."""
    rows = []
    for image in images:
        slope = torch.func.jacrev(lambda x: function(x[None])[0])(image)  # (K, c, h, w)
        y, x = 4 * (place // 3), 4 * (place % 3)
        rows.append(slope[:, :, y : y + 4, x : x + 4].flatten(1))
    return np.linalg.matrix_rank(torch.cat(rows).detach().numpy(), tol=1e-9)


def test_no_weights_follow_a_shuffle_of_all_pixels(model):
    # Any Mixer sees a patch through its C = 7 channels, so that all its logits, on all images,
    # move with a patch's pixels in at most 7 directions (6, as LayerNorm removes the mean). What
    # this Mixer makes of images whose pixels were put back moves in more: no weights of this
    # shape can do the same.
    images = torch.randn(12, 3, 8, 12).double()
    order = torch.randperm(96)
    back = order.argsort()
    assert torch.equal(explain.shuffle_pixels(explain.shuffle_pixels(images, order), back), images)
    shuffled = explain.shuffle_pixels(images, order)
    wanted = gradient_rank(lambda x: model(explain.shuffle_pixels(x, back)), shuffled, 2)
    assert wanted > 2 * 7
    # The other shuffle passes this examination, as it must.
    orders = torch.randperm(6), torch.randperm(16)
    undo = dict(patch_order=orders[0].argsort(), pixel_order=orders[1].argsort())
    moved = explain.shuffle_patches(images, 4, patch_order=orders[0], pixel_order=orders[1])
    assert torch.equal(explain.shuffle_patches(moved, 4, **undo), images)
    assert gradient_rank(lambda x: model(explain.shuffle_patches(x, 4, **undo)), moved, 2) <= 7


def test_orders_that_are_none(model, images):
    with pytest.raises(ValueError, match="patch_order must hold each number from 0 to 5 once"):
        explain.shuffle_patches(images, 4, patch_order=torch.tensor([0, 1, 2, 3, 4, 4]))
    with pytest.raises(ValueError, match="pixel_order must hold each number from 0 to 15 once"):
        explain.reparametrise(model, pixel_order=torch.arange(15))
    with pytest.raises(ValueError, match=r"order must hold .* torch.randperm\(96\)"):
        explain.shuffle_pixels(images, torch.arange(64))
    with pytest.raises(ValueError, match="patch_size 5 does not divide images of 8 x 12 pixels"):
        explain.shuffle_patches(images, 5)


# --- edits -----------------------------------------------------------------------------------


def test_a_removed_unit_writes_nothing(model, images):
    x = model.stem(model.patchify(images))
    block = model.blocks[0]
    hidden = block.mlp_tokens.act(block.mlp_tokens.fc1(block.norm1(x).mT))  # (b, C, D_S)
    before = state(model)
    for factor in (0.0, -1.0, 2.5):
        with explain.edit(model) as units:
            units.scale(0, [4, 7], factor)
            found = block.mlp_tokens(block.norm1(x).mT).mT  # (b, S, C)
        wanted = block.mlp_tokens(block.norm1(x).mT).mT
        for unit in (4, 7):  # a unit adds its column of W2 times its activation
            column = block.mlp_tokens.fc2.weight[:, unit]
            wanted = wanted + (factor - 1) * torch.einsum("s,bc->bsc", column, hidden[..., unit])
        assert (found - wanted).abs().max() < 1e-12
        assert same(before, model.state_dict())
    with explain.edit(model) as units:
        units.remove(0, range(9))
        bias = block.mlp_tokens.fc2.bias
        assert (block.mlp_tokens(hidden.new_ones(6)) - bias).abs().max() == 0


def test_swapped_units_write_each_others_pattern(model, images):
    plain = model(images)
    first, second = (ml.filters.token_filters(model, 1, "fc2")[u].clone() for u in (2, 6))
    with explain.edit(model) as units:
        units.swap(1, 2, 6)
        patterns = ml.filters.token_filters(model, 1, "fc2")
        assert torch.equal(patterns[2], second)
        assert torch.equal(patterns[6], first)
        assert (model(images) - plain).abs().max() > 1e-2
        # Let them read what the other read too: two units have changed names, nothing else.
        with torch.no_grad():
            for p in (model.blocks[1].mlp_tokens.fc1.weight, model.blocks[1].mlp_tokens.fc1.bias):
                p[[2, 6]] = p[[6, 2]]
        assert (model(images) - plain).abs().max() < 1e-12
    assert torch.equal(model(images), plain)


def test_the_model_is_restored_whatever_happens(model, images):
    before = state(model)
    parameters = [id(p) for p in model.parameters()]
    with pytest.raises(KeyboardInterrupt), explain.edit(model) as units:
        units.remove(0, 3)
        assert not same(before, model.state_dict())
        raise KeyboardInterrupt
    assert same(before, model.state_dict())
    with pytest.raises(ValueError, match="A unit must be from 0 to 8, not 9"):
        with explain.edit(model) as units:
            units.scale(2, 1, math.nan)
            units.remove(2, [1, 9])
    assert same(before, model.state_dict())
    with explain.edit(model), torch.no_grad():
        for block in model.blocks:  # by other hands
            block.mlp_tokens.fc1.weight.mul_(2)
            block.mlp_tokens.fc2.bias.zero_()
    assert same(before, model.state_dict())
    with torch.inference_mode(), explain.edit(model) as units:
        units.remove(1, [0, 1])
    assert same(before, model.state_dict())
    assert [id(p) for p in model.parameters()] == parameters
    assert all(p.requires_grad for p in model.parameters())
    model(images).sum().backward()  # still to be trained
    assert model.blocks[0].mlp_tokens.fc2.weight.grad.abs().max() > 0


def test_an_edit_inside_an_edit_ends_at_the_outer_state(model):
    before = state(model)
    with explain.edit(model) as outer:
        outer.scale(0, 1, 3)
        between = state(model)
        with pytest.raises(RuntimeError, match="inside"), explain.edit(model) as inner:
            inner.remove(0, [1, 2])
            outer.scale(1, 5, 0.5)  # made inside, so undone inside
            raise RuntimeError("inside")
        assert same(between, model.state_dict())
        outer.scale(0, 1, 2)
        column = model.blocks[0].mlp_tokens.fc2.weight[:, 1]
        assert torch.equal(column, 6 * before["blocks.0.mlp_tokens.fc2.weight"][:, 1])
    assert same(before, model.state_dict())


def test_edits_of_an_independent_model_leave_the_other_alone(model, images):
    before, versions = model(images), [p._version for p in model.parameters()]
    other = explain.independent(model)
    assert torch.equal(other(images), before)
    with explain.edit(other) as units:
        units.remove(0, [1, 2])
        assert torch.equal(model(images), before) and not torch.equal(other(images), before)
    assert [p._version for p in model.parameters()] == versions  # never written to
    shared = {id(p) for p in model.parameters()} & {id(p) for p in other.parameters()}
    assert len(shared) == len(list(model.parameters())) - 4 * model.num_blocks


def test_an_edit_that_is_over_changes_nothing(model):
    before = state(model)
    with explain.edit(model) as units:
        pass
    for change in (
        lambda: units.remove(0, 1),
        lambda: units.scale(0, 1, 2),
        lambda: units.swap(0, 1, 2),
    ):
        with pytest.raises(RuntimeError, match="edit is over"):
            change()
    assert same(before, model.state_dict())


def test_edits_of_what_is_not_there(model):
    with explain.edit(model) as units:
        with pytest.raises(ValueError, match="block must be from 0 to 2, not 3"):
            units.remove(3, 0)
        with pytest.raises(ValueError, match="A unit must be from 0 to 8, not -1"):
            units.swap(0, 2, -1)


def test_units_removed_to_their_mean_by_loops(model, images):
    gone, b = [1, 4], 1
    x = model.stem(model.patchify(images))  # (n, S, C)
    x = model.blocks[0](x)
    block = model.blocks[b]
    mlp = block.mlp_tokens
    answers = torch.nn.functional.gelu(mlp.fc1(block.norm1(x).transpose(1, 2)))  # (n, C, D_S)
    for unit in gone:
        for channel in range(7):
            answers[:, channel, unit] = sum(answers[:, channel, unit]) / len(images)
    u = x + mlp.fc2(answers).transpose(1, 2)
    u = u + block.mlp_channels(block.norm2(u))
    wanted = model.head(model.norm(model.blocks[2](u)).mean(dim=1))
    before, whole = state(model), model(images)
    with explain.edit(model, to="mean", images=images) as units:
        assert torch.equal(model(images), whole), "nothing is removed yet"
        units.remove(b, gone)
        assert (model(images) - wanted).abs().max() < 1e-12
        units.remove(b, gone[0])  # once more changes nothing
        assert (model(images) - wanted).abs().max() < 1e-12
        with explain.edit(model) as inner:
            inner.remove(0, range(9))
            assert not torch.allclose(model(images), wanted)
        assert (model(images) - wanted).abs().max() < 1e-12
    assert torch.equal(model(images), whole) and same(state(model), before)
    with pytest.raises(RuntimeError, match="over"):
        units.remove(b, 1)


def test_an_edit_to_the_mean_needs_images(model, images):
    for wrong in (dict(to="mean"), dict(to="mean", images=images[:0]), dict(to="median")):
        with pytest.raises(ValueError, match=r'needs images|"zero" or "mean"'):
            explain.edit(model, **wrong).__enter__()
    with explain.edit(model, to="mean", images=images) as units:
        with pytest.raises(ValueError, match="A unit must be"):
            units.remove(0, 9)
        with pytest.raises(ValueError, match="block must be"):
            units.remove(3, 0)
