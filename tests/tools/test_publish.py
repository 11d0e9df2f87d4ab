"""The tool that turns a finished run into bundled weights and their card."""

import hashlib
import importlib.util
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from short_runs import SMALL

import mixer_lite as ml
from mixer_lite._support.tables import read_table
from mixer_lite.datasets import Cifar10, cifar10_sample
from mixer_lite.prediction import logits
from mixer_lite.training.calibration import best_temperature
from mixer_lite.training.loop import train
from mixer_lite.training.measures import normalize
from mixer_lite.training.teacher import FILE, ConvTeacher, save_teacher, train_teacher

ROOT = Path(__file__).resolve().parents[2]
NAME = "mixer_pico_cifar10"
RECIPE = replace(SMALL, epochs=2, snapshots=5)


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """The tool, on a project of its own and 500 images."""
    spec = importlib.util.spec_from_file_location("publish", ROOT / "tools/publish.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    images, labels = cifar10_sample()
    monkeypatch.setattr(
        "mixer_lite.datasets.cifar10", lambda: Cifar10(images, labels, images, labels)
    )
    monkeypatch.setattr(tool, "ROOT", tmp_path / "project")
    (tmp_path / "project/data").mkdir(parents=True)
    shutil.copy(ROOT / "data/README.md", tmp_path / "project/data/README.md")
    return tool


def run(folder, images=160, **settings):
    pixels, labels = cifar10_sample()
    given = dict(recipe=RECIPE) | settings
    return train(NAME, folder, images=pixels[:images], labels=labels[:images], **given)


def test_a_run_with_a_teacher_says_so_and_held_out_images_choose_the_temperature(publish, tmp_path):
    data, (images, labels) = publish.ROOT / "data", cifar10_sample()
    run(tmp_path / "first")
    publish.main(tmp_path / "first", "a machine")
    old = json.loads((data / f"{NAME}.json").read_text(encoding="utf-8"))
    teacher = train_teacher(
        tmp_path / "teacher", images=images, labels=labels, epochs=1, batch_size=250,
        widths=(8, 8, 8),
    )  # fmt: skip
    start = ml.load_checkpoint(data / f"{NAME}.safetensors")
    short = replace(RECIPE, epochs=1, batch_size=128, auto_augment=0.0, start_share=0.3)
    run(tmp_path / "second", images=500, recipe=short, start=start, teacher=teacher, holdout=32,
        seed=5)  # fmt: skip
    with pytest.raises(SystemExit, match="had a teacher: give its folder"):
        publish.main(tmp_path / "second", "a machine")
    publish.main(tmp_path / "second", "a machine", tmp_path / "teacher")
    card = json.loads((data / f"{NAME}.json").read_text(encoding="utf-8"))
    page = (data / f"{NAME}.md").read_text(encoding="utf-8")
    assert f"without one: {old['test_accuracy']:.2%}" in page
    assert "32 of the images were held out" in page and "30% of the straight way back" in page
    assert "--teacher runs/teacher/teacher.safetensors --holdout 32" in page
    with torch.no_grad():
        x = normalize(images, teacher.config.mean, teacher.config.std)
        right = (teacher(x).argmax(1) == labels).float().mean().item()
    assert card["teacher"]["test_accuracy"] == pytest.approx(right, abs=0.005)
    shipped = ml.load_checkpoint(data / f"{NAME}.safetensors")
    # The test images with even numbers choose the temperature, the others measure it.
    said = logits(shipped, images)
    wanted = best_temperature(said[::2], labels[::2])
    found = F.cross_entropy(said[1::2] / shipped.config.temperature, labels[1::2]).item()
    assert card["calibration"]["at the temperature"]["loss"] == pytest.approx(found, abs=1e-3)
    assert card["temperature"] == shipped.config.temperature == pytest.approx(wanted, rel=0.02)
    assert (
        len(card["photographs"]) == 13 - 1
        and len(card["calibration"]["as it is"]["accuracy"]) == 15
    )
    (tmp_path / "other").mkdir()
    save_teacher(ConvTeacher(teacher.config, (8, 8, 8)), tmp_path / "other" / FILE)
    with pytest.raises(SystemExit, match="does not hold the teacher of"):
        publish.main(tmp_path / "second", "a machine", tmp_path / "other")


def test_a_run_and_one_that_goes_on_from_it(publish, tmp_path, capsys):
    data, files = publish.ROOT / "data", {}
    first, second = tmp_path / "first", tmp_path / "second"
    trained = run(first, seed=3)
    publish.main(first, "one machine")
    old = json.loads((data / f"{NAME}.json").read_text(encoding="utf-8"))
    shipped = ml.load_checkpoint(data / f"{NAME}.safetensors")
    for a, b in zip(trained.parameters(), shipped.parameters(), strict=True):
        assert torch.equal(a.half().float(), b)
    out = ml.predict(shipped, list(cifar10_sample()[0]), top_k=1)
    right = sum(p[0].index == y for p, y in zip(out, cifar10_sample()[1].tolist(), strict=True))
    assert old["test_accuracy"] == old["slice_accuracy"] == right / 500
    assert "earlier" not in old and old["seed"] == 3 and old["machine"] == "one machine"
    before = load_file(data / f"{NAME}_snapshots.safetensors")

    run(second, start=shipped, recipe=replace(RECIPE, epochs=3, snapshots=3, token_lr=0.001))
    publish.main(second, "another")
    card = json.loads((data / f"{NAME}.json").read_text(encoding="utf-8"))
    assert card["earlier"] == [
        {
            k: old[k]
            for k in ("recipe", "seed", "bfloat16", "holdout", "machine", "training_hours", "torch")
        }
        | dict(test_accuracy=old["test_accuracy"])
    ]
    log = read_table(data / f"{NAME}_log.csv")
    assert [(row["epoch"], row["steps"]) for row in log] == [
        (str(i), str(i * (160 // RECIPE.batch_size))) for i in range(1, 6)
    ]
    kept, new = (load_file(path) for path in (data / f"{NAME}_snapshots.safetensors",
                                              second / "snapshots.safetensors"))  # fmt: skip
    steps = before["step"].tolist()
    # As many as before: of the seven, the second last and the one two before it have gone.
    assert len(steps) == len(kept["step"]) == 5 and len(new["step"]) == 3
    both = [*steps, *(steps[-1] + step for step in new["step"].tolist()[1:])]
    stay = [0, 1, 2, 4, 6]
    assert kept["step"].tolist() == [both[i] for i in stay]
    for key in ("fc1", "fc2"):
        assert torch.equal(kept[key], torch.cat([before[key], new[key][1:]])[stay])
    page = (data / f"{NAME}.md").read_text(encoding="utf-8")
    assert "from random weights, seed 3, with `mixer-lite train mixer_pico_cifar10 " in page
    assert f"on one machine, PyTorch {old['torch']}, to {old['test_accuracy']:.2%}; then" in page
    assert "--start-from run1/weights.safetensors" in page and "token_lr = 0.001" in page
    rows = (data / "README.md").read_text(encoding="utf-8").splitlines()
    listed = {row.split(" | ")[0][2:]: row.split(" | ")[1] for row in rows if f"| {NAME}" in row}
    files = {path.name: path for path in data.glob(f"{NAME}*")}
    assert listed == {n: hashlib.sha256(p.read_bytes()).hexdigest() for n, p in files.items()}
    assert len(files) == 5
    card = json.loads((data / f"{NAME}.json").read_text(encoding="utf-8"))
    assert card["sha256"] == listed[f"{NAME}.safetensors"]

    # Many new ones: still no more. And where the first run's are not kept, none are.
    again = ml.load_checkpoint(data / f"{NAME}.safetensors")
    run(tmp_path / "third", start=again, recipe=replace(RECIPE, epochs=4, snapshots=20))
    publish.main(tmp_path / "third", "a third")
    third = load_file(data / f"{NAME}_snapshots.safetensors")["step"].tolist()
    assert len(third) == 5 and third[0] == 0 and third[-1] == 9 * (160 // RECIPE.batch_size)
    (data / f"{NAME}_snapshots.safetensors").unlink()
    again = ml.load_checkpoint(data / f"{NAME}.safetensors")
    run(tmp_path / "fourth", start=again)
    publish.main(tmp_path / "fourth", "a fourth")
    assert not (data / f"{NAME}_snapshots.safetensors").exists()
    assert re.findall(r"test accuracy [\d.]+%", capsys.readouterr().out)


def test_what_is_not_published(publish, tmp_path):
    run(tmp_path / "half", stop_after=1)
    with pytest.raises(SystemExit, match="is not finished: 1 epochs are done"):
        publish.main(tmp_path / "half", "a machine")
    first = run(tmp_path / "first")
    publish.main(tmp_path / "first", "a machine")
    run(tmp_path / "on", start=first)  # in float32, and the bundled file has half of the bits
    with pytest.raises(SystemExit, match=r"on did not start from what is now in .*mixer_pico"):
        publish.main(tmp_path / "on", "a machine")
