"""Pictures that are sound though something beside their pixels is odd, and numbers of any depth."""

import io
import struct
import warnings
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

import mixer_lite as ml
from mixer_lite.images import open_image, prepare


def picture(seed=0, size=(40, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


# Odd side data, sound pixels --------------------------------------------------------------------


def chunk(kind, data):
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def with_chunk(data, extra, before=b"IDAT"):
    place = data.index(before) - 4
    return data[:place] + extra + data[place:]


@pytest.fixture
def png():
    file = io.BytesIO()
    picture().save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "odd",
    [
        chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 3_000_000)),
        chunk(b"iCCP", b"profile\0\0" + zlib.compress(b"a" * 3_000_000)),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b"a" * 3_000_000)),
        chunk(b"tEXt", b"Comment\0short")[:-4] + b"\0\0\0\0",  # a wrong checksum
        chunk(b"pHYs", b"x"),
        chunk(b"gAMA", b""),
    ],
    ids=["text", "profile", "xmp", "checksum", "density", "gamma"],
)
@pytest.mark.parametrize("before", [b"IDAT", b"IEND"])
def test_a_png_opens_whatever_lies_beside_its_pixels(png, odd, before):
    wanted = np.asarray(picture())
    opened = open_image(io.BytesIO(with_chunk(png, odd, before)))
    assert np.array_equal(np.asarray(opened), wanted)


def test_a_png_that_is_cut_short_is_still_refused(png):
    odd = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 3_000_000))
    with pytest.raises(ValueError, match="Cannot read"):
        open_image(io.BytesIO(with_chunk(png, odd)[:4000]))


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0nonsense", b"Exif"])
def test_a_jpeg_with_damaged_exif_opens(exif):
    file = io.BytesIO()
    picture().save(file, "JPEG", exif=exif)
    assert open_image(file).size == (40, 40)


# Numbers of other depths ------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_twelve_bits_in_sixteen_are_told(tmp_path, suffix):
    deep = np.random.default_rng(0).integers(0, 4096, (30, 30), dtype=np.uint16)
    Image.fromarray(deep).save(tmp_path / f"x{suffix}")
    with pytest.warns(
        UserWarning, match=r"no greater than 40\d\d, so it will be very dark.*12-bit"
    ):
        open_image(tmp_path / f"x{suffix}")
    Image.fromarray(deep * 16).save(tmp_path / f"y{suffix}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.asarray(open_image(tmp_path / f"y{suffix}"))[..., 0] == pytest.approx(
            deep * 16 / 257, abs=0.6
        )
        Image.fromarray(np.zeros((9, 9), np.uint16)).save(tmp_path / "black.png")
        open_image(tmp_path / "black.png")


def test_thirty_two_bits_hold_eight(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (30, 30), dtype=np.int32)
    Image.fromarray(grey).save(tmp_path / "x.tif")
    assert np.array_equal(np.asarray(open_image(tmp_path / "x.tif"))[..., 1], grey)


# Other channels ---------------------------------------------------------------------------------


def test_a_grey_model_sees_grey_pictures():
    model = ml.create_model("mixer_pico_cifar10", in_channels=1).eval()
    seen = prepare(picture(1, (32, 32)), replace(model.config, crop=1.0), 1)
    grey = np.asarray(picture(1, (32, 32)).convert("L")).astype(np.float32) / 255
    mean, std = model.config.mean[0], model.config.std[0]
    assert torch.allclose(seen, torch.from_numpy((grey - mean) / std)[None], atol=1e-6)
    assert len(ml.predict(model, picture(), top_k=2)) == 2


def test_a_model_of_twelve_channels_asks_for_a_tensor():
    model = ml.create_model("mixer_pico_cifar10", in_channels=12).eval()
    with pytest.raises(ValueError, match=r"takes 12 channels, .* tensor"):
        ml.predict(model, picture())


def test_text_in_a_png_is_no_reason_for_pillow_to_be_told(png):
    # The limit is Pillow's own: it stays as it is for the rest of the program.
    before = PngImagePlugin.MAX_TEXT_CHUNK
    odd = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 3_000_000))
    open_image(io.BytesIO(with_chunk(png, odd)))
    assert before == PngImagePlugin.MAX_TEXT_CHUNK
