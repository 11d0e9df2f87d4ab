"""The convolutional teacher, and a Mixer that learns from one."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from short_runs import SMALL, coloured_squares

from mixer_lite import cli
from mixer_lite.datasets import Cifar10, cifar10_sample
from mixer_lite.model import ModelConfig
from mixer_lite.specs import CIFAR10_CLASSES, create_model
from mixer_lite.training.loop import train
from mixer_lite.training.measures import normalize
from mixer_lite.training.recipe import Recipe, init_weights
from mixer_lite.training.runs import load_state, save_state
from mixer_lite.training.teacher import (
    ConvTeacher,
    is_teacher,
    load_teacher,
    measure_statistics,
    train_teacher,
    whiten,
)
from mixer_lite.training.workers import Workers, distillation
from mixer_lite.weights.checkpoints import read_file, save_checkpoint

FAST = dict(epochs=3, batch_size=32, widths=(8, 16, 16), holdout=32, seed=1)
CONFIG = ModelConfig("conv_teacher", 32, class_names=CIFAR10_CLASSES)


@pytest.fixture(scope="module")
def data():
    return coloured_squares()


@pytest.fixture(scope="module")
def taught(data, tmp_path_factory):
    """A trained teacher, and its folder."""
    out = tmp_path_factory.mktemp("teacher")
    rows = []
    return train_teacher(out, report=rows.append, **FAST, **data), out, rows


def same(a, b):
    return all(torch.equal(v, w) for v, w in zip(
        a.state_dict().values(), b.state_dict().values(), strict=True))  # fmt: skip


def test_whitened_patches_are_independent_and_equally_strong():
    images, _ = cifar10_sample()
    x = normalize(images, (0.5,) * 3, (0.25,) * 3)
    conv = torch.nn.Conv2d(3, 32, 3)
    whiten(conv, x)
    with torch.no_grad():
        answers = conv(x).permute(1, 0, 2, 3).flatten(1).numpy()  # (32, patches)
    assert np.allclose(answers[:16], -answers[16:], atol=1e-5)
    found = np.cov(answers[:16])
    # The damping takes most from the weakest direction.
    assert np.abs(found - np.diag(np.diag(found))).max() < 1e-3
    assert 0.9 < np.diag(found).min() <= np.diag(found).max() < 1.001
    # They are the strongest directions of the patches, which numpy cuts and decomposes itself.
    patches = np.lib.stride_tricks.sliding_window_view(x.numpy(), (3, 3), axis=(2, 3))
    patches = patches.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 27)
    values, vectors = np.linalg.eigh(np.cov(patches.T))
    kernels = conv.weight.detach().numpy()[:16].reshape(16, 27)
    weakest = np.sqrt(np.abs(kernels @ vectors[:, :11]).max())
    assert weakest < 0.1 and values[11] > values[10]
    assert not any(p.requires_grad for p in conv.parameters())


def test_statistics_are_those_of_the_images():
    torch.manual_seed(0)
    model, x = ConvTeacher(CONFIG, (8, 8, 8)), torch.randn(250, 3, 32, 32)
    measure_statistics(model, x)
    first = model.stages[0]
    with torch.no_grad():
        into = torch.nn.functional.gelu(model.whiten(x))
        into = torch.nn.functional.max_pool2d(first.conv1(into), 2)
    assert torch.allclose(first.norm1.running_mean, into.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(first.norm1.running_var, into.var((0, 2, 3)), atol=1e-5)
    assert not model.training


def test_teacher_learns_and_goes_on_as_if_there_had_been_no_stop(taught, data, tmp_path):
    model, out, rows = taught
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[-1]["held_out_accuracy"] > 0.5  # chance is 0.1
    train_teacher(tmp_path, stop_after=1, **FAST, **data)
    assert not (tmp_path / "teacher.safetensors").exists()
    assert same(train_teacher(tmp_path, **FAST, **data), model)
    with pytest.raises(ValueError, match=r"other settings \(lr 0.2, not 0.1\)"):
        train_teacher(tmp_path, lr=0.1, **FAST, **data)
    with pytest.raises(ValueError, match="fewer than one batch of 500"):
        train_teacher(tmp_path, **(FAST | dict(batch_size=500)), **data)
    assert (out / "log.csv").read_text().startswith("epoch,loss,held_out_accuracy,seconds")


def test_a_teacher_is_read_back_whole(taught, tmp_path):
    model, out, _ = taught
    again = load_teacher(out / "teacher.safetensors")
    assert same(again, model) and again.config == model.config and not again.training
    assert is_teacher(out / "teacher.safetensors")
    save_checkpoint(create_model("mixer_femto_cifar10"), tmp_path / "mixer.safetensors")
    assert not is_teacher(tmp_path / "mixer.safetensors")
    with pytest.raises(ValueError, match=r"does not hold a teacher: give the teacher\.safetensors"):
        load_teacher(tmp_path / "mixer.safetensors")


@pytest.mark.parametrize("widths", [[10**6] * 3, [30_000, 30_000], [1] * 10**6, "wide", [2.5]])
def test_widths_that_a_file_only_claims_are_not_made(taught, tmp_path, monkeypatch, widths):
    def made(*_):
        raise AssertionError("a teacher was begun")

    state, about = read_file(taught[1] / "teacher.safetensors")
    about["widths"] = json.dumps(widths)
    save_file(state, tmp_path / "teacher.safetensors", about)
    monkeypatch.setattr("mixer_lite.training.teacher.ConvTeacher", made)
    with pytest.raises(ValueError, match="does not hold a teacher"):
        load_teacher(tmp_path / "teacher.safetensors")


def test_distillation_is_the_divergence_of_the_classes_by_hand():
    a, b = np.random.default_rng(0).normal(size=(2, 6, 5))
    wanted = 0.0
    for student, teacher in zip(a / 3, b / 3, strict=True):
        p, q = (np.exp(z) / np.exp(z).sum() for z in (student, teacher))
        wanted += sum(q[k] * math.log(q[k] / p[k]) for k in range(5)) / 6
    got = distillation(torch.tensor(a), torch.tensor(b), 3.0)
    assert got.item() == pytest.approx(9 * wanted, rel=1e-6)
    assert distillation(torch.tensor(a), torch.tensor(a), 3.0).item() == pytest.approx(0, abs=1e-9)


def test_the_gradient_with_a_teacher_is_that_of_the_divergence():
    torch.manual_seed(0)
    model, teacher = (create_model("mixer_femto_cifar10", num_blocks=2) for _ in range(2))
    for net in (model, teacher):
        init_weights(net, Recipe())
        torch.nn.init.normal_(net.head.weight)
    x, y = torch.randn(21, 3, 32, 32), torch.zeros(21, 10)
    loss = distillation(model(x), teacher(x), 2.0)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    with Workers(model, part=8, teacher=teacher, temperature=2.0) as workers:
        got = workers.gradient(x, y, 0.1)
    assert got == pytest.approx(loss.item(), abs=1e-5)
    for p, g in zip(model.parameters(), wanted, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-5)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_model_learns_its_teachers_classes_and_no_labels(taught, data, tmp_path):
    teacher, _, _ = taught
    recipe, rows = replace(SMALL, epochs=6, cutmix=0.0, auto_augment=0.0), []
    wrong = dict(data, labels=torch.arange(len(data["labels"])) % 2)  # says nothing of the images
    kw = dict(recipe=recipe, teacher=teacher.train(), seed=3, **wrong)
    model = train("mixer_femto_cifar10", tmp_path / "run", report=rows.append, **kw)
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    config = teacher.config
    x = normalize(data["images"], config.mean, config.std)
    with torch.no_grad():
        answers, wanted = (net.eval()(x).argmax(1) for net in (model, teacher))
    assert (answers == wanted).float().mean() > 0.6  # chance is 0.1
    assert "taught by a network (ConvTeacher)" in model.config.source
    # Interrupted it goes on to the same weights; another teacher is another run.
    train("mixer_femto_cifar10", tmp_path / "parts", stop_after=2, **kw)
    with pytest.raises(ValueError, match=r"other settings \(another teacher\)"):
        train("mixer_femto_cifar10", tmp_path / "parts", **(kw | dict(teacher=None)))
    assert same(train("mixer_femto_cifar10", tmp_path / "parts", **kw), model)


def test_a_teacher_of_other_images_or_classes_is_refused(data, tmp_path):
    def begin(teacher):
        train("mixer_femto_cifar10", tmp_path, recipe=SMALL, teacher=teacher, **data)

    with pytest.raises(ValueError, match=r"The teacher's mean is \(0.5, 0.5, 0.5\), and that of"):
        begin(create_model("mixer_femto_cifar10"))
    with pytest.raises(ValueError, match=r"answers one image with \(1, 7\), not \(1, 10\)"):
        begin(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 7)))
    with pytest.raises(ValueError, match="does not take images of 32 pixels"):
        begin(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 10)))


def test_command_trains_a_teacher_and_a_model_from_it(tmp_path, monkeypatch, capsys):
    images, labels = (t.repeat_interleave(2, 0) for t in cifar10_sample())
    monkeypatch.setattr(
        "mixer_lite.datasets.cifar10",
        lambda file=None: Cifar10(images, labels, images[:50], labels[:50]),
    )
    out = tmp_path / "teacher"
    assert cli.main(["teacher", "--out", str(out), "--epochs", "1"]) == 0
    printed = capsys.readouterr().out
    assert "epoch 1, loss" in printed and "Accuracy on the 50 test images" in printed
    command = ["train", "mixer_femto_cifar10", "--out", str(tmp_path / "run"), "--epochs", "1"]
    command += ["--set", "batch_size=500", "--teacher", str(out / "teacher.safetensors")]
    assert cli.main(command) == 0
    assert "Accuracy on the 50 test images" in capsys.readouterr().out
    assert load_state(tmp_path / "run", {})  # a finished run
    # A Mixer may teach another, by file or by name.
    command[command.index("--teacher") + 1] = "mixer_nano_cifar10"
    command[command.index("--out") + 1] = str(tmp_path / "other")
    assert cli.main(command) == 0


def test_runs_of_an_older_recipe_go_on(tmp_path):
    recipe = asdict(Recipe())
    older = {k: v for k, v in recipe.items() if k not in ("average_share", "teacher_temperature")}
    save_state(tmp_path, dict(name="a", recipe=older), dict(step=3))
    assert load_state(tmp_path, dict(name="a", recipe=recipe, teacher=None)) == dict(step=3)
    with pytest.raises(ValueError, match=r"other settings \(average_share 0.0, not 0.3\)"):
        load_state(tmp_path, dict(name="a", recipe=recipe | dict(average_share=0.3)))


def test_the_average_is_the_mean_of_the_last_steps_weights(data, tmp_path):
    seen = []
    recipe = replace(SMALL, average_share=0.4)  # 15 steps: of the last six

    def watch(moment):
        seen.append({k: v.clone() for k, v in moment.model.state_dict().items()})
        live.append(
            torch.load(tmp_path / "whole/checkpoint.pt", weights_only=True)["state"]["model"]
        )

    live = []
    kw = dict(recipe=recipe, seed=4, **data)
    model = train(
        "mixer_femto_cifar10", tmp_path / "whole", save_every=0.0, **kw,
        watch=lambda m: bool(m.step > 1 and watch(m)),
    )  # fmt: skip
    # What a checkpoint holds is saved after the watching: live[i] is of the step before.
    last = train("mixer_femto_cifar10", tmp_path / "plain", seed=4, recipe=SMALL, **data)
    steps = [*live[-5:], last.state_dict()]
    for name, value in model.state_dict().items():
        wanted = torch.stack([state[name] for state in steps]).double().mean(0)
        assert torch.allclose(value.double(), wanted, atol=1e-6), name
    assert not same(model, last)
    # Before there is something to average, the model itself is what is measured.
    assert all(torch.equal(seen[3][k], live[4][k]) for k in seen[3])
    train("mixer_femto_cifar10", tmp_path / "parts", stop_after=2, **kw)
    train("mixer_femto_cifar10", tmp_path / "parts", watch=lambda m: m.step == 13, **kw)
    assert same(train("mixer_femto_cifar10", tmp_path / "parts", **kw), model)
    with pytest.raises(ValueError, match="two ways to average"):
        replace(recipe, ema=0.9)


def test_the_kept_weights_lie_part_of_the_way_back_to_the_start(data, tmp_path):
    start = train("mixer_femto_cifar10", tmp_path / "start", recipe=SMALL, **data)
    kw = dict(start=start, seed=2, **data)
    end = train("mixer_femto_cifar10", tmp_path / "end", recipe=SMALL, **kw)
    back = replace(SMALL, start_share=0.25)
    train("mixer_femto_cifar10", tmp_path / "back", recipe=back, stop_after=1, **kw)
    for _ in range(2):  # also when the same call finds the run finished
        kept = train("mixer_femto_cifar10", tmp_path / "back", recipe=back, **kw)
        for ours, a, b in zip(kept.parameters(), start.parameters(), end.parameters(), strict=True):
            assert torch.allclose(ours, a / 4 + 3 * b / 4, atol=1e-6)
    snapshots = load_file(tmp_path / "back/snapshots.safetensors")
    assert torch.equal(snapshots["fc1"][-1, 0], kept.blocks[0].mlp_tokens.fc1.weight.half())
    # A head that is new has no start to go back to.
    names = list("abcdefghij")
    other = train("mixer_femto_cifar10", tmp_path / "a", recipe=back, class_names=names, **kw)
    whole = train("mixer_femto_cifar10", tmp_path / "b", recipe=SMALL, class_names=names, **kw)
    assert torch.equal(other.head.weight, whole.head.weight)
    assert not torch.equal(other.stem.weight, whole.stem.weight)
    with pytest.raises(
        ValueError, match="start_share needs trained weights to start from: give start"
    ):
        train("mixer_femto_cifar10", tmp_path / "none", recipe=back, **data)
