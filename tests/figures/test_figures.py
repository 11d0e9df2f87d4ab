"""Figures draw what they are given: compared with PIL, brute force and what IPython does."""

import base64
import contextlib
import inspect
import io
import json
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

import mixer_lite as ml
from mixer_lite import figures, images
from mixer_lite.figures import drawing
from mixer_lite.figures.drawing import montage


@pytest.fixture
def photo():
    return images.photo("coffee").crop((0, 0, 96, 64))  # 64 rows of 96 pixels


def decoded(picture):
    kind, data = picture.encode()
    image = Image.open(io.BytesIO(data))
    assert kind == f"image/{image.format.lower()}"
    return image.convert("RGB")


def drawn(axes):
    """The numbers that an axes shows as its image."""
    (image,) = axes.images
    return np.asarray(image.get_array())


def test_a_picture_shows_itself_with_alt_text():
    picture, axes = figures.canvas(alt="a falling line")
    axes.plot([2, 1])
    bundle, metadata = picture._repr_mimebundle_()
    assert bundle["text/plain"] == "[a falling line]"
    assert metadata == {"image/png": {"alt": "a falling line"}}
    image = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert image.size == (8 * figures.DPI, 3 * figures.DPI)


def test_drawings_are_png_and_photographs_small_jpeg(photo):
    assert figures.show_signed([torch.randn(6, 4)], alt="x").encode()[0] == "image/png"
    kind, data = figures.show_images([images.photo("cat")], width=4, columns=1).encode()
    assert kind == "image/jpeg" and len(data) < 40_000


def test_few_colours_stay_near_all_of_them():
    picture = figures.show_signed([torch.randn(20, 20)], alt="x")
    whole = io.BytesIO()
    with figures.style():
        picture.savefig(whole, format="png", dpi=figures.DPI)
    exact = np.asarray(Image.open(whole).convert("RGB"), int)
    assert np.abs(np.asarray(decoded(picture), int) - exact).max() <= 16


def test_style_stays_inside():
    before = matplotlib.rcParams["axes.spines.top"]
    _, axes = figures.canvas(alt="x")
    assert not axes.spines["top"].get_visible()
    assert matplotlib.rcParams["axes.spines.top"] == before


@pytest.mark.parametrize("form", ["pil", "bytes", "floats", "channels first"])
def test_show_images_draws_the_pixels(photo, form):
    pixels = np.asarray(photo)
    given = {
        "pil": photo,
        "bytes": pixels,
        "floats": pixels / 255,
        "channels first": torch.tensor(pixels).permute(2, 0, 1),
    }[form]
    picture = figures.show_images([given, given], ["one", "two"])
    for axes, title in zip(picture.axes, ["one", "two"], strict=True):
        shown = drawn(axes)
        assert np.allclose(shown * 255 if form == "floats" else shown, pixels)
        assert axes.get_title() == title
    assert "one; two" in picture.alt


def test_grey_images_are_not_stretched():
    picture = figures.show_images([torch.full((4, 4), 0.5), np.full((4, 4), 128, np.uint8)])
    assert [a.images[0].get_clim() for a in picture.axes] == [(0, 1), (0, 255)]


def test_show_images_refuses_what_is_no_image():
    with pytest.raises(ValueError, match="this one has 4"):
        figures.show_images([np.zeros((1, 2, 3, 3))])


def test_show_patches_pulls_the_patches_apart(photo):
    P, gap = 16, 2
    left, right = figures.show_patches(photo, P).axes
    assert np.array_equal(drawn(left), np.asarray(photo))
    apart = drawn(right)
    assert apart.shape == (4 * P + 3 * gap, 6 * P + 5 * gap, 3)
    for row in range(4):
        for column in range(6):
            box = (column * P, row * P, column * P + P, row * P + P)
            there = apart[row * (P + gap) :, column * (P + gap) :][:P, :P]
            assert np.array_equal(there, np.asarray(photo.crop(box)))
    assert "4 × 6 = 24 patches" in right.get_title()


def test_patch_figure_marks_the_patch_and_its_row(photo):
    image, patch, table = figures.patch_figure(photo, 32, row=1, column=2).axes
    assert np.array_equal(drawn(patch), np.asarray(photo.crop((64, 32, 96, 64))))
    (frame,) = image.patches
    assert frame.get_xy() == (63.5, 31.5) and frame.get_width() == frame.get_height() == 32
    (row,) = table.patches
    assert row.get_xy()[1] == 4.5 and row.get_height() == 1  # token 1 * 3 + 2
    # Each drawn cell is the mean of neighbouring values of a token: red, then green, then blue.
    red = np.asarray(photo.crop((64, 32, 96, 64)), float)[..., 0].ravel()
    group = -(-3 * 32 * 32 // 512)
    assert drawn(table).shape == (6, 512)
    assert np.allclose(drawn(table)[5, 0], red[:group].mean())
    assert np.allclose(drawn(table)[5, 100], red[100 * group : 101 * group].mean())


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((30, 0, 0), "patch_size 30 does not divide the image size 64 x 96"),
        ((0, 0, 0), "patch_size 0 does not divide"),
        ((32, 2, 0), "no patch at row 2, column 0: rows go from 0 to 1, columns from 0 to 2"),
        ((32, 0, -1), "no patch at row 0, column -1"),
    ],
)
def test_patch_figure_refuses_what_is_not_there(photo, sizes, sentence):
    with pytest.raises(ValueError, match=sentence):
        figures.patch_figure(photo, *sizes)


def test_signed_numbers_have_white_at_zero():
    matrices = [torch.tensor([[0.0, 3.0]]), torch.tensor([[-1.0, 2.0]])]
    picture = figures.show_signed(matrices, ["a", "b"], alt="x")
    for axes in picture.axes[:2]:
        assert axes.images[0].get_clim() == (-3, 3)
        red, green, blue, _ = axes.images[0].to_rgba(0.0)
        assert min(red, green, blue) > 0.95
        warm, cold = (axes.images[0].to_rgba(v) for v in (2.0, -2.0))
        assert warm[0] > warm[2] and cold[2] > cold[0]  # red above zero, blue below
    assert figures.show_signed(matrices, limit=1, alt="x").axes[0].images[0].get_clim() == (-1, 1)


def test_only_zeros_are_white():
    low, high = figures.show_signed([np.zeros((2, 2))], alt="x").axes[0].images[0].get_clim()
    assert low == -high < 0


def test_tables_share_one_scale_from_zero():
    picture = figures.show_table([[[1, 2]], [[5, 3]]], alt="x")
    assert [a.images[0].get_clim() for a in picture.axes[:2]] == [(0, 5), (0, 5)]


def test_numbers_are_written_into_their_cells():
    picture = figures.show_signed([[[0, 0.004], [-0.004, -1.5]]], values=True, alt="x")
    written = {text.get_position(): text.get_text() for text in picture.axes[0].texts}
    assert written == {(0, 0): "0", (1, 0): "0.00", (0, 1): "0.00", (1, 1): "-1.50"}
    whole = figures.show_table([[[7, 300]]], values=True, alt="x")
    assert [text.get_text() for text in whole.axes[0].texts] == ["7", "300"]


def test_blocks_are_parted_and_counted():
    axes = figures.show_signed([torch.randn(6, 8)], blocks=(3, 2), alt="x").axes[0]
    lines = sorted((line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines)
    assert lines == [(0, 2.5), (1.5, 0), (3.5, 0), (5.5, 0)]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0", "1", "2", "3"]
    assert axes.get_yticks().tolist() == [1, 4]


def test_wide_tables_are_drawn_as_means():
    table = torch.rand(3, 1201)
    shown = drawn(figures.show_table([table], alt="x").axes[0])
    wanted = [[row[k : k + 3].mean().item() for k in range(0, 1201, 3)] for row in table]
    assert np.allclose(shown, wanted, atol=1e-6)


def test_montage_puts_tiles_in_reading_order_with_gaps():
    tiles = np.arange(5 * 2 * 3, dtype=float).reshape(5, 2, 3)
    sheet = montage(tiles, columns=2)
    assert sheet.shape == (3 * 3, 2 * 4)
    for k, tile in enumerate(tiles):
        y, x = k // 2 * 3, k % 2 * 4
        assert (sheet[y : y + 2, x : x + 3] == tile).all()
    assert np.isnan(sheet).sum() == sheet.size - tiles.size


ODD_NAMES = [r"$\frac{$", "$x^$", "half a \udc80 character", "\ud83d", "a\nb"]


def test_every_figure_is_drawn_in_the_course_s_style():
    drawers = [f for f in vars(figures).values() if inspect.isfunction(f)]
    drawers = [f for f in drawers if "Picture" in str(inspect.signature(f).return_annotation)]
    assert len(drawers) > 15
    assert [f.__name__ for f in drawers if not hasattr(f, "__wrapped__")] == []


def test_a_formula_over_two_lines_is_drawn_without_a_warning(caplog):
    picture, axes = drawing.canvas(alt="Nothing.")
    words = axes.text(0, 0, "$x^2$\nover $y$")
    picture.encode()
    assert words.get_parse_math()
    assert caplog.messages == []


@pytest.mark.parametrize("name", ODD_NAMES)
@pytest.mark.parametrize("styled", [True, False])  # a reader may add words of their own
def test_whatever_a_class_is_called_it_is_drawn(name, styled):
    with drawing.style() if styled else contextlib.nullcontext():
        picture, (axes, bars) = drawing.canvas(1, 2, alt=f"Bars of {name}.")
        axes.set_title(name)
        axes.set(xlabel=name, ylabel=name, xticks=[0, 1], xticklabels=[name, "b"])
        axes.plot([0, 1], label=name)
        axes.legend()
        bars.barh([name, "b"], [1, 2])  # names as places
        bars.set_xticks([1], [name], minor=True)
    for _ in range(2):  # drawn again, it is as it was
        bundle, metadata = picture._repr_mimebundle_()
    json.dumps([bundle, metadata], ensure_ascii=False).encode()  # as a notebook is stored
    if name.isascii():
        assert name in bundle["text/plain"]


def test_ticks_may_be_labelled_with_numbers():
    drawn = []
    for labels in ([2, 4, 8], ["2", "4", "8"]):
        picture, axes = drawing.canvas(alt="Three powers of two.")
        axes.plot([1, 3, 2])
        axes.set_xticks(range(3), labels)
        drawn.append(np.asarray(decoded(picture)))
    assert np.array_equal(*drawn)


@pytest.mark.parametrize("name", ODD_NAMES)
def test_every_figure_of_predictions_takes_any_class_name(name):
    names = (name, *(f"class {i}" for i in range(9)))
    model = ml.create_model("mixer_pico_cifar10").eval()
    model.config = replace(model.config, class_names=names)
    cats = [images.photo("cat"), images.photo("cat")]
    said = ml.predict(model, cats, top_k=10)
    for picture in (
        figures.show_predictions(cats, said, truths=[name, "b"]),
        figures.show_confusion(torch.eye(10, dtype=torch.int64), names),
    ):
        json.dumps(picture._repr_mimebundle_(), ensure_ascii=False).encode()
