"""Photographs in, tensors out: open any image safely, prepare it as the model was trained.

Arrays have channels last, ``(h, w, 3)``; tensors have channels first, ``(3, h, w)``.
"""

from __future__ import annotations

import importlib
import io
import json
import math
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import ExifTags, Image
from torch import Tensor

from mixer_lite._support.files import data_path
from mixer_lite._support.machine import enough_memory
from mixer_lite._support.words import did_you_mean, foreign, reason
from mixer_lite.model import ModelConfig

#: In ``info`` of a picture opened with ``upright=False``: which way it is turned, if it is.
TURNED = "orientation that was not applied"
# What undoes each EXIF orientation but the first, which is upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# What is opened: Pillow's other decoders start programs (EPS) or are rarely tested.
FORMATS = ("JPEG", "PNG", "GIF", "TIFF", "BMP", "DIB", "WEBP", "PPM", "JPEG2000", "AVIF", "TGA")
# Bytes that a pixel takes on its way to 8-bit RGB, by mode; others take no more than RGB.
_BYTES = {"1": 5, "L": 5, "RGBA": 16, "LA": 16, "PA": 16, "La": 16, "RGBa": 16, "F": 28, "I": 24}
_RGB_BYTES, _BYTES_16 = 8, 18
MAX_PIXELS = 89_478_485  # of RGB, Pillow's own limit: a quarter of a gigabyte

ImageSource = str | Path | IO[bytes] | Image.Image | np.ndarray | Tensor


def open_image(source: ImageSource, *, upright: bool = True) -> Image.Image:
    """Any image as an upright 8-bit RGB picture.

    Turned as its EXIF orientation says. Grey, palette, 16-bit and CMYK pictures are converted;
    transparent ones are laid on white; colour profiles are not applied; of an animation or a
    many-page file the first picture is taken.

    Args:
        source: a path, a file opened in binary mode, a PIL image, an array ``(h, w)``,
            ``(h, w, 1)``, ``(h, w, 3)`` or ``(h, w, 4)``, or a tensor ``(h, w)``, ``(1, h, w)``,
            ``(3, h, w)`` or ``(4, h, w)``; numbers are uint8, uint16, bool, or floats in 0..1.
        upright: ``False`` leaves the picture as it is stored, whatever its EXIF orientation.

    Raises:
        FileNotFoundError: there is no file at this path.
        ValueError: not an image, damaged, too large to be true, empty, or numbers whose
            shape or range leaves open what they mean.
    """
    if isinstance(source, Tensor):
        return _from_numbers(_tensor_to_array(source), "the tensor")
    if isinstance(source, np.ndarray):
        _check_shape(source.shape, "An array", 2)
        return _from_numbers(source, "the array")
    if isinstance(source, Image.Image):
        return _decode(source, "the picture", upright)
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        raise ValueError(
            f"{foreign(source, 300)} is a web address: download the picture, then open the file."
        )
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        name = foreign(path, 300)
        if path.is_dir():
            raise ValueError(f"{name} is a folder: give the path of one image file in it.")
        if not path.exists():
            raise FileNotFoundError(f"There is no file {name}: check the name and the folder.")
        if not path.is_file():
            raise ValueError(f"{name} is a device or a pipe: give the path of an image file.")
        with path.open("rb") as file:
            return _decode(file, name, upright)
    if hasattr(source, "read"):
        return _decode(source, foreign(getattr(source, "name", "the file"), 300), upright)
    raise ValueError(
        f"An image is a path, a binary file, a PIL image, an array or a tensor, "
        f"not {type(source).__name__}."
    )


def _decode(source: IO[bytes] | Image.Image, name: str, upright: bool) -> Image.Image:
    """RGB picture of a file or a PIL image; every failure becomes one sentence."""
    with warnings.catch_warnings():
        # Between one and two times its limit Pillow only warns of a bomb; past it, it raises.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            image = source if isinstance(source, Image.Image) else _opened(source)
            if image.format not in (None, "MPO", *FORMATS):  # opened by others, and not decoded yet
                raise Image.UnidentifiedImageError
            _check_size(image)
            _load_pixels(image)
            orientation = _orientation(image)
            if upright and orientation in _TURNS:
                image = image.transpose(_TURNS[orientation])
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(
                f"Cannot read {name}: it claims more pixels than {MAX_PIXELS:,} of RGB take, "
                f"which may be a decompression bomb; if you trust it, make it smaller first."
            ) from error
        except Image.UnidentifiedImageError as error:
            raise ValueError(
                f"Cannot read {name}: it is not an image of a kind that is read here; give a JPEG, "
                f"PNG, GIF, TIFF, BMP or WebP file."
            ) from error
        except MemoryError as error:
            raise ValueError(f"Cannot read {name}: it takes more memory than there is.") from error
        except Exception as error:  # Pillow's decoders raise many kinds on damaged data
            raise ValueError(
                f"Cannot read {name}: Pillow says {reason(error)!r}; it may be damaged or cut "
                f"short: get a whole copy of it, or save it again with another program."
            ) from error
    rgb = _to_rgb(image, name)
    if not upright and orientation in _TURNS:
        rgb.info[TURNED] = orientation
    return rgb


def _opened(file: IO[bytes]) -> Image.Image:
    start = file.tell()
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]  # older Pillows know fewer
    try:
        return Image.open(file, formats=formats)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise
    except Exception:  # Pillow refuses a PNG with an odd text or colour profile
        file.seek(start)
        bare = _png_without_side_data(file.read())
        if bare is None:
            raise
        return Image.open(bare, formats=formats)


def _png_without_side_data(data: bytes) -> IO[bytes] | None:
    """A PNG with the chunks alone that its pixels are made of; None of other files."""
    begin = b"\x89PNG\r\n\x1a\n"
    if not data.startswith(begin):
        return None
    kept, place = [begin], len(begin)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf"):
            kept.append(data[place:end])
        place = end
    return io.BytesIO(b"".join(kept))


def _load_pixels(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:
        # An error in what follows the pixels, such as tags, does not matter.
        if "load_end" not in [frame.name for frame in traceback.extract_tb(error.__traceback__)]:
            raise


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # odd tags raise many kinds
        return 1


def _warn_if_dark(numbers: np.ndarray, name: str) -> None:
    high = int(numbers.max())
    if 0 < high <= 4095:
        warnings.warn(
            f"{name} holds 16-bit numbers no greater than {high}, so it will be very dark: if its "
            f"scale is 12-bit (0 to 4095), multiply them by 16.",
            stacklevel=2,
        )


def _check_size(image: Image.Image) -> None:
    # Pillow counts pixels; their bytes matter.
    each = _BYTES_16 if image.mode.startswith("I;") else _BYTES.get(image.mode, _RGB_BYTES)
    if image.width * image.height * each > MAX_PIXELS * _RGB_BYTES:
        raise Image.DecompressionBombError


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"Cannot read {name}: it is empty, {image.width} x {image.height} pixels.")
    if image.mode == "F":
        return _from_numbers(np.asarray(image), name)
    if image.mode.startswith("I"):  # one 16-bit channel; Pillow's own conversion would clip it
        numbers = np.asarray(image)
        if image.mode == "I" and numbers.min() >= 0 and numbers.max() <= 255:
            return _from_numbers(numbers.astype(np.uint8), name)  # 32 bits hold an 8-bit picture
        if numbers.min() < 0 or numbers.max() > 65535:
            raise ValueError(
                f"Cannot read {name}: its 32-bit numbers are of unknown scale; save it with 16."
            )
        return _from_numbers(numbers.astype(np.uint16), name)
    try:
        if not image.has_transparency_data:
            return image.convert("RGB")
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    except ValueError as error:
        raise ValueError(
            f"Cannot read {name}: Pillow cannot turn its colour mode {image.mode} into RGB; "
            f"save it as RGB."
        ) from error


def _tensor_to_array(tensor: Tensor) -> np.ndarray:
    """``(c, h, w)`` or ``(h, w)`` tensor -> ``(h, w, c)`` or ``(h, w)`` array."""
    _check_shape(tuple(tensor.shape), "A tensor", 0)
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array if array.ndim == 2 else rearrange(array, "c h w -> h w c")


def _check_shape(shape: tuple[int, ...], what: str, channels: int) -> None:
    # Whether numbers can be an image; ``channels`` is the axis of these, first or last.
    form = ("c, h, w", "h, w, c")[channels // 2]
    if len(shape) == 4:
        raise ValueError(f"{what} of shape {shape} is a batch: give one picture of it.")
    if len(shape) not in (2, 3):
        raise ValueError(f"{what} of shape {shape} is not an image: give ({form}) or (h, w).")
    if len(shape) == 3 and shape[channels] not in (1, 3, 4):
        hint = "an image has 1, 3 or 4 channels"
        if shape[2 - channels] in (1, 3, 4):
            turned = ("h w c -> c h w", "c h w -> h w c")[channels // 2]
            place = ("first in a tensor", "last in an array")[channels // 2]
            hint = f"channels come {place}: use rearrange(x, '{turned}')"
        raise ValueError(f"{what} of shape {shape} is not an image ({form}): {hint}.")


def _from_numbers(array: np.ndarray, name: str) -> Image.Image:
    """Picture of ``(h, w)`` or ``(h, w, c)`` numbers, brought to the 0..255 of 8 bits."""
    if array.size == 0:
        raise ValueError(f"Cannot read {name}: it is empty, its shape is {array.shape}.")
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
        _warn_if_dark(array, name)
        array = np.round(array / 257).astype(np.uint8)  # 65535 / 257 = 255
    elif np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
        if not np.isfinite(array).all():
            raise ValueError(
                f"Cannot read {name}: it holds NaN or infinity, and an image holds numbers in 0..1."
            )
        low, high = array.min(), array.max()
        if low < -1e-6 or high > 1 + 1e-6:
            raise ValueError(
                f"Floats in an image lie in 0..1, but those of {name} run from {low:.4g} to "
                f"{high:.4g}: divide by 255, or undo the normalisation with unnormalize()."
            )
        array = np.round(array.clip(0, 1) * 255).astype(np.uint8)
    elif array.dtype != np.uint8:
        raise ValueError(
            f"An image holds uint8, uint16, bool, or floats in 0..1, but {name} holds "
            f"{array.dtype}: numbers in 0..255 need .astype('uint8') or .to(torch.uint8)."
        )
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]  # (h, w, 1) -> (h, w)
    return _to_rgb(Image.fromarray(np.ascontiguousarray(array)), name)


def is_batch(images: Any) -> bool:
    """Whether these are several images: a list, or an array or tensor with four axes."""
    return isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4


def as_list(images: Any) -> list[Any]:
    """Several images, or one, as a list."""
    return list(images) if is_batch(images) else [images]


def preprocess(
    images: ImageSource | Sequence[ImageSource], config: ModelConfig, channels: int = 3
) -> Tensor:
    """What the model takes, from one image or several: ``(b, channels, image_size, image_size)``.

    Each image is opened by :func:`open_image` and prepared by :func:`prepare`.

    Args:
        images: anything :func:`open_image` takes, or a list of such; an ``(n, h, w, c)`` array
            and an ``(n, c, h, w)`` tensor count as lists.
        config: the model's, as in ``model.config``.
        channels: of the model, ``model.in_channels``.

    Raises:
        FileNotFoundError, ValueError: as :func:`open_image` and :func:`prepare`; also for an
            empty list.
        RuntimeError: as :func:`prepare`.
    """
    several = as_list(images)
    if not several:
        raise ValueError("There is no image in the list: give at least one.")
    return torch.stack([prepare(open_image(image), config, channels) for image in several])


def prepare(image: Image.Image, config: ModelConfig, channels: int = 3) -> Tensor:
    """One RGB picture as the model takes it: ``(channels, image_size, image_size)``.

    The shorter side is resized to ``floor(image_size / crop)`` pixels, the centre cut out, and
    ``(pixel / 255 - mean) / std`` taken per channel: timm's evaluation transform, or with
    ``resize="opencv"`` OpenMMLab's, which differs in the resizing alone. For a model of one
    channel the picture becomes grey first.

    Raises:
        ValueError: a strip more than a hundred times as long as wide, which resizing would
            blow up, or a size that takes gigabytes; or a model of neither one nor three channels.
        RuntimeError: the model's images were resized by OpenCV, which is not installed.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    if channels not in (1, 3):
        raise ValueError(
            f"This model takes {channels} channels, and a picture has 1 or 3: give the model "
            f"itself a tensor (b, {channels}, h, w)."
        )
    if channels == 1:
        image = image.convert("L").convert("RGB")  # three equal channels, of which one is taken
    if max(image.size) > 100 * min(image.size):
        raise ValueError(
            f"An image of {image.width} x {image.height} pixels is too long and thin to "
            f"resize: cut out the part that matters."
        )
    if not 0 < config.crop <= 1 or config.image_size < 1:
        raise ValueError(
            f"The model's preprocessing is none: image_size {config.image_size} is 1 or more, and "
            f"crop {config.crop} lies between 0 and 1."
        )
    side = math.floor(min(config.image_size / config.crop, 1e9))
    if side * side * max(image.size) / min(image.size) > MAX_PIXELS:
        raise ValueError(
            f"An image of {image.width} x {image.height} pixels would be resized to {side:,} "
            f"pixels and more a side (image_size {config.image_size}, crop {config.crop:g}): that "
            f"takes more memory than any Mixer's images."
        )
    with enough_memory(
        f"An image of {image.width} x {image.height} pixels takes more memory than there is when "
        f"it becomes {config.image_size} x {config.image_size}.",
        ValueError,
    ):
        if config.resize == "opencv":
            image = _resize_opencv(image, side, config.interpolation)
        else:
            image = F.resize(image, [side], InterpolationMode(config.interpolation))
        image = F.center_crop(image, [config.image_size, config.image_size])
        pixels = F.to_tensor(image)  # (h, w, 3) in 0..255 -> (3, h, w) in 0..1
        return F.normalize(pixels, list(config.mean), list(config.std))[:channels]


def _resize_opencv(image: Image.Image, side: int, interpolation: str) -> Image.Image:
    """The shorter side to ``side`` pixels as OpenMMLab's ``ResizeEdge`` does it.

    OpenCV weighs the 4 x 4 (bicubic, a = -0.75) or 2 x 2 (bilinear) nearest pixels however much
    it shrinks the picture; Pillow widens its filter with the shrinking and uses a = -0.5.
    """
    try:
        cv2: Any = importlib.import_module("cv2")
    except ImportError as error:
        raise RuntimeError(
            "This model's images were resized by OpenCV, which is not installed: "
            'pip install opencv-python-headless, or give model.config resize="pillow", which '
            "changes the predictions a little."
        ) from error
    width, height = image.size
    if width < height:
        size = (side, int(side * height / width))
    else:
        size = (int(side * width / height), side)
    method = {"bicubic": cv2.INTER_CUBIC, "bilinear": cv2.INTER_LINEAR}[interpolation]
    return Image.fromarray(cv2.resize(np.asarray(image), size, interpolation=method))


def unnormalize(batch: Tensor, config: ModelConfig) -> np.ndarray:
    """What the model sees, ready to draw: ``(b, 3, h, w)`` -> uint8 array ``(b, h, w, 3)``.

    Undoes the last two steps of :func:`preprocess`, to the nearest of 256 levels.

    Raises:
        ValueError: the batch has another shape.
    """
    if batch.ndim != 4 or batch.shape[1] != 3:
        raise ValueError(f"unnormalize takes a batch (b, 3, h, w), not {tuple(batch.shape)}.")
    pixels = rearrange(batch.detach().cpu().float(), "b c h w -> b h w c")
    pixels = pixels * torch.tensor(config.std) + torch.tensor(config.mean)  # 3 broadcast: per c
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8).numpy()


class PhotoInfo(NamedTuple):
    """What is known of a bundled photograph.

    ``cifar10`` is the CIFAR-10 class, ``imagenet`` the ImageNet-1k class that it shows; ``None``
    where it shows none, or none clearly.
    """

    name: str
    caption: str
    file: str
    source: str
    licence: str
    cifar10: str | None
    imagenet: str | None


def _photos() -> dict[str, PhotoInfo]:
    entries: list[dict[str, Any]] = json.loads(
        data_path("photos/photos.json").read_text(encoding="utf-8")
    )
    return {entry["name"]: PhotoInfo(**entry) for entry in entries}


def list_photos() -> list[str]:
    """Names of the photographs that come with the project."""
    return list(_photos())


def photo_info(name: str) -> PhotoInfo:
    """Caption, source, licence and classes of a bundled photograph.

    Raises:
        ValueError: there is no photograph of this name; the nearest names are suggested.
    """
    photos = _photos()
    if name not in photos:
        hint = did_you_mean(name, photos, f"Choose from {', '.join(photos)}.")
        raise ValueError(f"There is no photograph named {name!r}. {hint}")
    return photos[name]


def photo(name: str) -> Image.Image:
    """A bundled photograph, RGB, its longer side at most 512 pixels.

    Raises:
        ValueError: there is no photograph of this name.
    """
    return open_image(data_path(f"photos/{photo_info(name).file}"))
