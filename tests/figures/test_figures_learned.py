"""Figures of filters and explanations: the numbers drawn, where they stand, what is written."""

import numpy as np
import pytest
import torch

from mixer_lite import explain, figures, filters
from mixer_lite.model import MlpMixer
from mixer_lite.specs import ModelConfig


@pytest.fixture
def model():
    torch.manual_seed(1)
    model = MlpMixer(
        image_size=32, patch_size=8, num_classes=3, num_blocks=2, hidden_dim=10,
        tokens_mlp_dim=6, channels_mlp_dim=12,
    )  # fmt: skip
    size = dict(name="x", image_size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    model.config = ModelConfig(**size, interpolation="bicubic", crop=1.0, class_names=("a", "b"))
    return model


def arrays(axes):
    return [np.asarray(image.get_array()) for image in axes.images]


def words(picture):
    return " ".join(text.get_text() for axes in picture.axes for text in [*axes.texts, axes.title])


def places(axes):
    """Left, top, width and height of every map on a sheet, in pixels."""
    boxes = [image.get_extent() for image in axes.images]
    return [(x0, y0, x1 - x0, y1 - y0) for x0, x1, y1, y0 in boxes]


@pytest.mark.parametrize("shape", [(64, 8, 8), (384, 14, 14), (5, 3, 7)])
def test_every_unit_in_its_cell_on_one_scale_about_zero(shape):
    f, order = torch.randn(shape), torch.randperm(shape[0])
    picture = figures.plot_token_filters(f, order=order)
    sheet = picture.axes[0]
    for found, unit in zip(arrays(sheet), order, strict=True):
        np.testing.assert_allclose(found, f[unit].numpy())
    assert {image.get_clim() for image in sheet.images} == {
        (-(top := float(f.double().abs().flatten().quantile(0.99))), top)
    }
    assert [text.get_text() for text in sheet.texts[1:]] == [str(int(u)) for u in order]
    spots = places(sheet)
    assert [(y, x) for x, y, _, _ in spots] == sorted((y, x) for x, y, _, _ in spots)
    width, height = picture.get_size_inches() * figures.DPI
    for x, y, wide, high in spots:  # whole pixels, on the page, each weight a square
        assert wide / shape[2] == high / shape[1] == int(wide / shape[2])
        assert 0 <= x <= width - wide and 0 <= y <= height - high
    for i, (x, y, wide, high) in enumerate(spots):  # none over another
        for a, b, _, _ in spots[i + 1 :]:
            assert a >= x + wide or a + wide <= x or b >= y + high
    assert f"{shape[0]} token-mixing units" in picture.alt and f"unit {order[0]}" in picture.alt


def test_scales_of_units_and_limits():
    f = torch.tensor([1.0, 5.0, 0.0])[:, None, None] * torch.randn(3, 2, 4).sign()
    each = figures.plot_token_filters(f, each=True)
    assert [i.get_clim() for i in each.axes[0].images] == [(-1, 1), (-5, 5), (-1, 1)]
    assert "own scale" in words(each) and len(each.axes) == 1  # no colour bar
    clipped = figures.plot_token_filters(f, limit=2)
    assert {i.get_clim() for i in clipped.axes[0].images} == {(-2, 2)}
    assert "33% of the weights" in " ".join(words(clipped).split())


def test_pairs_stand_together():
    f, pairs = torch.randn(6, 3, 4), torch.tensor([[4, 1], [0, 5], [2, 3]])
    f[5] = -2 * f[0]
    picture = figures.plot_filter_pairs(f, pairs)
    sheet = picture.axes[0]
    for found, unit in zip(arrays(sheet), pairs.flatten(), strict=True):
        np.testing.assert_allclose(found, f[unit].numpy())
    x = [left for left, *_ in places(sheet)]
    wide = places(sheet)[0][2]
    inside, between = x[1] - x[0] - wide, x[2] - x[1] - wide
    assert 0 < inside < between / 3
    assert "cos −1.00" in words(picture) and "units 0 and 5, -1.00" in picture.alt
    by_itself = arrays(figures.plot_filter_pairs(f).axes[0])
    wanted = f[filters.pair_opposite_phases(f).flatten()]
    np.testing.assert_allclose(by_itself, wanted.numpy())


def test_pairs_that_are_no_opposites_are_faint():
    f = torch.zeros(6, 2, 3)
    for unit, place in enumerate((0, 0, 1, 1, 2, 3)):
        f[unit].view(-1)[place] = 1
    f[1, 0, 0] = -2  # an inverse; copies; and two that have nothing to do with each other
    pairs = torch.tensor([[0, 1], [2, 3], [4, 5]])
    picture = figures.plot_filter_pairs(f, pairs, faded=-0.3)
    shades = [image.get_alpha() for image in picture.axes[0].images]
    assert shades[:2] == [1, 1] and len(set(shades[2:])) == 1 and shades[2] < 0.5
    assert "Faint: 2 pairs above -0.3" in picture.alt and "cos 1.00" in words(picture)
    usual = figures.plot_filter_pairs(f, pairs)
    assert {image.get_alpha() for image in usual.axes[0].images} == {1}
    assert "Faint" not in usual.alt


def test_stem_filters_are_colours_about_grey():
    f = torch.zeros(5, 3, 2, 2)
    f[1, 0, 0, 1], f[2, 2, 1, 0] = 0.4, -0.2
    picture = figures.plot_embedding_filters(f, components=2)
    shown = arrays(picture.axes[0])
    assert (shown[0] == 0.5).all() and len(shown) == 7
    np.testing.assert_allclose(shown[1][0, 1], [1, 0.5, 0.5])
    np.testing.assert_allclose(shown[2][1, 0], [0.5, 0.5, 0.25])
    # Two filters that differ hold all the variance; the stronger is mostly the red one.
    assert "+0.4" in words(picture) and "100% of the variance" in picture.alt
    assert shown[5][0, 1, 0] == 1


def test_a_unit_and_what_excites_it(model):
    photo = torch.rand(3, 32, 32)
    picture = figures.plot_unit(model, 1, 4, photo)
    reads, writes, _, partner, _, response, most, least = picture.axes[:8]
    layer = model.blocks[1].mlp_tokens
    np.testing.assert_allclose(arrays(reads)[0].ravel(), layer.fc1.weight[4].detach().numpy())
    np.testing.assert_allclose(arrays(writes)[0].ravel(), layer.fc2.weight[:, 4].detach().numpy())
    low, high = reads.images[0].get_clim()
    assert low == -high == -layer.fc1.weight[4].abs().max()
    cosine = torch.cosine_similarity(layer.fc1.weight[4], layer.fc1.weight, dim=1)
    assert f"unit {cosine.argmin()}" in partner.get_title()

    caught = {}  # by hooks, on what the model itself computes
    layer.fc1.register_forward_hook(lambda _, args, out: caught.update(heard=args[0], said=out))
    level = (photo * 255).floor() / 255  # as open_image rounds to whole levels
    model((level[None] - 0.5) / 0.5)
    said = caught["said"][0, :, 4].detach().numpy()
    top = int(said.argmax())
    assert f"channel {top}" in most.get_title()
    assert f"channel {said.argmin()}" in least.get_title()
    heard = caught["heard"][0, top].detach().numpy()
    np.testing.assert_allclose(arrays(most)[0].ravel(), heard, atol=0.03)
    after = torch.nn.functional.gelu(torch.tensor(np.sort(said)[::-1].copy())).numpy()
    np.testing.assert_allclose(response.lines[0].get_ydata(), after, atol=0.03)
    assert len(figures.plot_unit(model, 0, 0).axes) == 4


def test_evidence_and_its_sum(model):
    x = torch.randn(1, 3, 32, 32)
    maps, bias = explain.patch_evidence(model, x), model.head.bias
    picture = figures.plot_evidence(torch.rand(3, 32, 32), maps, bias, ["ant", "bee", "cow"])
    logits = model(x)[0].tolist()
    for k, axes in enumerate(picture.axes[1:4]):
        np.testing.assert_allclose(arrays(axes)[0], maps[k].numpy(), rtol=1e-6)
        top = float(maps.abs().max())
        assert axes.images[0].get_clim() == pytest.approx((-top, top))
        number = axes.texts[0].get_text().split("logit ")[1].replace("−", "-")
        assert float(number) == pytest.approx(logits[k], abs=0.006)
    one = figures.plot_evidence(np.zeros((4, 4, 3)), [[1.0, 2.0], [3.0, 4.0]], -0.25, ["ant"])
    assert "mean 2.50 − bias 0.25\n= logit 2.25" in words(one)
    assert "ant" in one.alt and "row 1, column 1 (+4)" in one.alt


def test_depth_follows_the_answer():
    logits = torch.tensor([[0.0, 2, 0, 0], [3, 0, 1, 0], [5, 0, 1, 0]])
    for given in (logits, logits.softmax(dim=1)):
        picture = figures.plot_depth(given, ["ant", "bee", "cow", "doe"], top=1)
        (axes,) = picture.axes
        drawn = {tuple(np.round(line.get_ydata(), 6)) for line in axes.lines}
        for column in logits.double().softmax(dim=1).T.numpy():
            assert any(len(d) == 3 and np.allclose(d, column, atol=1e-5) for d in drawn)
        assert [text.get_text().split()[0] for text in axes.texts] == ["ant", "bee"]
        assert "ant leads from block 1" in picture.alt and "stem bee leads" in picture.alt


def test_own_cell_is_left_out_of_the_scale():
    matrix = torch.rand(6, 6) + 50 * torch.eye(6)
    picture = figures.plot_influence(matrix, [1, 5], (2, 3), np.zeros((4, 6, 3)))
    others = matrix[[1, 5]].clone()
    others[0, 1] = others[1, 5] = 0
    for row, token, axes in zip(matrix[[1, 5]], (1, 5), picture.axes[1:3], strict=True):
        shown = axes.images[0].get_array()
        assert np.flatnonzero(np.ma.getmaskarray(shown)).tolist() == [token]
        kept = [k for k in range(6) if k != token]
        np.testing.assert_allclose(shown.ravel()[kept], row[kept].numpy())
        assert axes.images[0].get_clim() == pytest.approx((0, float(others.max())))
        hatch = axes.patches[0]
        assert hatch.get_hatch() and hatch.get_xy() == (token % 3 - 0.5, token // 3 - 0.5)
        assert f"itself {row[token]:.3g}" in axes.texts[0].get_text()
    row = figures.plot_influence(matrix[4:5], 4, (2, 3)).axes[0].images[0].get_array()
    np.testing.assert_allclose(row.ravel()[:4], matrix[4, :4].numpy())


MAPS = torch.randn(4, 2, 3)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: figures.plot_token_filters(MAPS[0]), "units, grid_h, grid_w"),
        (lambda: figures.plot_token_filters(MAPS / 0), "finite"),
        (lambda: figures.plot_token_filters(MAPS, order=[4]), "units go from 0 to 3"),
        (lambda: figures.plot_token_filters(MAPS, order=[-1]), "from 0 to 3"),
        (lambda: figures.plot_token_filters(MAPS, labels=["a"]), "as many labels"),
        (lambda: figures.plot_token_filters(MAPS, limit=-1.0), "above 0"),
        (lambda: figures.plot_token_filters(MAPS, limit=1.0, each=True), "not both"),
        (lambda: figures.plot_filter_pairs(MAPS, [0, 1]), "two units of a pair"),
        (lambda: figures.plot_filter_pairs(MAPS[:1]), "makes no pair"),
        (lambda: figures.plot_embedding_filters(MAPS), "channels, 3, P, P"),
        (lambda: figures.plot_embedding_filters(MAPS[:, None]), "no colours"),
        (lambda: figures.plot_evidence(np.zeros((2, 2)), [1.0], 0), "gh, gw"),
        (lambda: figures.plot_evidence(np.zeros((2, 2)), MAPS, 0), "as many biases"),
        (lambda: figures.plot_depth([1.0, 2]), "blocks"),
        (lambda: figures.plot_depth(MAPS[0], ["a"]), "as many names"),
        (lambda: figures.plot_depth(MAPS[0], top=7), "from 1 to 6"),
        (lambda: figures.plot_influence(torch.eye(6), 6, (2, 3)), "from 0 to 5"),
        (lambda: figures.plot_influence(torch.eye(5), 0, (2, 3)), "must be .6, 6"),
    ],
)
def test_a_clear_sentence_on_wrong_input(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_no_such_unit_and_no_preprocessing(model):
    with pytest.raises(ValueError, match="from 0 to 5"):
        figures.plot_unit(model, 0, 6)
    model.config = None
    with pytest.raises(ValueError, match=r"model\.config"):
        figures.plot_unit(model, 0, 1, torch.rand(3, 32, 32))
