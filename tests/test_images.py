"""open_image and preprocess against Pillow, timm's own transform and hand-made files."""

import io
import os
import struct
import sys
import warnings
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm.data
import torch
from PIL import Image, features

from mixer_lite import images
from mixer_lite._support.files import data_path
from mixer_lite.images import open_image, preprocess, unnormalize
from mixer_lite.specs import ModelConfig

# 3 rows of 5 pixels: no two sides, rows or channels alike, so that a swapped axis shows.
RGB = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)


def pixels(source) -> np.ndarray:
    picture = open_image(source)
    assert picture.mode == "RGB"
    return np.asarray(picture)


def test_path_file_picture_array_and_tensor_give_the_same_picture(tmp_path):
    path = tmp_path / "Bild mit Umlauten äöü.png"
    Image.fromarray(RGB).save(path)
    tensor = torch.from_numpy(RGB.transpose(2, 0, 1).copy())
    for source in (path, str(path), Image.fromarray(RGB), RGB, RGB / 255, tensor, tensor / 255,
                   (tensor / 255).half(), io.BytesIO(path.read_bytes())):  # fmt: skip
        assert np.array_equal(pixels(source), RGB), type(source)
    with path.open("rb") as file:
        assert np.array_equal(pixels(file), RGB)


def test_grey_bool_and_sixteen_bit_numbers():
    grey = RGB[:, :, 0]
    three = np.stack([grey] * 3, axis=2)
    for source in (grey, grey[:, :, None], torch.from_numpy(grey.copy()),
                   torch.from_numpy(grey[None].copy()), grey.astype(np.uint16) * 257):  # fmt: skip
        assert np.array_equal(pixels(source), three)
    assert np.array_equal(pixels(grey > 100), np.where(three > 100, 255, 0))
    assert pixels(np.array([[65535, 32768, 127, 128]], np.uint16))[0, :, 0].tolist() == [
        255, 128, 0, 0,
    ]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    upright = np.zeros((20, 30, 3), np.uint8)
    upright[:10, :10] = 255  # only the top left corner is white
    # What a camera stores so that the orientation tag sets it upright (EXIF 2.3, tag 0x0112).
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2), 8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(pixels(path), upright)
    assert np.array_equal(np.asarray(open_image(path, upright=False)), stored)


def test_transparency_is_laid_on_white(tmp_path):
    rgba = np.dstack([RGB, np.full((3, 5), 128, np.uint8)])
    rgba[0, 0, 3], rgba[0, 1, 3] = 0, 255
    alpha = rgba[:, :, 3:] / 255
    expected = RGB * alpha + 255 * (1 - alpha)
    for source in (rgba, torch.from_numpy(rgba.transpose(2, 0, 1).copy()), Image.fromarray(rgba)):
        assert np.abs(pixels(source) - expected).max() <= 1
        assert pixels(source)[0, 0].tolist() == [255, 255, 255]
        assert pixels(source)[0, 1].tolist() == RGB[0, 1].tolist()
    grey = Image.merge("LA", (Image.new("L", (2, 2), 100), Image.new("L", (2, 2), 0)))
    assert pixels(grey).min() == 255

    palette = Image.new("P", (2, 1))
    palette.putpalette([255, 0, 0, 0, 0, 255])
    palette.putdata([0, 1])
    palette.save(tmp_path / "plain.png")
    palette.save(tmp_path / "hole.png", transparency=1)
    palette.save(tmp_path / "hole.gif", transparency=1)
    assert pixels(tmp_path / "plain.png").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert pixels(tmp_path / "hole.png").tolist() == [[[255, 0, 0], [255, 255, 255]]]
    assert pixels(tmp_path / "hole.gif").tolist() == [[[255, 0, 0], [255, 255, 255]]]

    Image.fromarray(RGB).save(tmp_path / "one.png", transparency=tuple(RGB[2, 4].tolist()))
    assert pixels(tmp_path / "one.png")[2, 4].tolist() == [255, 255, 255]
    assert np.array_equal(pixels(tmp_path / "one.png")[:2], RGB[:2])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_files_are_scaled_not_clipped(tmp_path, suffix):
    numbers = np.array([[0, 257, 25700], [32896, 65278, 65535]], np.uint16)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(numbers).save(path)
    assert pixels(path)[:, :, 1].tolist() == [[0, 1, 100], [128, 254, 255]]


def test_sixteen_bit_big_endian_thirty_two_bit_and_float_files(tmp_path):
    numbers = np.array([[0, 25700, 65535]], np.uint16)
    big = Image.frombytes("I;16B", (3, 1), numbers.astype(">u2").tobytes())
    assert pixels(big)[0, :, 0].tolist() == [0, 100, 255]
    assert pixels(Image.fromarray(numbers.astype(np.int32)))[0, :, 0].tolist() == [0, 100, 255]
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(tmp_path / "float.tif")
    assert pixels(tmp_path / "float.tif")[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(ValueError, match="32-bit numbers are of unknown scale"):
        open_image(Image.fromarray(np.array([[0, 70_000]], np.int32)))


def test_cmyk_and_other_colour_modes(tmp_path):
    block = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, all magenta and yellow: red
    block.save(tmp_path / "print.jpg", quality=95)
    red = pixels(tmp_path / "print.jpg").reshape(-1, 3).mean(axis=0)
    assert red[0] > 245 and red[1] < 10 and red[2] < 10
    for mode in ("1", "L", "HSV", "YCbCr"):
        picture = Image.fromarray(RGB).convert(mode)
        assert np.array_equal(pixels(picture), np.asarray(picture.convert("RGB")))
    with pytest.raises(ValueError, match="colour mode La "):
        open_image(Image.new("La", (2, 2)))


def test_first_picture_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert pixels(tmp_path / "moving.gif")[0, 0].tolist() == [255, 0, 0]


def one_sentence(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 400, text
    return text


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif", "tif", "bmp", "webp"])
def test_truncated_files_are_refused(tmp_path, suffix):
    assert features.check("webp")
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise).save(path)
    assert open_image(path).size == (64, 64)
    short = tmp_path / f"short.{suffix}"
    short.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="short") as error:
        open_image(short)
    assert "damaged or cut short" in one_sentence(error) or "not an image" in one_sentence(error)


def bomb(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    "side", [10_000, 50_000]
)  # Pillow warns of the first, raises on the second
def test_decompression_bombs_are_refused(side):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="decompression bomb") as error:
            open_image(io.BytesIO(bomb(side, side)))
    one_sentence(error)


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "notes.jpg").write_text("no picture", encoding="utf-8")
    (tmp_path / "nothing.png").write_bytes(b"")
    cases = [
        (tmp_path / "notes.jpg", "not an image"),
        (tmp_path / "nothing.png", "not an image"),
        (io.BytesIO(b"no picture"), "not an image"),
        (tmp_path, "is a folder"),
        ("https://example.org/cat.jpg", "web address"),
        (7, "not int"),
        (None, "not NoneType"),
        (Image.new("RGB", (0, 4)), "empty"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (torch.zeros(3, 0, 4), "empty"),
        (np.full((2, 2), np.nan), "NaN"),
        (np.full((2, 2, 3), np.inf), "infinity"),
        (np.array([[0.0, 255.0]]), "divide by 255"),
        (torch.full((3, 2, 2), -1.0), "from -1 to -1"),
        (RGB.astype(np.int64), "holds int64"),
        (torch.from_numpy(RGB[:, :, 0].astype(np.int64)), "holds int64"),
        (np.array([["a"]]), "but the array holds"),
        (RGB.transpose(2, 0, 1), "'c h w -> h w c'"),
        (torch.zeros(5, 6, 3), "'h w c -> c h w'"),
        (np.zeros((7, 5, 2), np.uint8), "1, 3 or 4 channels"),
        (torch.zeros(2, 4, 5), "1, 3 or 4 channels"),
        (np.zeros(5, np.uint8), "(h, w)"),
        (torch.zeros(5), "(h, w)"),
        (np.zeros((2, 4, 5, 3), np.uint8), "a batch"),
        (torch.zeros(2, 3, 4, 5), "a batch"),
    ]
    for source, words in cases:
        with pytest.raises(ValueError) as error:
            open_image(source)
        assert words in one_sentence(error), (source, words)
    with pytest.raises(FileNotFoundError, match=r"no file .*missing\.jpg") as missing:
        open_image(tmp_path / "missing.jpg")
    one_sentence(missing)


B16 = ModelConfig(name="mixer_b16_224", image_size=224)
CONFIGS = [
    B16,
    replace(B16, name="miil", mean=(0, 0, 0), std=(1, 1, 1), interpolation="bilinear"),
    replace(B16, name="gmixer", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    ModelConfig(name="nano", image_size=32, crop=1.0),
    ModelConfig(name="odd", image_size=50, crop=0.9, interpolation="bilinear"),  # 50 / 0.9 = 55.6
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_preprocess_is_timms_evaluation_transform(config):
    theirs = timm.data.create_transform(
        input_size=(3, config.image_size, config.image_size), is_training=False,
        mean=config.mean, std=config.std, interpolation=config.interpolation,
        crop_pct=config.crop, crop_mode="center",
    )  # fmt: skip
    wide, square = images.photo("coffee"), images.photo("astronaut")
    tall, small = wide.rotate(90, expand=True), wide.resize((41, 37))
    for picture in (wide, square, tall, small):
        ours = preprocess(picture, config)
        assert ours.shape == (1, 3, config.image_size, config.image_size)
        assert torch.equal(ours[0], theirs(picture))


def odd_photographs() -> dict[str, Image.Image]:
    """Bundled photographs cut to sizes that leave remainders wherever they are divided."""
    coffee, astronaut, cat = (images.photo(name) for name in ("coffee", "astronaut", "cat"))
    grey = Image.open(data_path("photos/eagle.jpg"))
    assert grey.mode == "L"
    alpha = Image.linear_gradient("L").resize((301, 227))
    rgba = coffee.crop((30, 9, 331, 236))
    rgba.putalpha(alpha)
    return {
        "landscape": coffee.crop((3, 5, 481, 318)),  # 478 x 313
        "portrait": astronaut.crop((11, 0, 292, 511)),  # 281 x 511
        "small": cat.crop((100, 60, 231, 157)),  # 131 x 97
        "strip": cat.crop((0, 100, 449, 119)),  # 449 x 19
        "one side fits": coffee.crop((0, 0, 399, 256)),
        "grey": grey.crop((1, 2, 400, 303)),  # 399 x 301
        "transparent": rgba,  # 301 x 227
    }


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("crop", [0.875, 0.9, 1.0])
def test_odd_photographs_are_prepared_as_timm_does_it(interpolation, crop):
    # A configuration as a timm model carries it, read by timm's own function.
    cfg = dict(
        input_size=(3, 224, 224), crop_pct=crop, interpolation=interpolation,
        mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.5),
    )  # fmt: skip
    theirs = timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=cfg), is_training=False
    )
    config = ModelConfig(
        name="odd", image_size=224, mean=cfg["mean"], std=cfg["std"],
        interpolation=interpolation, crop=crop,
    )  # fmt: skip
    one_level = 1.001 / 255 / torch.tensor(config.std)[:, None, None]
    for name, picture in odd_photographs().items():
        # timm's readers turn every picture into RGB; transparency is laid on white before.
        seen = open_image(picture) if picture.mode == "RGBA" else picture.convert("RGB")
        ours, wanted = preprocess(picture, config)[0], theirs(seen)
        assert ours.shape == wanted.shape == (3, 224, 224)
        assert ((ours - wanted).abs() < one_level).all(), name


@pytest.mark.parametrize("name", timm.list_models("mixer_*", pretrained=True))
def test_timms_trained_mixers_are_prepared_as_timm_does_it(name):
    cfg = timm.get_pretrained_cfg(name).to_dict()
    theirs = timm.data.create_transform(
        **timm.data.resolve_data_config(pretrained_cfg=cfg), is_training=False
    )
    config = ModelConfig(
        name=name, image_size=cfg["input_size"][-1], mean=cfg["mean"], std=cfg["std"],
        interpolation=cfg["interpolation"], crop=cfg["crop_pct"],
    )  # fmt: skip
    picture = odd_photographs()["portrait"]
    assert torch.equal(preprocess(picture, config)[0], theirs(picture))


OPENMMLAB = ModelConfig(name="openmmlab", image_size=224, resize="opencv")


def cubic_by_hand(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """One pixel ``(3,)`` of the cubic convolution with a = -0.75, borders repeated (Keys 1981)."""

    def weight(t: float, a: float = -0.75) -> float:
        t = abs(t)
        if t <= 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    top, left = int(np.floor(y)), int(np.floor(x))
    total = np.zeros(3)
    for i in range(top - 1, top + 3):
        for j in range(left - 1, left + 3):
            row, column = np.clip(i, 0, image.shape[0] - 1), np.clip(j, 0, image.shape[1] - 1)
            total += weight(y - i) * weight(x - j) * image[row, column]
    return total.clip(0, 255)


def test_openmmlabs_resizing_by_hand():
    for name in ("landscape", "portrait", "small"):
        picture = odd_photographs()[name]
        w, h = picture.size
        # ResizeEdge: the shorter edge to 256, the other cut down to a whole number.
        new_w, new_h = (256, int(256 * h / w)) if w < h else (int(256 * w / h), 256)
        top, left = round((new_h - 224) / 2), round((new_w - 224) / 2)
        seen = (preprocess(picture, OPENMMLAB)[0] * 127.5 + 127.5).numpy().transpose(1, 2, 0)
        assert np.abs(seen - seen.round()).max() < 1e-3  # whole grey levels
        for i, j in [(0, 0), (0, 223), (100, 17), (111, 112), (223, 50), (223, 223)]:
            y = (top + i + 0.5) * h / new_h - 0.5  # pixel centres lie at halves
            x = (left + j + 0.5) * w / new_w - 0.5
            wanted = cubic_by_hand(np.asarray(picture, float), y, x)
            assert np.abs(seen[i, j] - wanted).max() <= 1, (name, i, j)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_openmmlabs_resizing_by_opencv(interpolation):
    import cv2

    method = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}[interpolation]
    config = replace(OPENMMLAB, interpolation=interpolation)
    sizes = {"landscape": (390, 256), "portrait": (256, 465), "small": (345, 256),
             "strip": (6049, 256), "one side fits": (399, 256)}  # fmt: skip
    for name, (width, height) in sizes.items():
        picture = odd_photographs()[name]
        bgr = cv2.resize(np.asarray(picture)[:, :, ::-1], (width, height), interpolation=method)
        top, left = round((height - 224) / 2), round((width - 224) / 2)
        cut = bgr[top : top + 224, left : left + 224, ::-1]
        wanted = (cut.astype(np.float32) - 127.5) / 127.5
        ours = preprocess(picture, config)[0].numpy().transpose(1, 2, 0)
        assert np.abs(ours - wanted).max() < 1e-6, name


def test_shrinking_without_averaging_differs_from_pillows():
    # Stripes one pixel wide: Pillow averages them to grey, OpenCV picks some of them out.
    stripes = np.zeros((448, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    small = replace(B16, image_size=112)
    averaged = preprocess(stripes, small)
    picked = preprocess(stripes, replace(small, resize="opencv"))
    assert averaged.std() < 0.2 < 0.5 < picked.std()


def test_without_opencv_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)  # what import then raises: ImportError
    with pytest.raises(RuntimeError, match="OpenCV, which is not installed: pip install") as error:
        preprocess(images.photo("cat"), OPENMMLAB)
    one_sentence(error)


def test_preprocess_of_several_in_their_order():
    config = CONFIGS[3]
    pictures = [images.photo(name) for name in ("cat", "eagle", "rocket")]
    batch = preprocess(pictures, config)
    assert batch.shape == (3, 3, 32, 32)
    for one, picture in zip(batch, pictures, strict=True):
        assert torch.equal(one, preprocess(picture, config)[0])
    cut = np.random.default_rng(2).integers(0, 256, (4, 40, 60, 3), dtype=np.uint8)
    channels_first = torch.from_numpy(cut.transpose(0, 3, 1, 2).copy())
    assert torch.equal(preprocess(cut, config), preprocess(list(cut), config))
    assert torch.equal(preprocess(channels_first, config), preprocess(cut, config))
    with pytest.raises(ValueError, match="no image in the list"):
        preprocess([], config)
    with pytest.raises(ValueError, match="too long and thin"):
        preprocess(np.zeros((2, 3000, 3), np.uint8), config)


def test_an_image_of_the_right_size_is_not_resampled():
    noise = np.random.default_rng(3).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    config = ModelConfig(
        name="x", image_size=32, crop=1.0, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    )
    batch = preprocess(noise, config)
    by_hand = (noise / 255 - np.array(config.mean)) / np.array(config.std)
    assert np.abs(batch.numpy().transpose(0, 2, 3, 1) - by_hand).max() < 1e-6
    assert np.array_equal(unnormalize(batch, config), noise)


def test_unnormalize_of_a_prepared_photograph():
    config = CONFIGS[2]
    seen = unnormalize(preprocess(images.photo("coffee"), config), config)
    assert seen.dtype == np.uint8 and seen.shape == (1, 224, 224, 3)
    photograph = images.photo("coffee")  # 512 x 341: the shorter side to 256
    resized = photograph.resize((384, 256), Image.Resampling.BICUBIC)
    assert np.array_equal(seen[0], np.asarray(resized)[16:240, 80:304])
    with pytest.raises(ValueError, match="takes a batch"):
        unnormalize(torch.zeros(3, 224, 224), config)


def test_photographs():
    names = images.list_photos()
    assert len(names) >= 12 and len(set(names)) == len(names)
    for name in names:
        facts, picture = images.photo_info(name), images.photo(name)
        assert picture.mode == "RGB" and 224 <= min(picture.size) and max(picture.size) <= 512
        assert facts.name == name and facts.caption and facts.source and facts.licence
        assert Path(facts.file).stem == name
    assert images.photo_info("cat").cifar10 == "cat"
    with pytest.raises(ValueError, match=r"no photograph named 'cats'\. Did you mean cat"):
        images.photo("cats")


def test_photographs_classes_exist():
    from timm.data import ImageNetInfo

    from mixer_lite.specs import CIFAR10_CLASSES

    info = ImageNetInfo()
    imagenet = {info.index_to_description(i).split(",")[0] for i in range(1000)}
    facts = [images.photo_info(name) for name in images.list_photos()]
    assert {fact.cifar10 for fact in facts if fact.cifar10} <= set(CIFAR10_CLASSES)
    assert {fact.imagenet for fact in facts if fact.imagenet} <= imagenet


# What strangers give


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
%%EndComments
(EXECUTED) (w) file closefile
%%EOF
"""


def test_only_kinds_of_images_that_are_decoded_here_are_opened(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr("subprocess.check_call", lambda *a, **k: started.append(a))
    (tmp_path / "cat.jpg").write_bytes(EPS)
    with Image.open(tmp_path / "cat.jpg") as opened:  # Pillow itself knows it, whatever its name
        assert opened.format == "EPS"
        for source in (tmp_path / "cat.jpg", io.BytesIO(EPS), opened):
            with pytest.raises(ValueError, match="not an image of a kind that is read here"):
                open_image(source)
    assert not started


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no such files")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    for path in (tmp_path / "a.png", "/dev/zero"):
        with pytest.raises(ValueError, match="is a device or a pipe"):
            open_image(path)


@pytest.mark.parametrize("mode, side", [("F", 6000), ("I", 6000), ("RGBA", 7000), ("I;16", 7000)])
def test_bytes_count_not_pixels(tmp_path, mode, side):
    assert side**2 < Image.MAX_IMAGE_PIXELS
    Image.new(mode, (side, side)).save(
        tmp_path / "a.tif", compression=None if mode == "I;16" else "tiff_deflate"
    )
    with pytest.raises(ValueError, match="claims more pixels than"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("crop", [0.002, 1e-6, 1e-300])
def test_work_that_a_configuration_asks_for_is_bounded(crop):
    config = ModelConfig(name="x", image_size=32, crop=crop)
    with pytest.raises(ValueError, match=r"would be resized to .* takes more memory"):
        preprocess(Image.new("RGB", (50, 40)), config)


def test_names_of_files_are_told_on_one_line(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        open_image(tmp_path / "a\n\x1b[31m.png")
    assert str(error.value).isprintable()
