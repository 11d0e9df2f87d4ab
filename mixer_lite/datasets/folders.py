"""Images of your own to train on, as bytes of the size that a model takes."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from mixer_lite._support.files import make_folder, replaced, sweep
from mixer_lite._support.machine import free_memory, usable_cores
from mixer_lite._support.words import reason, say
from mixer_lite.datasets.labelled import ClassFolders, HubData
from mixer_lite.images import prepare
from mixer_lite.model import ModelConfig


class Folder(NamedTuple):
    """Labelled images of one size: bytes ``(n, 3, size, size)``, int64 ``(n,)``, class names."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]


def image_folder(
    folder: str | Path,
    config: ModelConfig,
    progress: bool = True,
    keep: Path | None = None,
    least: int = 2,
) -> Folder:
    """All images of a folder of class folders as a model takes them, resized once.

    They are turned upright, resized and cropped as ``config`` says and as
    :func:`mixer_lite.images.prepare` does it, and kept as bytes: 0.15 GB for 1,000 images of 224
    pixels. The classes are the folders' names in alphabetical order. Images that cannot be opened
    are left out and named.

    Args:
        folder: holds a folder of images for each class.
        config: of the model that will see them.
        progress: tell what was found, and show a bar.
        keep: where images that are more than memory takes lie instead, in a file whose name
            begins so: a part is read when it is asked for. The file is used again while the images
            are the same ones.
        least: classes that it must hold.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: there are fewer class folders in it, the images do not fit into what is
            free of memory, or with ``keep`` of the disk, or none can be opened.
    """
    source = ClassFolders(folder)
    if len(source.names) < least:
        alone = source.found.deeper or f"only one class, {source.names[0]}: give two or more."
        raise ValueError(f"{folder} holds {alone}")
    if progress and source.found.deeper:
        say(f"In {folder}, {source.found.deeper}")
    return _as_bytes(source, config, progress, keep)


def hub_images(
    name: str, split: str, config: ModelConfig, progress: bool = True, keep: Path | None = None
) -> Folder:
    """A data set ``hf:NAME`` of the Hugging Face hub or of this disk, as :func:`image_folder`.

    Raises:
        RuntimeError: the package ``datasets`` is missing, or the split cannot be loaded.
        ValueError: there are no labels, or as :func:`image_folder` says.
    """
    return _as_bytes(HubData(name, split), config, progress, keep)


def _as_bytes(
    source: ClassFolders | HubData, config: ModelConfig, progress: bool, keep: Path | None
) -> Folder:
    # Images of the size that a model takes, (n, 3, size, size), without those that do not open.
    if progress:
        say(source.told)
    count, side = len(source.labels), config.image_size
    needed, free = count * 3 * side * side, free_memory()
    failed: dict[int, str] = {}
    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that need as much
    size = f"take {needed / 1e9:.1f} GB at {side} x {side} pixels"
    if needed * here <= free * 0.8:
        images = torch.empty((count, 3, side, side), dtype=torch.uint8)
        number = 0
        for image in _opened(source, config, progress, failed):
            images[number] = image
            number += 1
        images = images[:number]
    elif keep is None:
        raise ValueError(
            f"The {count:,} images of {source.where} {size}, and {free / 1e9:.1f} GB of memory are "
            f"free: take fewer images, or a model for smaller ones."
        )
    else:
        facts = (repr((count, side, config.crop, config.interpolation, config.resize)),
                 *source.state())  # fmt: skip
        digest = hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()
        path = keep.with_name(f"{keep.name}.{digest[:12]}.images")
        what = f"The {count:,} images of {source.where} {size}"
        _write_once(path, needed, what, lambda: _opened(source, config, progress, failed), failed)
        left = needed // max(count, 1) * (count - len(failed))
        if left:
            images = torch.from_file(str(path), shared=True, size=left, dtype=torch.uint8)
            images = images.view(-1, 3, side, side)
    if len(failed) == count:
        raise ValueError(f"No image of {source.where} can be opened: {_named(source, failed)}.")
    if failed and progress:
        say(f"{len(failed):,} of {count:,} images cannot be opened and are left out: "
            f"{_named(source, failed)}.")  # fmt: skip
    labels = [label for number, label in enumerate(source.labels) if number not in failed]
    _without(source, set(range(len(source.names))) - set(labels))
    return Folder(images, torch.tensor(labels), tuple(source.names))


def _named(source: ClassFolders | HubData, failed: dict[int, str]) -> str:
    shown = [f"{source.named(number)} ({why})" for number, why in sorted(failed.items())[:20]]
    return "; ".join(shown) + f"; and {len(failed) - 20:,} more" * (len(failed) > 20)


def _without(source: ClassFolders | HubData, empty: set[int]) -> None:
    if empty and isinstance(source, ClassFolders):
        raise ValueError(
            f"No image of {', '.join(source.names[i] for i in sorted(empty))} in {source.where} "
            f"can be opened: repair them, or take the class away."
        )


def _opened(
    source: ClassFolders | HubData, config: ModelConfig, bar: bool, failed: dict[int, str]
) -> Iterator[Tensor]:
    # Bytes (3, size, size) of each image that opens, in their order; why the others do not.
    from tqdm.auto import tqdm

    count, unchanged = len(source.labels), replace(config, mean=(0.0,) * 3, std=(1.0,) * 3)

    def read(number: int) -> Tensor | str:
        try:
            pixels = prepare(source.image(number), unchanged)  # in 0..1
        except (ValueError, OSError) as error:
            return reason(error)
        return (pixels * 255).round().to(torch.uint8)

    with (
        ThreadPoolExecutor(usable_cores()) as pool,  # Pillow decodes outside Python's lock
        tqdm(desc=source.where, total=count, unit="image", disable=None if bar else True) as done,
    ):
        for first in range(0, count, 1000):  # so that images read early do not pile up
            numbers = range(first, min(first + 1000, count))
            for number, image in zip(numbers, pool.map(read, numbers), strict=True):
                done.update()
                if isinstance(image, str):
                    failed[number] = image
                else:
                    yield image


def _write_once(
    path: Path,
    size: int,
    what: str,
    all_of_them: Callable[[], Iterable[Tensor]],
    failed: dict[int, str],
) -> None:
    # A file of images, which gets its name only when it is complete. A file beside it says which
    # images are missing, and why.
    from filelock import FileLock

    make_folder(path.parent)
    beside = path.with_suffix(".failed.json")
    with FileLock(path.with_suffix(".lock")):  # of several processes, one writes it
        if path.exists() and beside.exists():
            failed |= {int(k): v for k, v in json.loads(beside.read_text("utf-8")).items()}
            return
        free = shutil.disk_usage(path.parent).free
        if size > free * 0.95:
            raise ValueError(
                f"{what}: more than is free of memory, and {path.parent} has {free / 1e9:.1f} GB "
                f"left: free some space, or take fewer images."
            )
        say(f"{what}: more than is free of memory, so they are kept in {path}. "
            f"Delete it when the run is done.")  # fmt: skip
        sweep(path.parent, path.name)
        try:
            with replaced(path) as file:
                for image in all_of_them():
                    file.write(image.numpy().tobytes())
            with replaced(beside) as file:
                file.write(json.dumps(failed).encode())
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ValueError(f"{what}, and {path.parent} is full: free some space.") from error
            raise


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of bytes ``(n, 3, h, w)``, on a 0-1 scale.

    A channel that never changes has the deviation 1/255, so that it can be divided by.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for some in images.split(1000):  # all images at once would take one more copy
        channels = some.transpose(0, 1).flatten(1)  # (1000, 3, h, w) -> (3, 1000 * h * w)
        counts += torch.stack([torch.bincount(c, minlength=256) for c in channels])
    share = counts.double() / counts.sum(dim=1, keepdim=True)  # (3, 256)
    value = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ value  # (3,)
    std = (share * (value - mean[:, None]).square()).sum(dim=1).sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())
