"""The command line, as it is typed."""

import csv
import io
import os
import re
import signal
import socket
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub import data_sets
from PIL import Image
from safetensors.torch import load_file

import mixer_lite as ml
from mixer_lite import cli, training
from mixer_lite.datasets import Cifar10, cifar10_sample
from mixer_lite.specs import CIFAR10_CLASSES
from mixer_lite.weights.checkpoints import load_checkpoint


def test_models_lists_names_and_sizes(capsys):
    assert cli.main(["models"]) == 0
    out = capsys.readouterr().out
    assert "mixer_b16_224" in out and "59.88 M" in out and "1.13 M" in out
    assert all(name in out for name in (*ml.list_models(), *ml.list_pretrained()))


def test_predict_prints_what_predict_returns_and_survives_a_bad_file(tmp_path, capsys):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    paths = [str(tmp_path / n) for n in ("b.png", "a.png")]
    assert cli.main(["predict", "--top-k", "2", *paths]) == 1
    out, err = capsys.readouterr()
    wanted = ml.predict(ml.load_pretrained("mixer_nano_cifar10"), tmp_path / "a.png", top_k=2)
    assert out.strip() == f"{paths[1]}: " + ", ".join(
        f"{p.label} {p.probability:.1%}" for p in wanted
    )
    assert "b.png" in err and "Traceback" not in err


def test_predict_with_a_weights_file(tmp_path, capsys):
    model = ml.create_model("mixer_pico_cifar10")
    ml.save_checkpoint(model, tmp_path / "mine.safetensors")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    arguments = ["predict", "--model", str(tmp_path / "mine.safetensors"), str(tmp_path / "a.png")]
    assert cli.main(arguments) == 0
    assert any(name in capsys.readouterr().out for name in ml.specs.CIFAR10_CLASSES)


def test_errors_are_one_line_without_traceback(capsys):
    assert cli.main(["predict", "--model", "mixer_nano", "a.png"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("mixer-lite: ") and err.count("\n") == 1 and "Did you mean" in err
    with pytest.raises(SystemExit):
        cli.main(["predict"])
    with pytest.raises(SystemExit):
        cli.main(["models", "--nonsense"])


# The published tables, as they are printed there.
OPENMMLAB = {"mixer_b16_224": ("59.88 M", "12.61 G"), "mixer_l16_224": ("208.2 M", "44.57 G")}
TABLE_1 = {
    "mixer_s32_224": (8, 32, 512, 49, 2048, 256, 19),
    "mixer_s16_224": (8, 16, 512, 196, 2048, 256, 18),
    "mixer_b32_224": (12, 32, 768, 49, 3072, 384, 60),
    "mixer_b16_224": (12, 16, 768, 196, 3072, 384, 59),
    "mixer_l32_224": (24, 32, 1024, 49, 4096, 512, 206),
    "mixer_l16_224": (24, 16, 1024, 196, 4096, 512, 207),
    "mixer_h14_224": (32, 14, 1280, 256, 5120, 640, 431),
}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("info asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def info(name, capsys):
    assert cli.main(["info", str(name)]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", OPENMMLAB)
@pytest.mark.parametrize("tag", ["", ".goog_in21k_ft_in1k"])
def test_info_prints_openmmlabs_table(name, tag, capsys, no_network):
    out = info(name + tag, capsys)
    parameters, flops = OPENMMLAB[name]
    assert re.search(
        rf"^  parameters +{re.escape(parameters)} \([\d,]+\) with the head$", out, re.M
    )
    assert re.search(rf"^ +{re.escape(flops)} as OpenMMLab counts: without the head", out, re.M)
    products = {"mixer_b16_224": "12.60 G", "mixer_l16_224": "44.55 G"}[name]
    assert re.search(
        rf"^  operations +{products} .*matrix products alone, with the head$", out, re.M
    )


@pytest.mark.parametrize("name", TABLE_1)
def test_info_prints_table_1(name, capsys, no_network):
    out = info(name, capsys)
    millions, exact = re.search(r"([\d.]+) M \(([\d,]+)\) without the head", out).groups()
    shape = re.search(
        r"P (\d+), S (\d+) \(\d+ x \d+\), C (\d+), D_S (\d+), D_C (\d+), (\d+) blocks", out
    )
    p, s, c, d_s, d_c, blocks = map(int, shape.groups())
    assert (blocks, p, c, s, d_c, d_s, round(float(millions))) == TABLE_1[name]
    assert round(int(exact.replace(",", "")) / 1e6) == TABLE_1[name][-1]


def test_info_of_weights_that_are_not_here(capsys, no_network, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    out = info("mixer_b16_224.miil_in21k_ft_in1k", capsys)
    for words in (
        "1000 classes", "shorter side to 256 pixels (Pillow, bilinear), centre 224 x 224",
        "minus 0 0 0, divided by 1 1 1", "GELU        exact", "epsilon 1e-06",
        "top-1 82.314%, top-5 95.71% (timm", "MIIL", "not on this machine: 240 MB to download",
    ):  # fmt: skip
        assert words in out, words
    out = info("mixer_l16_224.goog_in21k_ft_in1k", capsys)
    assert "top-1 72.084%, top-5 87.632%" in out and "from scratch on ImageNet-1k" in out
    assert "21843 classes" in info("mixer_b16_224.goog_in21k", capsys)
    assert "11221 classes" in info("mixer_b16_224.miil_in21k", capsys)
    assert "no accuracy is known" in info("mixer_b16_224.miil_in21k", capsys)


def test_info_of_bundled_weights_and_of_a_file(tmp_path, capsys, no_network):
    out = info("mixer_nano_cifar10", capsys)
    for words in ("1.132 M (1,132,170) with", "P 4, S 64 (8 x 8), C 128, D_S 64, D_C 512, 8 blocks",
                  "top-1 90.14%", "distilled; 89.43 without",
                  "minus 0.4914 0.4822 0.4465", "bundled"):  # fmt: skip
        assert words in out, words
    model = ml.MlpMixer(
        image_size=24, patch_size=8, num_classes=0, num_blocks=3, hidden_dim=20, tokens_mlp_dim=11,
        channels_mlp_dim=33, gelu="tanh",
    )  # fmt: skip
    model.config = ml.ModelConfig("mine", 24, crop=1.0, resize="opencv", source="from my desk.")
    ml.save_checkpoint(model, tmp_path / "mine.safetensors")
    out = info(tmp_path / "mine.safetensors", capsys)
    count = sum(p.numel() for p in model.parameters())
    for words in (f"({count:,})\n", "tanh approximation", "(OpenCV, bicubic)",
                  "P 8, S 9 (3 x 3), C 20, D_S 11, D_C 33, 3 blocks", "no classes",
                  "from my desk.", f"the file {tmp_path / 'mine.safetensors'}"):  # fmt: skip
        assert words in out, words


def test_info_of_nothing(capsys):
    assert cli.main(["info", "mixer_b16"]) == 1
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "Did you mean mixer_b16_224" in err
    assert cli.main(["info", "resmlp_12_224.fb_in1k"]) == 1
    assert "is a relative of the Mixer, not a Mixer" in capsys.readouterr().err


def test_models_and_info_tell_what_is_here(capsys, no_network, monkeypatch, tmp_path):
    # The hub client's cache, with one of two models in it.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "mixer_l16_224.goog_in21k_ft_in1k"
    kept = tmp_path / f"models--timm--{name}"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("0" * 40, encoding="utf-8")
    file = kept / "snapshots" / ("0" * 40) / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"weights")
    cli.main(["models"])
    cells = [re.split(" {2,}", line) for line in capsys.readouterr().out.splitlines()]
    lines = {row[0]: row[1:] for row in cells}
    scratch, timm = "ImageNet-1k, from scratch", "timm's results"
    words = "this project, distilled; 89.43 without"
    card = ["CIFAR-10", "90.14", words]
    assert lines["mixer_nano_cifar10"] == ["bundled", "2", "yes", *card]
    told = ["timm", "240", "no", scratch, "76.62", "92.25", timm]
    assert lines["mixer_b16_224.goog_in21k_ft_in1k"] == told
    assert lines[name] == ["timm", "833", "yes", scratch, "72.08", "87.63", timm]
    assert f"on this machine, {file}" in info(name, capsys)


def test_evaluate_writes_what_it_measures_beside_what_is_published(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    images, labels = ml.datasets.cifar10_sample()
    for i in range(0, 500, 25):
        path = Path("val", ml.specs.CIFAR10_CLASSES[labels[i]], f"{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i].permute(1, 2, 0).numpy()).save(path)
    model = ml.load_pretrained("mixer_nano_cifar10")
    top = ml.predict(model, [image.numpy() for image in images[::25].permute(0, 2, 3, 1)])
    right = [p[0].index == label for p, label in zip(top, labels[::25], strict=True)]
    (tmp_path / "val/cat/bad.png").write_text("no picture", encoding="utf-8")
    assert cli.main(["evaluate", "mixer_nano_cifar10", "val", "--workers", "0"]) == 0
    out, err = capsys.readouterr()
    assert f"measured:  top-1 {sum(right) / 20:.2%}, top-5 " in out and "of 20 images in val" in out
    assert "published: top-1 90.14% (this project, distilled; 89.43 without)" in out
    assert "cat/bad.png: Cannot read" in err and "not counted" in err and "Traceback" not in err
    table = list(csv.DictReader(Path("runs/evaluate/table.csv").open(encoding="utf-8")))
    assert [(row["model"], row["top1"], row["published_top1"]) for row in table] == [
        ("mixer_nano_cifar10", f"{100 * sum(right) / 20:.3f}", "90.140")
    ]
    kept = Path("runs/evaluate/mixer_nano_cifar10_val.csv")
    assert len(list(csv.DictReader(kept.open(encoding="utf-8")))) == 21

    # A file of weights, in another folder of results; nothing is known to be published of it.
    ml.save_checkpoint(model, "copy.safetensors")
    assert cli.main(["evaluate", "copy.safetensors", "val", "--out", "o", "--workers", "0"]) == 0
    assert "published: no accuracy is known" in capsys.readouterr().out
    assert Path("o/copy_val.csv").exists()

    # In 8 bits, kept apart; a processor that is slow with them says so.
    status = cli.main(["evaluate", "mixer_nano_cifar10", "val", "--workers", "0", "--int8"])
    if torch.cpu._is_vnni_supported():
        assert status == 0
        table = list(csv.DictReader(Path("runs/evaluate/table.csv").open(encoding="utf-8")))
        assert [row["model"] for row in table] == ["mixer_nano_cifar10", "mixer_nano_cifar10_int8"]
        assert abs(float(table[1]["top1"]) - float(table[0]["top1"])) <= 5  # one image of 20
        assert Path("runs/evaluate/mixer_nano_cifar10_int8_val.csv").exists()
    else:
        assert status == 1 and "use the model as it is" in capsys.readouterr().err


def test_evaluate_stopped_by_hand_says_how_it_goes_on(tmp_path, monkeypatch, capsys):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("mixer_lite.training.evaluation.evaluate", stopped)
    assert cli.main(["evaluate", "mixer_nano_cifar10", str(tmp_path)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().err


def test_evaluate_says_in_one_sentence_what_is_wrong(tmp_path, capsys):
    (tmp_path / "wombat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "wombat/a.png")
    for arguments, words in (
        (["mixer_pico_cifar10", tmp_path], "is a shape without trained weights"),
        (["mixer_nano", tmp_path], "Did you mean mixer_nano_cifar10 or mixer_s32_224 or"),
        (["mixer_nano_cifar10", tmp_path / "none"], "There is no folder"),
        (["mixer_nano_cifar10", tmp_path], "1 of the 1 classes here mean none"),
        (["mixer_nano_cifar10", tmp_path, "--int8", "--device", "cuda"], "--int8 is for the CPU"),
    ):
        given = ["evaluate", *map(str, arguments), "--out", str(tmp_path / "out")]
        assert cli.main(given) == 1
        *found, err = capsys.readouterr().err.splitlines()  # what was found comes before
        assert all(re.match(r"\d+ images of \d+ class", line) for line in found), found
        assert err.startswith("mixer-lite: ") and words in err, err


def test_lab_opens_the_course_or_a_copy(tmp_path, monkeypatch, capsys):
    calls = []

    def run(command, check, env):
        calls.append(command)
        (folder,) = env["JUPYTER_CONFIG_PATH"].split(os.pathsep)[-1:]
        (defaults,) = Path(folder, "labconfig").glob("default_setting_overrides.json")
        assert '"fetchNews": "false"' in defaults.read_text()
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(os, "geteuid", lambda: 1000, raising=False)
    assert cli.main(["lab", "--no-browser"]) == 0
    assert calls[0][:3] == [sys.executable, "-m", "jupyterlab"] and "--no-browser" in calls[0]
    assert calls[0][3].endswith("notebooks") and "--allow-root" not in calls[0]
    assert "--LabApp.default_url=/lab/tree/01_images_as_tokens.ipynb" in calls[0]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lab", "--no-browser", "--port", "9000"]) == 0
    assert calls.pop()[-3:] == ["--no-browser", "--port", "9000"] and not Path("9000").exists()
    copy = tmp_path / "mine"
    assert cli.main(["lab", str(copy)]) == 0
    assert calls[1][3] == f"--notebook-dir={copy}"
    assert (copy / "01_images_as_tokens.ipynb").exists()
    (copy / "01_images_as_tokens.ipynb").write_text("my work")
    assert cli.main(["lab", str(copy)]) == 0  # a second call never overwrites
    assert (copy / "01_images_as_tokens.ipynb").read_text() == "my work"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("option", ["--no-browser", "--ip=0.0.0.0"])
def test_lab_as_root_answers_on_this_machine_alone_and_says_so(monkeypatch, capsys, option):
    calls = []
    monkeypatch.setattr(os, "geteuid", lambda: 0, raising=False)
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(subprocess, "run", lambda command, **_: calls.append(command) or done)
    assert cli.main(["lab", option]) == 0
    asked = option.startswith("--ip")
    assert "--allow-root" in calls[0] and calls[0][-1] == option
    assert ("--ServerApp.ip=127.0.0.1" in calls[0]) != asked
    assert ("127.0.0.1 alone" in capsys.readouterr().out) != asked


def test_train_writes_weights_that_load(tmp_path, monkeypatch, capsys):
    images, labels = ml.datasets.cifar10_sample()
    data = ml.datasets.Cifar10(images, labels, images, labels)
    monkeypatch.setattr("mixer_lite.datasets.cifar10", lambda file=None: data)
    assert cli.main(["train", "mixer_pico_cifar10", "--epochs", "2", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "epoch 1" in out
    model = ml.load_checkpoint(tmp_path / "weights.safetensors")
    assert model.num_blocks == 4
    top = ml.predict(model, list(images), top_k=1)
    share = sum(p[0].index == label for p, label in zip(top, labels, strict=True)) / 500
    assert f"Accuracy on the 500 test images: {share:.2%}." in out


def test_train_starts_from_bundled_weights_and_from_a_file(tmp_path, capsys):
    images, labels = cifar10_sample()
    for image, label, i in zip(images[:60:2], labels[:60:2].tolist(), range(30), strict=True):
        for split in ("train", "test"):
            folder = tmp_path / split / CIFAR10_CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    names = sorted({CIFAR10_CLASSES[label] for label in labels[:60:2].tolist()})
    still = [f"--set={part}_lr=0" for part in ("channel", "token", "other")]
    arguments = ["train", "mixer_nano_cifar10", "--data", str(tmp_path), "--epochs", "2", *still]
    arguments += ["--set", "batch_size=15", "--start-from"]
    once, twice = tmp_path / "once", tmp_path / "twice"
    assert cli.main([*arguments, "mixer_nano_cifar10", "--out", str(once)]) == 0
    assert cli.main([*arguments, str(once / "weights.safetensors"), "--out", str(twice)]) == 0
    nano = ml.load_pretrained("mixer_nano_cifar10")
    for run in (once, twice):
        model = load_checkpoint(run / "weights.safetensors")
        assert torch.equal(
            model.blocks[3].mlp_tokens.fc1.weight, nano.blocks[3].mlp_tokens.fc1.weight
        )
        # They see images as those weights have learned to, not by the new images' own statistics.
        assert (model.config.mean, model.config.std) == (nano.config.mean, nano.config.std)
        assert list(model.config.class_names) == names
    capsys.readouterr()
    folder = tmp_path / "again"  # the folder of a run stands for its weights
    assert cli.main([*arguments, str(once), "--out", str(folder)]) == 0
    for given, words in (
        ("mixer_nano_cifar11", "Did you mean"),
        ("weights.pth", "There is no file weights.pth: give one of weights, or a name that"),
        ("mixer_grid16_cifar10", "The weights to start from have other sizes"),
    ):
        capsys.readouterr()
        assert cli.main([*arguments, given, "--out", str(tmp_path / "none")]) == 1
        assert words in capsys.readouterr().err


def test_train_on_more_images_than_memory_takes_gives_the_same_weights(tmp_path, monkeypatch):
    for i, image in enumerate(cifar10_sample()[0][:60]):
        folder = tmp_path / "train" / ("even", "odd")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    arguments = ["train", "mixer_femto_cifar10", "--data", str(tmp_path), "--epochs", "2"]
    arguments += ["--set", "batch_size=20", "--out"]
    here, disk = tmp_path / "here", tmp_path / "disk"
    assert cli.main([*arguments, str(here)]) == 0
    monkeypatch.setattr("psutil.virtual_memory", lambda: types.SimpleNamespace(available=1e5))
    assert cli.main([*arguments, str(disk)]) == 0
    one, two = (load_file(run / "weights.safetensors") for run in (here, disk))
    assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)
    (file,) = disk.glob("train.*.images")
    assert file.stat().st_size == 60 * 3 * 32 * 32 and not list(here.glob("*.images"))


def test_test_images_are_prepared_once(tmp_path, monkeypatch, capsys):
    # A model whose preprocessing cuts a margin off, and pictures whose class the margin shows.
    square = np.full((40, 40, 3), 128, dtype=np.uint8)
    for i in range(40):
        for split in ("train", "test"):
            folder = tmp_path / split / ("dark", "light")[i % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture = square.copy()
            picture[4:36, 4:36] = 255 * (i % 2)  # a crop to 0.8 leaves this: 32 x 32 pixels
            picture[5:35, 5:35] = 128  # of which the outermost tell the class
            Image.fromarray(picture).save(folder / f"{i}.png")
    start = ml.create_model("mixer_femto_cifar10")
    start.config = replace(start.config, crop=0.8)
    ml.save_checkpoint(start, tmp_path / "start.safetensors")
    out = tmp_path / "run"
    arguments = ["train", "mixer_femto_cifar10", "--data", str(tmp_path), "--epochs", "6", "--out"]
    arguments += [str(out), "--set=batch_size=10"]
    arguments += ["--start-from", str(tmp_path / "start.safetensors")]
    arguments += [f"--set={choice}=0" for choice in ("shift", "auto_augment", "cutmix")]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    model = load_checkpoint(out / "weights.safetensors")
    paths = sorted((tmp_path / "test").rglob("*.png"))
    right = [p[0].label == path.parent.name for p, path in
             zip(ml.predict(model, paths, top_k=1), paths, strict=True)]  # fmt: skip
    assert sum(right) == 40 and "Accuracy on the 40 test images: 100.00%." in said


def test_train_stopped_by_hand_goes_on(tmp_path, monkeypatch, capsys):
    images, labels = ml.datasets.cifar10_sample()
    data = ml.datasets.Cifar10(images[:100], labels[:100], images[:50], labels[:50])
    monkeypatch.setattr("mixer_lite.datasets.cifar10", lambda file=None: data)
    arguments = ["train", "mixer_pico_cifar10", "--epochs", "2", "--set", "batch_size=20"]
    assert cli.main([*arguments, "--out", str(tmp_path / "whole")]) == 0
    step = training.steps.train_step

    def third(*given):
        loss = step(*given)
        taken.append(loss)
        if len(taken) == 3:
            signal.raise_signal(signal.SIGINT)
        return loss

    taken = []
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr("mixer_lite.training.steps.train_step", third)
        assert cli.main([*arguments, "--out", str(tmp_path / "parts")]) == 130
    assert len(taken) == 3 and signal.getsignal(signal.SIGINT) is before
    assert "stopped; the same command goes on from here" in capsys.readouterr().err
    assert cli.main([*arguments, "--out", str(tmp_path / "parts")]) == 0
    whole, parts = (load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "parts"))
    assert all(torch.equal(whole[k], parts[k]) for k in whole)


def test_train_on_a_data_set_of_the_hub(tmp_path, monkeypatch, capsys):
    images, labels = cifar10_sample()
    files = []
    for image in images[:60]:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "png")
        files.append(file.getvalue())
    names = list(CIFAR10_CLASSES)
    arguments = ["train", "mixer_femto_cifar10", "--data", "hf:somebody/cifar10", "--epochs", "2"]
    for splits, told in (
        (("train", "test"), "Accuracy on the 60 test images"),
        (("train",), "The split test of hf:somebody/cifar10 could not be loaded"),
    ):
        stand_in = data_sets(files, labels[:60].tolist(), names, splits)
        monkeypatch.setitem(sys.modules, "datasets", stand_in)
        assert cli.main([*arguments, "--set", "batch_size=20", "--out", str(tmp_path / told)]) == 0
        said = capsys.readouterr()
        assert told in said.out + said.err
        model = load_checkpoint(tmp_path / told / "weights.safetensors")
        assert model.config.class_names == CIFAR10_CLASSES
        assert "trained on hf:somebody/cifar10" in model.config.source
        pixels = images[:60].double() / 255
        assert model.config.mean == pytest.approx(pixels.mean((0, 2, 3)).tolist())
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert cli.main([*arguments, "--out", str(tmp_path / "none")]) == 1
    assert "needs the package datasets: pip install datasets" in capsys.readouterr().err


def test_train_says_in_one_sentence_what_is_wrong(tmp_path, capsys):
    both, other = (("a/train", "cat"), ("a/train", "hen")), (("a/test", "dog"), ("b/train", "cat"))
    for split, name in (*both, *other):
        (tmp_path / split / name).mkdir(parents=True)
        if split != "b/train":
            Image.new("RGB", (9, 9)).save(tmp_path / split / name / "a.png")
    for arguments, words in (
        (["mixer_nanno_cifar10"], "Did you mean mixer_nano_cifar10"),
        (["--set", "clipping=1"], "Did you mean clip"),
        (["--data", tmp_path / "none"], "There is no folder"),
        (["--data", tmp_path / "b"], "b/train holds no folders of images; there are none in cat"),
        (
            ["--data", tmp_path / "a"],
            "a tests other classes than it trains: 1 of the 1 classes here mean none",
        ),
    ):
        assert cli.main(["train", *map(str, arguments), "--out", str(tmp_path / "out")]) == 1
        *found, err = capsys.readouterr().err.splitlines()  # what was found comes before
        assert all(re.match(r"\d+ images of \d+ class", line) for line in found), found
        assert err.startswith("mixer-lite: ") and words in err, err


def test_options_out_of_their_range_are_a_sentence(tmp_path, capsys, monkeypatch):
    images, labels = torch.zeros(40, 3, 32, 32, dtype=torch.uint8), torch.arange(40) % 10
    monkeypatch.setattr(
        "mixer_lite.datasets.cifar10", lambda **_: Cifar10(images, labels, images, labels)
    )
    (tmp_path / "file").write_text("x", encoding="utf-8")
    train = ["train", "mixer_pico_cifar10", "--out", str(tmp_path / "run")]
    for argv, words in (
        ([*train, "--holdout", "40"], "holdout must be 0 images or more and fewer than all 40"),
        ([*train, "--holdout", "-1"], "holdout must be 0 images or more"),
        ([*train, "--seed", str(2**64)], "seed must have 64 bits at most"),
        ([*train, "--epochs", "0"], "epochs must be 1 or more, not 0"),
        ([*train, "--save-every", "-1"], "save_every must be 0 seconds or more, not -1"),
        ([*train, "--save-every", "nan"], "save_every must be 0 seconds or more, not nan"),
        (["teacher", "--epochs", "0", *train[2:]], "epochs must be 1 or more"),
        (["teacher", "--holdout", "41", *train[2:]], "fewer than all 40 images, not 8 and 41"),
        (["evaluate", "mixer_nano_cifar10", str(tmp_path), "--out", str(tmp_path / "file")],
         "is a file: give a folder for the predictions"),
        (["evaluate", "mixer_nano_cifar10", str(tmp_path), "--split", "test"],
         f"{tmp_path} is a folder, and only an hf: data set has a split 'test': leave split out"),
    ):  # fmt: skip
        assert cli.main(argv) == 1
        said = capsys.readouterr().err
        assert words in said and said.count("\n") == 1, said
