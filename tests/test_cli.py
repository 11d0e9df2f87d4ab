"""The command line, as it is typed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mixer_lite as ml
from mixer_lite import cli


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


def test_lab_opens_the_course_or_a_copy(tmp_path, monkeypatch):
    calls = []

    def run(command, check):
        calls.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    assert cli.main(["lab", "--no-browser"]) == 0
    assert calls[0][:3] == [sys.executable, "-m", "jupyterlab"] and "--no-browser" in calls[0]
    assert calls[0][3].endswith("notebooks")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["lab", "--no-browser", "--port", "9000"]) == 0
    assert calls.pop()[4:] == ["--no-browser", "--port", "9000"] and not Path("9000").exists()
    copy = tmp_path / "mine"
    assert cli.main(["lab", str(copy)]) == 0
    assert calls[1][3] == f"--notebook-dir={copy}"
    assert (copy / "01_images_as_tokens.ipynb").exists()
    (copy / "01_images_as_tokens.ipynb").write_text("my work")
    assert cli.main(["lab", str(copy)]) == 0  # a second call never overwrites
    assert (copy / "01_images_as_tokens.ipynb").read_text() == "my work"


def test_train_writes_weights_that_load(tmp_path, monkeypatch, capsys):
    images, labels = ml.datasets.cifar10_sample()
    data = ml.datasets.Cifar10(images, labels, images, labels)
    monkeypatch.setattr("mixer_lite.datasets.cifar10", lambda: data)
    assert cli.main(["train", "mixer_pico_cifar10", "--epochs", "1", "--out", str(tmp_path)]) == 0
    assert "epoch 1" in capsys.readouterr().out
    model = ml.load_checkpoint(tmp_path / "weights.safetensors")
    assert model.num_blocks == 4
