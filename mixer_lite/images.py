"""Photographs in, tensors out: open any image safely, prepare it as the model was trained.

Arrays have channels last, ``(h, w, 3)``; tensors have channels first, ``(3, h, w)``.
"""

from __future__ import annotations

import importlib
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import Image, ImageOps
from torch import Tensor

from mixer_lite.resources import data_path
from mixer_lite.specs import ModelConfig, did_you_mean

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
        return _from_numbers(_channels_last(source), "the array")
    if isinstance(source, Image.Image):
        return _decode(source, "the picture", upright)
    if isinstance(source, str) and source.lower().startswith(("http://", "https://")):
        raise ValueError(f"{source} is a web address: download the picture, then open the file.")
    if isinstance(source, (str, Path)):
        path = Path(source).expanduser()
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the path of one image file in it.")
        if not path.exists():
            raise FileNotFoundError(f"There is no file {path}: check the name and the folder.")
        with path.open("rb") as file:
            return _decode(file, str(path), upright)
    if hasattr(source, "read"):
        return _decode(source, str(getattr(source, "name", "the file")), upright)
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
            image = source if isinstance(source, Image.Image) else Image.open(source)
            image.load()
            if upright:
                image = ImageOps.exif_transpose(image)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ValueError(
                f"Cannot read {name}: it claims more than {Image.MAX_IMAGE_PIXELS:,} pixels, "
                f"which may be a decompression bomb; if you trust it, make it smaller first."
            ) from error
        except Image.UnidentifiedImageError as error:
            raise ValueError(
                f"Cannot read {name}: it is not an image that Pillow knows; give a JPEG, PNG, GIF, "
                f"TIFF, BMP or WebP file."
            ) from error
        except Exception as error:  # Pillow's decoders raise many kinds on damaged data
            raise ValueError(
                f"Cannot read {name}: it is damaged or cut short ({error}); get a whole copy of it."
            ) from error
    return _to_rgb(image, name)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"Cannot read {name}: it is empty, {image.width} x {image.height} pixels.")
    if image.mode == "F":
        return _from_numbers(np.asarray(image), name)
    if image.mode.startswith("I"):  # one 16-bit channel; Pillow's own conversion would clip it
        numbers = np.asarray(image)
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
    shape = tuple(tensor.shape)
    if tensor.ndim == 4:
        raise ValueError(f"A tensor of shape {shape} is a batch: give one picture of it.")
    if tensor.ndim == 3 and shape[0] not in (1, 3, 4):
        hint = (
            "channels come first in a tensor: use rearrange(x, 'h w c -> c h w')"
            if shape[2] in (1, 3, 4)
            else "an image has 1, 3 or 4 channels"
        )
        raise ValueError(f"A tensor of shape {shape} is not an image (c, h, w): {hint}.")
    if tensor.ndim not in (2, 3):
        raise ValueError(f"A tensor of shape {shape} is not an image: give (c, h, w) or (h, w).")
    tensor = tensor.detach().cpu()
    array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array if array.ndim == 2 else rearrange(array, "c h w -> h w c")


def _channels_last(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        raise ValueError(f"An array of shape {array.shape} is a batch: give one picture of it.")
    if array.ndim == 3 and array.shape[2] not in (1, 3, 4):
        hint = (
            "channels come last in an array: use rearrange(x, 'c h w -> h w c')"
            if array.shape[0] in (1, 3, 4)
            else "an image has 1, 3 or 4 channels"
        )
        raise ValueError(f"An array of shape {array.shape} is not an image (h, w, c): {hint}.")
    if array.ndim not in (2, 3):
        raise ValueError(
            f"An array of shape {array.shape} is not an image: give (h, w) or (h, w, c)."
        )
    return array


def _from_numbers(array: np.ndarray, name: str) -> Image.Image:
    """Picture of ``(h, w)`` or ``(h, w, c)`` numbers, brought to the 0..255 of 8 bits."""
    if array.size == 0:
        raise ValueError(f"Cannot read {name}: it is empty, its shape is {array.shape}.")
    if array.dtype == bool:
        array = array * np.uint8(255)
    elif array.dtype == np.uint16:
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


def preprocess(images: ImageSource | Sequence[ImageSource], config: ModelConfig) -> Tensor:
    """What the model takes, from one image or several: ``(b, 3, image_size, image_size)``.

    Each image is opened by :func:`open_image` and prepared by :func:`prepare`.

    Args:
        images: anything :func:`open_image` takes, or a list of such; an ``(n, h, w, c)`` array
            and an ``(n, c, h, w)`` tensor count as lists.
        config: the model's, as in ``model.config``.

    Raises:
        FileNotFoundError, ValueError: as :func:`open_image` and :func:`prepare`; also for an
            empty list.
        RuntimeError: as :func:`prepare`.
    """
    several: list[Any] = [images]
    if isinstance(images, (list, tuple)) or getattr(images, "ndim", 0) == 4:
        several = list(images)  # type: ignore[arg-type]
    if not several:
        raise ValueError("There is no image in the list: give at least one.")
    return torch.stack([prepare(open_image(image), config) for image in several])


def prepare(image: Image.Image, config: ModelConfig) -> Tensor:
    """One RGB picture as the model takes it: ``(3, image_size, image_size)``.

    The shorter side is resized to ``floor(image_size / crop)`` pixels, the centre cut out, and
    ``(pixel / 255 - mean) / std`` taken per channel: timm's evaluation transform, or with
    ``resize="opencv"`` OpenMMLab's, which differs in the resizing alone.

    Raises:
        ValueError: a strip more than a hundred times as long as wide, which resizing would
            blow up.
        RuntimeError: the model's images were resized by OpenCV, which is not installed.
    """
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms import functional as F

    if max(image.size) > 100 * min(image.size):
        raise ValueError(
            f"An image of {image.width} x {image.height} pixels is too long and thin to "
            f"resize: cut out the part that matters."
        )
    side = math.floor(config.image_size / config.crop)
    if config.resize == "opencv":
        image = _resize_opencv(image, side, config.interpolation)
    else:
        image = F.resize(image, [side], InterpolationMode(config.interpolation))
    image = F.center_crop(image, [config.image_size, config.image_size])
    pixels = F.to_tensor(image)  # (h, w, 3) in 0..255 -> (3, h, w) in 0..1
    return F.normalize(pixels, list(config.mean), list(config.std))


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
