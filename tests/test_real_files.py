"""Files and folders as people have them: what is found is used, or named with its kind."""

import json
import os
import shutil
import subprocess
import sys
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import mixer_lite as ml
from mixer_lite import cli, datasets
from mixer_lite.datasets.files import class_folder, image_files
from mixer_lite.datasets.folders import image_folder
from mixer_lite.images import open_image, prepare
from mixer_lite.specs import ModelConfig
from mixer_lite.training import evaluation
from mixer_lite.training.evaluation import evaluate
from mixer_lite.training.loop import train
from mixer_lite.training.measures import accuracy, normalize
from mixer_lite.training.own import own_images
from mixer_lite.training.recipe import LESSON

CONFIG = ModelConfig("mine", image_size=32, crop=1.0)


def picture(seed=0, size=(40, 40)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def fill(folder, classes, count=2, suffix=".png", **options):
    """Noise in class folders."""
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(100 * k + i).save(folder / name / f"{i}{suffix}", **options)
    return folder


def model_for(classes):
    model = ml.create_model("mixer_pico_cifar10", num_classes=len(classes)).eval()
    model.config = replace(model.config, class_names=tuple(classes))
    return model


def found_by_all(folder, capsys):
    """How many images train, evaluate and predict count in a folder of class folders."""
    capsys.readouterr()
    trained = len(image_folder(folder, CONFIG, progress=True).labels)
    names = list(class_folder(folder).files)
    judged = evaluate(model_for(names), folder, progress=True).count
    status = cli.main(["predict", str(folder)])
    said = capsys.readouterr()
    assert status == 0
    return {trained, judged, len(said.out.splitlines())}, said.err


# One reader -------------------------------------------------------------------------------------


def test_three_commands_count_the_same_files_and_name_the_rest(tmp_path, capsys):
    fill(tmp_path, ["cat", "dog"], 1, ".png")
    for suffix in (".jfif", ".JPEG", ".gif", ".avif", ".jpe", ".TIFF", ".bmp"):
        kind = {".jfif": "JPEG", ".jpe": "JPEG"}.get(suffix)
        for name in ("cat", "dog"):
            picture().save(tmp_path / name / f"x{suffix}", **({"format": kind} if kind else {}))
    picture().save(tmp_path / "dog/no_suffix", format="PNG")
    (tmp_path / "cat/notes.txt").write_text("no image", encoding="utf-8")
    (tmp_path / "cat/clip.mp4").write_bytes(b"no image")
    (tmp_path / "dog/phone.HEIC").write_bytes(b"no image")
    (tmp_path / "dog/README").write_text("no image", encoding="utf-8")
    counts, said = found_by_all(tmp_path, capsys)
    assert counts == {17}
    assert said.count("17 images of 2 classes in") == 2
    assert said.count("; 4 files skipped: ") == 3
    for kind in (".txt 1", ".mp4 1", ".heic 1", "without a suffix 1"):
        assert said.count(kind) == 3


def test_hidden_and_system_names_are_no_classes_and_no_images(tmp_path, capsys):
    fill(tmp_path, ["cat", "dog"])
    fill(tmp_path, [".ipynb_checkpoints", "__MACOSX/cat", "@eaDir", "cat/.thumbs"], 3)
    (tmp_path / "dog/.ipynb_checkpoints").mkdir()
    (tmp_path / "__MACOSX/cat/._000.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "cat/._0.png").write_bytes(b"\0\5\x16\7")
    (tmp_path / "cat/Thumbs.db").write_bytes(b"x")
    counts, said = found_by_all(tmp_path, capsys)
    assert counts == {4} and list(class_folder(tmp_path).files) == ["cat", "dog"]
    assert "files skipped: hidden" in said


def test_corrupt_files_are_left_out_and_named_all_of_them_in_one_run(tmp_path, capsys):
    folder = fill(tmp_path / "train", ["cat", "dog"], 3)
    (folder / "cat/1.png").write_bytes(b"no image")
    (folder / "dog/2.png").write_bytes((folder / "dog/2.png").read_bytes()[:300])
    (folder / "dog/link.png").symlink_to("nowhere.png")
    found = image_folder(folder, CONFIG)
    said = " ".join(capsys.readouterr().err.split())
    assert "3 of 7 images cannot be opened and are left out: cat/1.png (" in said
    assert "dog/2.png (" in said and "dog/link.png (" in said
    assert found.labels.tolist() == [0, 0, 1, 1] and len(found.images) == 4
    wanted = prepare(open_image(folder / "dog/1.png"), CONFIG)
    assert torch.allclose(normalize(found.images[3:], CONFIG.mean, CONFIG.std)[0], wanted)
    result = evaluate(model_for(["cat", "dog"]), folder, progress=False)
    assert set(result.failed) == {"cat/1.png", "dog/2.png", "dog/link.png"} and result.count == 4


def test_corrupt_files_on_the_disk_too(tmp_path, capsys, monkeypatch):
    folder = fill(tmp_path / "train", ["cat", "dog"], 3)
    (folder / "cat/1.png").write_bytes(b"no image")
    in_memory = image_folder(folder, CONFIG, False)
    monkeypatch.setattr("mixer_lite.datasets.folders.free_memory", lambda: 1000)
    for _ in range(2):  # the second time the file is there already
        on_disk = image_folder(folder, CONFIG, True, tmp_path / "run/train")
        assert torch.equal(on_disk.images, in_memory.images)
        assert torch.equal(on_disk.labels, in_memory.labels)
        assert "1 of 6 images cannot be opened" in capsys.readouterr().err


def test_a_circle_of_links_ends(tmp_path):
    fill(tmp_path, ["cat"])
    (tmp_path / "cat/again").symlink_to(tmp_path / "cat", target_is_directory=True)
    assert len(image_files(tmp_path / "cat", Counter())) == 2


# What people's folders look like ----------------------------------------------------------------


def test_classes_one_folder_too_deep_are_asked_about(tmp_path):
    fill(tmp_path / "T/train/images", ["cat", "dog"])
    words = r"only one class, images, which holds folders cat, dog: give .*images\?"
    with pytest.raises(ValueError, match=words):
        own_images(tmp_path / "T", "mixer_pico_cifar10", progress=False)
    with pytest.raises(ValueError, match=words):
        evaluate(model_for(["cat", "dog"]), tmp_path / "T/train", progress=False)
    # A single class with kinds in it is no such mistake where the model knows the class.
    assert evaluate(model_for(["images", "dog"]), tmp_path / "T/train", progress=False).count == 4


def test_splits_taken_for_classes_are_asked_about(tmp_path, capsys):
    for split in ("train", "val"):
        fill(tmp_path / split, ["cat", "dog"])
    with pytest.raises(ValueError, match=r"train, val each hold folders cat, dog: give one of"):
        evaluate(model_for(["cat", "dog"]), tmp_path, progress=False)
    image_folder(tmp_path, CONFIG, True)
    assert "train, val each hold folders cat, dog" in capsys.readouterr().err


def test_one_class_is_refused(tmp_path):
    fill(tmp_path / "train", ["cat"], 4)
    with pytest.raises(ValueError, match="only one class, cat: give two or more"):
        own_images(tmp_path, "mixer_pico_cifar10", progress=False)
    images, labels = torch.zeros(40, 3, 32, 32, dtype=torch.uint8), torch.zeros(40).long()
    for names in (["cat"], ["cat", "dog"]):
        with pytest.raises(ValueError, match="There is only one class"):
            train("mixer_pico_cifar10", tmp_path / "run", images=images, labels=labels,
                  class_names=names)  # fmt: skip


def test_folders_given_one_level_off(tmp_path):
    fill(tmp_path / "pets/train", ["cat", "dog"])
    with pytest.raises(ValueError, match=r"has no folder train, but .* cat, dog: .*give .*pets\."):
        own_images(tmp_path / "pets/train", "mixer_pico_cifar10", progress=False)
    fill(tmp_path / "flat", ["cat", "dog"])
    with pytest.raises(ValueError, match="move them into a folder train"):
        own_images(tmp_path / "flat", "mixer_pico_cifar10", progress=False)


@pytest.mark.parametrize("table", ["train.csv", "metadata.csv", "metadata.jsonl"])
def test_labels_in_a_table_are_said_not_to_be_read(tmp_path, table):
    # Kaggle's, a Hugging Face image folder's, and ImageNet's validation images without folders.
    for i in range(3):
        picture(i).save(tmp_path / f"ILSVRC2012_val_0000000{i}.JPEG")
    (tmp_path / table).write_text("file_name,label\n", encoding="utf-8")
    suffix = Path(table).suffix
    words = rf"3 images lie directly in it, which tells no class \(labels in tables, \{suffix}, are"
    for read in (class_folder, lambda folder: evaluate(model_for("ab"), folder, progress=False)):
        with pytest.raises(ValueError, match=words):
            read(tmp_path)


def test_a_table_beside_the_folder_is_named_too(tmp_path, capsys):
    for i in range(3):  # as Kaggle parts images and labels
        (tmp_path / "train").mkdir(exist_ok=True)
        picture(i).save(tmp_path / f"train/{i}.jpg")
    (tmp_path / "train.csv").write_text("id,label\n0,cat\n", encoding="utf-8")
    assert cli.main(["train", "mixer_pico_cifar10", "--data", str(tmp_path)]) == 1
    words = "3 images lie directly in it, which tells no class (labels in tables, .csv, are not"
    assert words in capsys.readouterr().err


def test_splits_of_a_hugging_face_folder(tmp_path, capsys):
    for split in ("train", "validation"):
        fill(tmp_path / split, ["cat", "dog"], 4)
    (tmp_path / "train/metadata.csv").write_text("file_name,label\n", encoding="utf-8")
    own = own_images(tmp_path, "mixer_pico_cifar10")
    assert own.training["class_names"] == ("cat", "dog") and len(own.test[1]) == 8
    assert "1 file skipped: .csv 1" in capsys.readouterr().err


def test_loose_images_and_empty_folders_are_told(tmp_path):
    fill(tmp_path, ["cat", "dog"])
    (tmp_path / "empty").mkdir()
    picture().save(tmp_path / "loose.png")
    told = class_folder(tmp_path).told
    assert "4 images of 2 classes" in told and "no images in empty" in told
    assert "1 images outside of class folders skipped" in told


def test_the_folder_of_test_images_may_be_called_val(tmp_path):
    fill(tmp_path / "train", ["cat", "dog"])
    fill(tmp_path / "val", ["dog"])  # not all classes
    own = own_images(tmp_path, "mixer_pico_cifar10", progress=False)
    assert own.training["class_names"] == ("cat", "dog") and own.test[1].tolist() == [1, 1]
    fill(tmp_path / "val", ["cow"])
    with pytest.raises(ValueError, match=r"tests other classes than it trains: 1 of the 2 .* cow"):
        own_images(tmp_path, "mixer_pico_cifar10", progress=False)


# Names ------------------------------------------------------------------------------------------


def test_unicode_forms_of_a_name_are_one_class(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Café") for form in ("NFC", "NFD"))
    assert composed != apart
    fill(tmp_path / "train", [composed, "Tee"])
    fill(tmp_path / "test", [apart, "Tee"])
    own = own_images(tmp_path, "mixer_pico_cifar10", progress=False)
    assert own.training["class_names"] == (composed, "Tee")
    assert own.test[1].tolist() == [0, 0, 1, 1]
    result = evaluate(model_for([apart, "Tee"]), tmp_path / "train", progress=False)
    assert result.count == 4


def test_names_that_no_screen_can_write_are_classes_too(tmp_path, capsys):
    # A Latin-1 name, line ends and terminal escapes, half a formula, a name longer than a line.
    names = [b"caf\xe9", b"a\nb\x1b[31m", rb"$\frac{$", b"x" * 200]
    for split in ("train", "test"):
        fill(tmp_path / split, [os.fsdecode(name) for name in names], 4)
    run, out = tmp_path / "run", ["--out", str(tmp_path / "out"), "--workers", "0"]
    choices = ["--epochs", "1", "--set", "batch_size=8"]
    data = ["--data", str(tmp_path), "--out", str(run)]
    assert cli.main(["train", "mixer_pico_cifar10", *data, *choices]) == 0
    assert cli.main(["evaluate", str(run), str(tmp_path / "test"), *out]) == 0
    assert cli.main(["predict", "--model", str(run), str(tmp_path / "test")]) == 0
    said = "".join(capsys.readouterr())
    assert "of 16 images in" in said and "\x1b" not in said and "caf\\udce9" in said
    model = ml.load_checkpoint(run / "weights.safetensors")
    result = evaluate(model, tmp_path / "test", progress=False)
    assert result.count == 16 and len(set(model.config.class_names)) == 4


def test_numbers_are_compared_with_and_without_zeros_before_them():
    assert datasets.class_indices(["1", "02", "003"], 4, ["00", "01", "02", "03"]) == [1, 2, 3]
    assert datasets.class_indices(["class_7"], 2, ["class 07", "class 08"]) == [0]
    # What is the same to the last letter comes first; what may be two is refused.
    assert datasets.class_indices(["7", "07"], 2, ["07", "7"]) == [1, 0]
    with pytest.raises(ValueError, match="mean none of this model's, or more than one: 007"):
        datasets.class_indices(["007"], 2, ["7", "07"])


def test_numbers_taken_for_a_models_classes_are_told(tmp_path, capsys):
    fill(tmp_path, ["0", "1"])
    result = evaluate(model_for(["cat", "dog"]), tmp_path)
    told = "Assumed: the folders 0, 1 are named by the model's class numbers, from 0."
    assert told in result.notes and told in capsys.readouterr().err
    assert told not in evaluate(model_for(["0", "1"]), tmp_path, progress=False).notes


def test_names_that_the_screen_cannot_write_are_escaped(tmp_path):
    names = ["猫.png", "plain.png"]
    for i, name in enumerate(names):
        picture(i).save(tmp_path / name)
    latin = os.path.join(os.fsencode(tmp_path), b"caf\xe9.png")
    shutil.copy(tmp_path / "plain.png", latin)
    for encoding in ("cp1252",):  # which can write neither of the first two
        done = subprocess.run(
            [sys.executable, "-m", "mixer_lite.cli", "predict", "猫.png", latin, "plain.png"],
            cwd=tmp_path, capture_output=True, check=False,
            env={**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "1",
                 "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count(b"%") == 9 and len(done.stdout.splitlines()) == 3


# How a picture lies -----------------------------------------------------------------------------


def lying(folder, classes, count):
    """Pictures whose halves tell the class, stored lying down with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    rng = np.random.default_rng(0)
    for k in range(classes):
        (folder / str(k)).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 60, (32, 32, 3), dtype=np.uint8)
            pixels[: 4 + 2 * k] += 150  # a bright band above
            path = folder / str(k) / f"{i}.jpg"
            Image.fromarray(np.rot90(pixels).copy()).save(path, exif=exif, quality=95)


def test_train_evaluate_and_predict_see_a_picture_the_same_way_up(tmp_path, capsys):
    lying(tmp_path / "train", 12, 4)
    shutil.copytree(tmp_path / "train", tmp_path / "test")
    own = own_images(tmp_path, "mixer_pico_cifar10", progress=False)
    recipe = replace(LESSON, epochs=12, batch_size=16, shift=0)
    train("mixer_pico_cifar10", tmp_path / "run", recipe=recipe, progress=False, **own.training)
    model = ml.load_checkpoint(tmp_path / "run/weights.safetensors")
    assert model.config.upright
    mean, std = model.config.mean, model.config.std
    trained = accuracy(model, normalize(own.test[0], mean, std), own.test[1])
    assert trained > 0.3  # a twelfth is chance: the way up matters
    result = evaluate(model, tmp_path / "test", predictions=tmp_path / "p.csv", progress=False)
    assert result.top1 == pytest.approx(trained, abs=1.5 / 48)
    assert not any("orientation" in note for note in result.notes)
    paths = sorted((tmp_path / "test").rglob("*.jpg"))
    said = [p[0].label for p in ml.predict(model, paths, top_k=1)]
    assert np.mean([path.parent.name == s for path, s in zip(paths, said, strict=True)]) == (
        pytest.approx(result.top1)
    )
    # A model that was evaluated on pictures as they are stored says what that leaves lying.
    model.config = replace(model.config, upright=False)
    other = evaluate(model, tmp_path / "test")
    assert other.top1 != result.top1
    assert "48 images carry an orientation that was not applied" in capsys.readouterr().err


# Processes, devices, pipes ----------------------------------------------------------------------


class Refused:
    """Stands for a loader whose processes fail after the first batch."""

    def __init__(self, data, **options):
        self.loader, self.fails = (
            real(data, **options | {"num_workers": 0, "timeout": 0}),
            bool(options["num_workers"]),
        )
        assert options["timeout"] == (evaluation.PATIENCE if self.fails else 0)

    def __iter__(self):
        for batch in self.loader:
            yield batch
            if self.fails:
                raise RuntimeError("unable to write to file </torch_1_2>: No space left on device")


real = torch.utils.data.DataLoader


def test_processes_that_fail_are_done_without(tmp_path, monkeypatch, capsys):
    fill(tmp_path, ["cat", "dog"], 5)
    model = model_for(["cat", "dog"])
    alone = evaluate(model, tmp_path, progress=False)
    monkeypatch.setattr(torch.utils.data, "DataLoader", Refused)
    result = evaluate(model, tmp_path, workers=2, batch_size=3, progress=False)
    assert result == alone and result.count == 10
    said = capsys.readouterr().err
    assert "No space left on device" in said and "--workers 0" in said


def test_images_of_other_processes_come_without_shared_memory(tmp_path):
    # A tensor would come through /dev/shm, which has 64 MB in a container.
    fill(tmp_path, ["cat"], 1)
    source = datasets.labelled.ClassFolders(tmp_path)
    model = model_for(["cat", "dog"])
    data = evaluation._Prepared(source, source.samples(model), model.config, 3)
    (_, pixels, _) = data[0]
    assert isinstance(pixels, np.ndarray)


@pytest.mark.parametrize("device", ["xpu", "cuda:77", "meta", "nonsense"])
def test_a_device_that_is_not_there_is_a_sentence(tmp_path, capsys, device):
    fill(tmp_path, ["cat", "dog"], 1)
    for command in (["evaluate", "mixer_nano_cifar10", str(tmp_path)],
                    ["train", "mixer_pico_cifar10", "--data", str(tmp_path.parent)]):  # fmt: skip
        if command[0] == "train":
            fill(tmp_path.parent / "train", ["cat", "dog"], 1)
        out = ["--out", str(tmp_path / "out"), "--device", device]
        assert cli.main([*command, *out]) == 1
        said = capsys.readouterr().err
        assert f"PyTorch cannot compute on '{device}' here (" in said and "Traceback" not in said


def test_a_reader_that_has_had_enough_ends_the_command_quietly():
    done = subprocess.run(
        f"{sys.executable} -m mixer_lite.cli info mixer_nano_cifar10 | head -1",
        shell=True, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "mixer_nano_cifar10\n" and done.stderr == ""


def test_a_runs_folder_is_taken_by_every_command(tmp_path, capsys):
    folder = fill(tmp_path / "data", ["cat", "dog"])
    run = tmp_path / "runs/pets"
    run.mkdir(parents=True)
    for command in (["evaluate", str(run), str(folder)], ["info", str(run)],
                    ["predict", "--model", str(run), str(folder / "cat/0.png")]):  # fmt: skip
        assert cli.main(command) == 1
        assert "give a file of weights, or the folder of a finished run" in capsys.readouterr().err
    ml.save_checkpoint(model_for(["cat", "dog"]), run / "weights.safetensors")
    out = ["--out", str(tmp_path / "out"), "--workers", "0"]
    assert cli.main(["evaluate", str(run), str(folder), *out]) == 0
    assert (tmp_path / "out/pets_data.csv").is_file()
    assert cli.main(["info", str(run)]) == 0
    assert cli.main(["predict", "--model", str(run), str(folder / "cat/0.png")]) == 0
    assert "2 classes" in capsys.readouterr().out


def test_the_same_answer_to_every_image_is_noticed(tmp_path):
    fill(tmp_path, ["cat", "dog"], 6)
    model = model_for(["cat", "dog"])
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([0.0, 1.0]))
    notes = evaluate(model, tmp_path, progress=False).notes
    assert any(note.startswith("Every image got the same answer, dog") for note in notes)


def test_a_table_of_another_kind_is_never_written_over(tmp_path):
    (tmp_path / "table.csv").write_text("mine, and mine alone", encoding="utf-8")
    result = evaluation.Evaluation("m", "d", 0.5, 0.5, 1, {})
    with pytest.raises(ValueError, match="is no table of evaluations"):
        evaluation.add_to_table(tmp_path / "table.csv", result)
    assert json.dumps((tmp_path / "table.csv").read_text()) == '"mine, and mine alone"'
