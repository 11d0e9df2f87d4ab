"""Evaluation against known answers, timm's own loop, interruptions and several processes."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hub import data_sets
from PIL import Image
from timm.data import ImageNetInfo

import mixer_lite as ml
from mixer_lite._support.files import data_path
from mixer_lite.datasets import labelled
from mixer_lite.datasets.labelled import class_indices
from mixer_lite.prediction import logits
from mixer_lite.specs import CIFAR10_CLASSES
from mixer_lite.training import evaluation as module
from mixer_lite.training.evaluation import COLUMNS, Evaluation, add_to_table, evaluate

ROOT = Path(__file__).resolve().parents[2]


def read(path):
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert len({row["path"] for row in rows}) == len(rows)
    return {row["path"]: row for row in rows}


def classes(row):
    return [int(row[f"top{i}"]) for i in range(1, 6)]


def probabilities(row):
    return [float(row[f"p{i}"]) for i in range(1, 6)]


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text and text.endswith(".") and len(text) < 500, text
    return text


def write_folder(folder, images, labels):
    """Pictures as ``folder/CLASS/NUMBER.png``; returns their paths inside the folder."""
    paths = []
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        paths.append(f"{CIFAR10_CLASSES[label]}/{i:03}.png")
        (folder / paths[-1]).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / paths[-1])
    return paths


@pytest.fixture(scope="module")
def slice_of_cifar10(tmp_path_factory):
    images, labels = ml.datasets.cifar10_sample()
    folder = tmp_path_factory.mktemp("cifar") / "slice"
    paths = write_folder(folder, images.permute(0, 2, 3, 1).numpy(), labels.tolist())
    return folder, paths, images, labels


@pytest.fixture
def pico():
    torch.manual_seed(3)
    model = ml.create_model("mixer_pico_cifar10")
    torch.nn.init.normal_(model.head.weight)
    return model


@pytest.fixture
def dozen(tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (13, 32, 32, 3), dtype=np.uint8)
    folder = tmp_path / "dozen"
    write_folder(folder, pixels, [i % 5 for i in range(13)])
    return folder


# What is measured -------------------------------------------------------------------------------


def test_the_bundled_model_scores_what_its_card_says(slice_of_cifar10, tmp_path):
    folder, paths, images, labels = slice_of_cifar10
    model = ml.load_pretrained("mixer_nano_cifar10").train()
    kept = tmp_path / "kept.csv"
    result = evaluate(model, folder, predictions=kept, batch_size=64, progress=False)
    card = json.loads(data_path("mixer_nano_cifar10.json").read_text(encoding="utf-8"))
    assert result.top1 == pytest.approx(card["slice_accuracy"]) and result.count == 500
    assert (result.model, result.data) == ("mixer_nano_cifar10", str(folder))
    assert result.failed == {} and model.training
    # The same from arrays, with nothing of the folder, the loader or the file.
    out = logits(model, images, batch_size=100)
    best = out.softmax(1).topk(5)
    assert result.top5 == pytest.approx(
        (best.indices == labels[:, None]).any(1).float().mean().item()
    )
    rows = read(kept)
    for path, label, indices, values in zip(paths, labels, best.indices, best.values, strict=True):
        assert int(rows[path]["label"]) == label and classes(rows[path]) == indices.tolist()
        assert probabilities(rows[path]) == pytest.approx(values.tolist(), abs=1e-5)


def small_imagenet_mixer(path):
    """timm's own small Mixer with a filled head of 1000 classes, and its weights in a file."""
    torch.manual_seed(5)
    theirs = timm.models.mlp_mixer.MlpMixer(
        num_classes=1000, img_size=224, patch_size=32, num_blocks=2, embed_dim=48
    ).eval()
    torch.nn.init.normal_(theirs.head.weight)
    torch.nn.init.normal_(theirs.head.bias)
    torch.save(theirs.state_dict(), path)
    return theirs


def odd_pictures(folder):
    """JPEG and PNG files of odd sizes and kinds under WordNet ids; returns the labels."""
    rng = np.random.default_rng(6)
    coffee, cat, eagle = (ml.images.photo(name) for name in ("coffee", "cat", "eagle"))
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright: timm takes the pixels as they are stored
    pictures = {
        "n02123045/cat.JPEG": cat,
        "n02123045/crop.png": cat.crop((3, 4, 254, 291)),
        "n07920052/coffee.JPEG": coffee.crop((0, 0, 477, 313)),
        "n07920052/portrait.jpg": coffee.rotate(90, expand=True).crop((1, 1, 300, 500)),
        "n07920052/small.png": coffee.resize((97, 131)),
        "n01614925/grey.JPEG": Image.open(data_path("photos/eagle.jpg")).crop((5, 5, 406, 352)),
        "n01614925/turned.JPEG": eagle.crop((0, 0, 333, 511)),
        "n01614925/print.JPEG": eagle.resize((301, 277)).convert("CMYK"),
        "n03388043/noise.png": Image.fromarray(rng.integers(0, 256, (225, 301, 3), dtype=np.uint8)),
        "n03388043/palette.png": coffee.resize((260, 233)).convert("P"),
        "n03388043/same.png": coffee.resize((256, 256)),
    }
    for path, picture in pictures.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        exif = {"exif": turned} if "turned" in path else {}
        picture.save(folder / path, **exif)
    (folder / "n03388043/notes.txt").write_text("no picture", encoding="utf-8")
    (folder / "n03388043/._noise.png").write_text("what macOS leaves", encoding="utf-8")
    (folder / "n02085620").mkdir()
    order = ImageNetInfo().label_names()
    return {path: order.index(path.split("/")[0]) for path in pictures}


@pytest.mark.parametrize(
    ("interpolation", "mean", "crop"), [("bicubic", 0.5, 0.875), ("bilinear", 0.0, 0.9)]
)
def test_predictions_equal_timms_evaluation_loop(tmp_path, interpolation, mean, crop):
    labels = odd_pictures(tmp_path / "val")
    theirs = small_imagenet_mixer(tmp_path / "small.pth")
    model = ml.load_checkpoint(tmp_path / "small.pth")
    std = 1.0 if mean == 0 else 0.5
    model.config = replace(
        model.config, interpolation=interpolation, mean=(mean,) * 3, std=(std,) * 3, crop=crop
    )
    kept = tmp_path / "kept.csv"
    result = evaluate(model, tmp_path / "val", predictions=kept, batch_size=4, progress=False)
    rows = read(kept)
    assert {path: int(row["label"]) for path, row in rows.items()} == labels
    (tmp_path / "val/n03388043/._noise.png").unlink()  # timm would open it

    data = timm.data.create_dataset("", tmp_path / "val", class_map={
        name: i for i, name in enumerate(ImageNetInfo().label_names())
    })  # fmt: skip
    loader = timm.data.create_loader(
        data, (3, 224, 224), batch_size=3, use_prefetcher=False, interpolation=interpolation,
        mean=(mean,) * 3, std=(std,) * 3, crop_pct=crop, num_workers=0,
    )  # fmt: skip
    with torch.inference_mode():
        out = torch.cat([theirs(x).softmax(1) for x, _ in loader])
    wanted = torch.cat([target for _, target in loader])
    best = out.topk(5)
    assert len(out) == len(rows) == result.count == 11
    for i, path in enumerate(data.filenames()):
        row = rows[Path(path).as_posix()]
        assert classes(row) == best.indices[i].tolist(), path
        assert probabilities(row) == pytest.approx(best.values[i].tolist(), abs=1e-5)
    assert result.top1 == (best.indices[:, 0] == wanted).float().mean()
    # Answers planted where the model looks: its first and its fifth proposals.
    for rank, top1, top5 in ((0, 1.0, 1.0), (4, 0.0, 1.0)):
        planted = tmp_path / f"planted{rank}"
        for path, row in rows.items():
            target = planted / str(classes(row)[rank]) / path.replace("/", "_")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((tmp_path / "val" / path).read_bytes())
        result = evaluate(model, planted, progress=False)
        assert (result.top1, result.top5, result.count) == (top1, top5, 11)


def test_batches_and_workers_change_nothing(pico, dozen, tmp_path):
    (dozen / "deer/deep/down").mkdir(parents=True)  # still a deer
    (dozen / "deer/004.png").rename(dozen / "deer/deep/down/004.png")
    tables = []
    for i, (size, workers) in enumerate([(1, 0), (4, 0), (100, 0), (5, 2)]):
        kept = tmp_path / f"{i}.csv"
        evaluate(pico, dozen, predictions=kept, batch_size=size, workers=workers, progress=i == 0)
        tables.append(read(kept))
    assert len(tables[0]) == 13
    for table in tables[1:]:
        assert list(table) == list(tables[0]) == sorted(table)
        for path, row in table.items():
            assert classes(row) == classes(tables[0][path])
            assert probabilities(row) == pytest.approx(probabilities(tables[0][path]), abs=1e-5)


def test_few_classes_are_all_among_the_first_five(dozen):
    model = ml.create_model("mixer_pico_cifar10", num_classes=3)
    for i, name in enumerate(sorted(path.name for path in dozen.iterdir())):
        (dozen / name).rename(dozen / str(i % 3) if i < 3 else dozen / "0" / name)
    assert evaluate(model, dozen, progress=False).top5 == 1.0


def test_pictures_are_turned_upright_where_the_training_did_so(pico, tmp_path):
    # A picture stored lying down, beside the same upright: OpenCV's reader turns the first.
    pixels = np.random.default_rng(7).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.rot90(pixels).copy()).save(tmp_path / "cat/a.png", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "cat/b.png")
    for same in (False, True):
        pico.config = replace(pico.config, resize="opencv", upright=same)
        kept = tmp_path / f"{same}.csv"
        result = evaluate(pico, tmp_path, predictions=kept, progress=False)
        assert ("1 image carries an orientation" in " ".join(result.notes)) != same
        a, b = (probabilities(row) for row in read(kept).values())
        assert (a == pytest.approx(b, abs=1e-6)) == same


# Which class an image shows ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "subset"),
    [(1000, "imagenet-1k"), (21843, "imagenet-21k-goog"), (11221, "imagenet-21k-miil")],
)
def test_wordnet_ids_of_every_imagenet_head(count, subset):
    ids = ImageNetInfo(subset).label_names()
    some = [0, 1, 281, count // 2, count - 1]
    assert class_indices([ids[i] for i in some], count) == some


def test_names_and_numbers():
    assert class_indices(["n02123045", "tabby", "Egyptian_cat", "tabby, tabby cat"], 1000) == [
        281, 281, 285, 281,
    ]  # fmt: skip
    names = ImageNetInfo().label_descriptions()
    assert class_indices(["n01440764", "goldfish", "7", "0999"], 1000, names) == [0, 1, 7, 999]
    assert class_indices(["Cat", "airplane", "9"], 10, CIFAR10_CLASSES) == [3, 0, 9]
    assert class_indices(["1", "0"], 2, ("1", "0")) == [0, 1]  # names come before numbers
    assert class_indices(["b", "2"], 3, ("a", "b", "c")) == [1, 2]


def test_unknown_classes_are_listed():
    with pytest.raises(ValueError, match=r"2 of the 3 classes here .*: wombat, 10; call") as error:
        class_indices(["cat", "wombat", "10"], 10, CIFAR10_CLASSES)
    assert "name or number (0 to 9)" in one_sentence(error)
    with pytest.raises(ValueError, match="crane; call each by its WordNet id, name"):
        class_indices(["crane"], 1000)  # the bird and the machine
    with pytest.raises(ValueError, match="n01440764"):  # 1000 classes that are not ImageNet's
        class_indices(["n01440764"], 1000, [f"thing {i}" for i in range(1000)])
    with pytest.raises(ValueError, match=r"x0, .*x19 and 980 more; call") as error:
        class_indices([f"x{i}" for i in range(1000)], 1000)
    one_sentence(error)


# Images that cannot be opened -------------------------------------------------------------------


def test_damaged_images_are_named_and_left_out(pico, dozen, tmp_path):
    # One image at a time: in other batches the last digits of the probabilities may differ.
    kept = tmp_path / "kept.csv"
    evaluate(pico, dozen, predictions=kept, batch_size=1, progress=False)
    whole = kept.read_bytes()
    kept.unlink()
    good = (dozen / "cat/003.png").read_bytes()
    (dozen / "cat/003.png").write_bytes(good[: len(good) // 2])
    (dozen / "dog").mkdir()
    (dozen / "dog/empty.jpg").write_bytes(b"")
    (dozen / "dog/page.jpg").write_text("<html>Not found</html>", encoding="utf-8")
    (dozen / "dog/gone.png").symlink_to(dozen / "nowhere.png")
    Image.new("RGB", (4000, 8)).save(dozen / "dog/strip.png")
    result = evaluate(pico, dozen, predictions=kept, batch_size=1, progress=False)
    assert result.count == 12 and len(result.failed) == 5
    for path, words in {
        "cat/003.png": "damaged or cut short", "dog/empty.jpg": "not an image",
        "dog/page.jpg": "not an image", "dog/gone.png": "no file",
        "dog/strip.png": "too long and thin",
    }.items():  # fmt: skip
        assert words in result.failed[path] and "\n" not in result.failed[path]
        assert read(kept)[path]["error"] == result.failed[path] and not read(kept)[path]["top1"]
    # A whole copy in its place counts at the next call, and nothing else is opened but failures.
    (dozen / "cat/003.png").write_bytes(good)
    for path in (dozen / "dog").iterdir():
        path.unlink()
    again = evaluate(pico, dozen, predictions=kept, batch_size=1, progress=False)
    assert again.count == 13 and not again.failed
    assert kept.read_bytes() == whole


def test_nothing_but_damaged_images(pico, tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat/a.png").write_bytes(b"no picture")
    result = evaluate(pico, tmp_path, progress=False)
    assert result.count == 0 and np.isnan(result.top1) and np.isnan(result.top5)


# Interruption -----------------------------------------------------------------------------------


@pytest.fixture
def opened(monkeypatch):
    paths = []
    real = labelled.open_image

    def open_image(path, **options):
        paths.append(path)
        return real(path, **options)

    monkeypatch.setattr(labelled, "open_image", open_image)
    return paths


def test_a_run_cut_at_any_byte_goes_on(pico, dozen, tmp_path, opened):
    strange = dozen / "cat" / 'a "quoted", name\nof two lines.png'
    (dozen / "cat/003.png").rename(strange)
    (dozen / "cat/008.png").rename(dozen / "cat" / os.fsdecode(b"caf\xe9 \xff.png"))
    kept = tmp_path / "out" / "kept.csv"
    part = kept.with_name("kept.csv.0.part")
    evaluate(pico, dozen, predictions=kept, batch_size=1, progress=False)
    whole = kept.read_bytes()
    assert len(read(kept)) == len(opened) == 13 and not part.exists()
    cuts = sorted({*range(0, len(whole), 61), whole.index(b"quoted"), whole.index(b"of two"),
                   len(whole) - 1, len(whole)})  # fmt: skip
    for cut in cuts:
        kept.unlink()
        part.write_bytes(whole[:cut])
        opened.clear()
        result = evaluate(pico, dozen, predictions=kept, batch_size=1, progress=False)
        assert result.count == 13 and kept.read_bytes() == whole, cut
        assert sorted(kept.parent.iterdir()) == [kept]
        assert len(set(opened)) == len(opened) <= 13
    assert not opened  # the last cut cut nothing
    # A torn line in the file itself is mended as well.
    kept.write_bytes(whole[:-5])
    evaluate(pico, dozen, predictions=kept, batch_size=1, progress=False)
    assert kept.read_bytes() == whole and len(opened) == 1


def test_rows_of_several_files_count_once(pico, dozen, tmp_path, opened):
    # Killed after the parts were joined and before they were removed; then in other numbers.
    kept = tmp_path / "kept.csv"
    evaluate(pico, dozen, predictions=kept, batch_size=1, progress=False)
    whole = kept.read_bytes()
    header, *lines = whole.splitlines(keepends=True)
    kept.write_bytes(header + b"".join(lines[:6]))
    for rank in range(3):
        text = header + b"".join(lines[rank:9:3])
        kept.with_name(f"kept.csv.{rank}.part").write_bytes(text[: len(text) - rank])
    opened.clear()
    evaluate(pico, dozen, predictions=kept, batch_size=1, progress=False)
    assert kept.read_bytes() == whole
    assert len(opened) == 13 - 9 + 2  # two parts had a torn line
    assert not list(tmp_path.glob("*.part"))


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_a_killed_process_goes_on_where_it_was(slice_of_cifar10, tmp_path, opened):
    folder, *_ = slice_of_cifar10
    kept = tmp_path / "mixer_nano_cifar10_slice.csv"
    part = kept.with_name(f"{kept.name}.0.part")
    process = subprocess.Popen(
        [sys.executable, "-m", "mixer_lite.cli", "evaluate", "mixer_nano_cifar10", folder,
         "--out", tmp_path, "--batch-size", "1", "--workers", "0"],
        env=environment(), stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (part.exists() and part.stat().st_size > 3000):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = part.read_bytes().count(b"\n") - 1
    assert not kept.exists() and 20 < done < 500
    model = ml.load_pretrained("mixer_nano_cifar10")
    result = evaluate(model, folder, predictions=kept, progress=False)
    card = json.loads(data_path("mixer_nano_cifar10.json").read_text(encoding="utf-8"))
    assert result.count == 500 and result.top1 == pytest.approx(card["slice_accuracy"])
    assert len(opened) == 500 - done and len(read(kept)) == 500


def test_a_full_disk_leaves_what_was_there(pico, dozen, tmp_path, monkeypatch):
    kept = tmp_path / "kept.csv"
    evaluate(pico, dozen, predictions=kept, progress=False)
    whole = kept.read_bytes()
    Image.new("RGB", (32, 32)).save(dozen / "cat/new.png")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate(pico, dozen, predictions=kept, progress=False)
    assert kept.read_bytes() == whole and not list(tmp_path.glob("*.partial"))
    monkeypatch.undo()
    assert evaluate(pico, dozen, predictions=kept, progress=False).count == 14


def test_predictions_of_something_else_are_refused(pico, dozen, tmp_path):
    kept = tmp_path / "kept.csv"
    evaluate(pico, dozen, predictions=kept, progress=False)
    whole = kept.read_bytes()

    def refused(words, model=pico, folder=dozen):
        before = kept.read_bytes()
        with pytest.raises(ValueError, match=words) as error:
            evaluate(model, folder, predictions=kept, progress=False)
        assert "delete it to begin again" in one_sentence(error)
        assert kept.read_bytes() == before

    other = ml.create_model("mixer_pico_cifar10")
    refused("predictions of another model", other)
    other.load_state_dict(pico.state_dict())
    other.config = replace(pico.config, interpolation="bilinear")
    refused("prepares its images otherwise", other)
    other.config = replace(pico.config, name="the same under another name")
    assert evaluate(other, dozen, predictions=kept, progress=False).count == 13

    picture = dozen / "cat/003.png"
    picture.rename(dozen / "deer/003.png")
    refused("other images, of which cat/003.png is the first")
    (dozen / "deer/003.png").rename(picture)
    picture.write_bytes(picture.read_bytes() + b"longer")  # the name is the same, not the picture
    refused("other images, of which cat/003.png is the first")

    kept.write_text("path,answer\na,b\n", encoding="utf-8")
    refused("is damaged or no file of predictions")
    lines = whole.splitlines(keepends=True)
    kept.write_bytes(b"".join(lines[:3]) + b"nonsense\n" + b"".join(lines[3:]))
    refused("is damaged or no file of predictions")
    kept.write_bytes(os.urandom(300) + b"\n\0\n")
    refused("is damaged or no file of predictions")


# Several processes ------------------------------------------------------------------------------


def test_two_processes_say_what_one_says(slice_of_cifar10, dozen, tmp_path):
    folder = tmp_path / "slice"
    paths = slice_of_cifar10[1][:101]
    for path in paths:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes((slice_of_cifar10[0] / path).read_bytes())
    (folder / paths[40]).write_bytes(b"no picture")
    model = ml.load_pretrained("mixer_nano_cifar10")
    alone = evaluate(model, folder, predictions=tmp_path / "alone.csv", progress=False)
    ours = read(tmp_path / "alone.csv")
    kept = tmp_path / "out/mixer_nano_cifar10_slice.csv"
    # An earlier run of one process got as far as seven images and a torn line.
    lines = (tmp_path / "alone.csv").read_bytes().splitlines(keepends=True)
    kept.parent.mkdir()
    kept.with_name(f"{kept.name}.0.part").write_bytes(b"".join(lines[:8]) + lines[8][:20])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
         "-m", "mixer_lite.cli", "evaluate", "mixer_nano_cifar10", folder, "--out", kept.parent,
         "--workers", "0", "--batch-size", "8"],
        env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("measured:") == 1
    assert f"top-1 {alone.top1:.2%}, top-5 {alone.top5:.2%} of 100 images" in done.stdout
    assert done.stderr.count(f"{paths[40]}: Cannot read") == 1
    theirs = read(kept)
    assert list(theirs) == list(ours) and len(theirs) == 101
    for path, row in theirs.items():
        if path == paths[40]:
            assert row["error"]
            continue
        assert classes(row) == classes(ours[path]) and row["label"] == ours[path]["label"]
        assert probabilities(row) == pytest.approx(probabilities(ours[path]), abs=1e-5)
    assert sorted(path.name for path in kept.parent.iterdir()) == [kept.name, "table.csv"]
    table = list(csv.DictReader((kept.parent / "table.csv").open(encoding="utf-8")))
    assert [(row["images"], row["failed"]) for row in table] == [("100", "1")]


def test_no_process_waits_for_one_that_cannot_begin(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    code = (
        "import mixer_lite as ml; from mixer_lite.training.evaluation import evaluate\n"
        "try: evaluate(ml.create_model('mixer_pico_cifar10'), 'nowhere', progress=False)\n"
        "except FileNotFoundError as error: print(error)"
    )
    several = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=tmp_path,
            env={**environment(), **several, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    for process in both:
        assert "There is no folder nowhere" in process.communicate(timeout=300)[0]


# Data sets of the Hugging Face hub --------------------------------------------------------------


def test_a_data_set_of_the_hub(slice_of_cifar10, tmp_path, monkeypatch):
    folder, paths, _, labels = slice_of_cifar10
    files = [(folder / path).read_bytes() for path in paths[:20]]
    # The labels' own order is another than the model's: names decide.
    names = sorted(CIFAR10_CLASSES, reverse=True)
    given = [names.index(CIFAR10_CLASSES[label]) for label in labels[:20]]
    monkeypatch.setitem(sys.modules, "datasets", data_sets(files, given, names))
    model = ml.load_pretrained("mixer_nano_cifar10")
    kept = tmp_path / "kept.csv"
    name = "hf:somebody/cifar10"
    result = evaluate(model, name, split="test", predictions=kept, progress=False)
    whole = tmp_path / "whole.csv"
    evaluate(model, folder, predictions=whole, progress=False)
    for i, path in enumerate(paths[:20]):
        ours, wanted = read(kept)[str(i)], read(whole)[path]
        assert ours["label"] == wanted["label"] and classes(ours) == classes(wanted)
    assert result.count == 20 and result.data == name
    with pytest.raises(ValueError, match="predictions of another model, or of one"):
        evaluate(model, folder, predictions=kept, progress=False)
    with pytest.raises(RuntimeError, match="validation of hf:somebody/cifar10 could not") as error:
        evaluate(model, name, progress=False)
    one_sentence(error)
    monkeypatch.setitem(sys.modules, "datasets", data_sets(files, [-1] * 20, names))
    with pytest.raises(ValueError, match="empty or without labels"):
        evaluate(model, name, split="test", progress=False)


def test_imagenets_labels_by_their_order(tmp_path, monkeypatch):
    # Two of ImageNet's names are "crane": the others' places tell which is which.
    names = ImageNetInfo().label_descriptions()
    cranes = [i for i, name in enumerate(names) if name == "crane"]
    assert len(cranes) == 2
    file = tmp_path / "a.png"
    Image.new("RGB", (40, 40)).save(file)
    small_imagenet_mixer(tmp_path / "small.pth")
    model = ml.load_checkpoint(tmp_path / "small.pth")
    data = data_sets([file.read_bytes()] * 2, cranes, names)
    monkeypatch.setitem(sys.modules, "datasets", data)
    kept = tmp_path / "kept.csv"
    evaluate(model, "hf:somebody/cifar10", split="test", predictions=kept, progress=False)
    assert [int(row["label"]) for row in read(kept).values()] == cranes


def test_without_the_package_datasets_one_sentence(pico, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(RuntimeError, match="needs the package datasets: pip install") as error:
        evaluate(pico, "hf:somebody/cifar10", progress=False)
    one_sentence(error)


# Refusals and the table -------------------------------------------------------------------------


def test_bad_calls_get_one_clear_sentence(pico, dozen, tmp_path, monkeypatch):
    (tmp_path / "empty/cat").mkdir(parents=True)
    (tmp_path / "stray").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "stray/a.png")
    headless = ml.create_model("mixer_pico_cifar10", num_classes=0)
    cases = [
        (pico, tmp_path / "missing", {}, "There is no folder"),
        (pico, dozen / "cat/003.png", {}, "There is no folder"),
        (pico, tmp_path / "empty", {}, "holds no folders of images"),
        (pico, tmp_path / "stray", {}, "holds no folders of images"),
        (pico, tmp_path, {}, "2 of the 2 classes here mean none .*: dozen, stray; call"),
        (pico, dozen, {"batch_size": 0}, "batch_size must be 1 or more"),
        (pico, dozen, {"workers": -1}, "workers 0 or more"),
        (headless, dozen, {}, "no head"),
    ]
    for model, folder, options, words in cases:
        with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
            evaluate(model, folder, progress=False, **options)
        one_sentence(error)
    pico.config, config = None, pico.config
    with pytest.raises(ValueError, match="does not know how its images were prepared"):
        evaluate(pico, dozen, progress=False)
    pico.config = replace(config, resize="opencv")
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(RuntimeError, match="OpenCV, which is not installed") as error:
        evaluate(pico, dozen, progress=False, workers=2)
    one_sentence(error)


def test_the_table_keeps_one_row_for_each_model_and_folder(tmp_path):
    path = tmp_path / "new/table.csv"
    result = Evaluation("b16", "val, all", 0.76616, 0.9225, 50_000, {})
    add_to_table(path, result, (76.68, 92.25, "OpenMMLab's model zoo"))
    add_to_table(path, replace(result, model="l16", top1=float("nan"), failed={"a": "b"}))
    add_to_table(path, replace(result, top1=0.5), (76.68, None, "somebody"))
    rows = list(csv.reader(path.open(encoding="utf-8")))
    assert rows == [
        ["model", "data", "images", "failed", "top1", "top5",
         "published_top1", "published_top5", "published_by"],
        ["l16", "val, all", "50000", "1", "nan", "92.250", "", "", ""],
        ["b16", "val, all", "50000", "0", "50.000", "92.250", "76.680", "", "somebody"],
    ]  # fmt: skip
    path.write_text("mine,and mine alone\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no table of evaluations"):
        add_to_table(path, result)
    assert path.read_text(encoding="utf-8") == "mine,and mine alone\n"
    assert COLUMNS[:4] == ("run", "path", "bytes", "label")
