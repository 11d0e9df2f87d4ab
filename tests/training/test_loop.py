"""The recipe: its step against one written by hand, interruption, determinism, that it learns."""

import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import get_ident

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from short_runs import SMALL, coloured_squares

from mixer_lite import cli
from mixer_lite.datasets import CIFAR10_MEAN, CIFAR10_STD, cifar10_sample
from mixer_lite.model import MlpMixer
from mixer_lite.specs import create_model
from mixer_lite.training import steps
from mixer_lite.training.augmentation import augmentation
from mixer_lite.training.loop import train
from mixer_lite.training.measures import accuracy, normalize, snapshot_steps
from mixer_lite.training.processes import processes
from mixer_lite.training.recipe import Recipe, init_weights, make_optimizers
from mixer_lite.training.runs import Diverged
from mixer_lite.training.steps import train_step
from mixer_lite.training.workers import Workers
from mixer_lite.weights.checkpoints import load_checkpoint, save_checkpoint, to_timm_state_dict


@pytest.fixture(scope="module")
def data():
    return coloured_squares()


def test_gradient_in_parts_is_the_gradient():
    model = create_model("mixer_pico_cifar10", num_blocks=2)
    init_weights(model, Recipe())
    torch.nn.init.normal_(model.head.weight)
    x, y = torch.randn(21, 3, 32, 32), torch.rand(21, 10).softmax(1)
    loss = torch.nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    with Workers(model, part=8) as workers:
        got = workers.gradient(x, y, 0.1)
    assert abs(got - loss.item()) < 1e-5
    for p, g in zip(model.parameters(), wanted, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-6)


def test_gradient_in_bfloat16_is_the_same_within_its_precision():
    model = create_model("mixer_pico_cifar10", num_blocks=2)
    init_weights(model, Recipe())
    torch.nn.init.normal_(model.head.weight)
    x, y = torch.randn(16, 3, 32, 32), torch.rand(16, 10).softmax(1)
    with Workers(model) as workers:
        workers.gradient(x, y, 0.1)
    exact = torch.cat([p.grad.flatten() for p in model.parameters()])
    with Workers(model, bfloat16=True) as workers:
        workers.gradient(x, y, 0.1)
    half = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    assert (half - exact).norm() / exact.norm() < 0.15


def test_compiled_gradient_is_the_gradient_and_one_thread_compiles(monkeypatch):
    # Traced as always, but no C++ is written, so that no compiler is needed here.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    model = create_model("mixer_pico_cifar10", num_blocks=1)
    init_weights(model, Recipe())
    torch.nn.init.normal_(model.head.weight)
    x, y = torch.randn(21, 3, 32, 32), torch.rand(21, 10).softmax(1)
    with Workers(model, part=4) as workers:
        wanted = workers.gradient(x, y, 0.1)
    grads = [p.grad for p in model.parameters()]
    at_work, together = set(), []

    def watched(x, *args):
        at_work.add(get_ident())
        try:
            together.append((len(x), len(at_work)))
            return Workers._part(workers, x, *args)
        finally:
            at_work.discard(get_ident())

    with Workers(model, part=4, compile=True) as workers:  # five parts of 4 and one of 1
        monkeypatch.setattr(workers, "_part", watched)
        assert abs(workers.gradient(x, y, 0.1) - wanted) < 1e-5
    for p, g in zip(model.parameters(), grads, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-6)
    assert together[:2] == [(4, 1), (1, 1)] and len(together) == 2 + 6


def test_augmentation_keeps_what_the_recipe_leaves_out():
    images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(24) % 10
    none = dict(shift=0, auto_augment=0.0, cutmix=0.0)
    x, y = augmentation(replace(Recipe(), **none), 10)(images, labels)
    assert y.argmax(1).tolist() == labels.tolist() and (y.amax(1) == 1).all()
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(x, images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(x, images, strict=True)]
    assert any(flipped) and any(same)
    assert all(a or b for a, b in zip(flipped, same, strict=True))

    x, _ = augmentation(replace(Recipe(), **none | dict(auto_augment=1.0)), 10)(images, labels)
    kept = [torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(x, images, strict=True)]
    assert not all(kept) and x.dtype == torch.uint8

    _, y = augmentation(replace(Recipe(), **none | dict(cutmix=1.0)), 10)(images, labels)
    assert torch.allclose(y.sum(1), torch.ones(24)) and (y.amax(1) < 1).any()


def test_snapshots_start_at_zero_and_end_at_the_end():
    steps = snapshot_steps(4290, 22)
    assert steps[0] == 0 and steps[-1] == 4290 and len(steps) == 22
    assert steps[2] - steps[1] < steps[-1] - steps[-2]


def test_learns_and_goes_on_after_an_interruption_as_if_there_had_been_none(tmp_path, data):
    rows = []
    kw = dict(recipe=SMALL, holdout=32, seed=5, **data)
    whole = train("mixer_pico_cifar10", tmp_path / "whole", report=rows.append, **kw)
    train("mixer_pico_cifar10", tmp_path / "parts", stop_after=2, **kw)
    assert not (tmp_path / "parts" / "weights.safetensors").exists()
    parts = train("mixer_pico_cifar10", tmp_path / "parts", **kw)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [r["epoch"] for r in rows] == [1, 2, 3]
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["held_out_accuracy"] > 0.3  # chance is 0.1

    one, two = (load_file(tmp_path / d / "snapshots.safetensors") for d in ("whole", "parts"))
    assert one["step"].tolist() == snapshot_steps(3 * 4, 4)
    assert one["fc1"].shape == (4, 4, 64, 64) and one["fc1"].dtype == torch.float16
    assert all(torch.equal(one[k], two[k]) for k in one)
    last = torch.stack([b.mlp_tokens.fc1.weight for b in whole.blocks]).half()
    assert torch.equal(one["fc1"][-1], last)
    saved = load_file(tmp_path / "whole" / "weights.safetensors")
    assert all(torch.equal(saved[k], v) for k, v in whole.state_dict().items())
    assert len((tmp_path / "parts" / "log.csv").read_text().splitlines()) == 4


def test_other_seed_other_weights(tmp_path, data):
    recipe = replace(SMALL, epochs=1)
    a, b = (
        train("mixer_pico_cifar10", tmp_path / str(s), recipe=recipe, seed=s, **data)
        for s in (1, 2)
    )
    assert not torch.equal(a.stem.weight, b.stem.weight)


def test_another_runs_folder_is_refused(tmp_path, data):
    train("mixer_pico_cifar10", tmp_path, recipe=SMALL, stop_after=1, **data)
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        train("mixer_pico_cifar10", tmp_path, recipe=replace(SMALL, token_lr=0.5), **data)
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        train("mixer_pico_cifar10", tmp_path, recipe=SMALL, bfloat16=True, **data)
    with pytest.raises(ValueError, match="fewer than one batch"):
        train("mixer_pico_cifar10", tmp_path, recipe=SMALL, holdout=150, **data)
    with pytest.raises(ValueError, match=r"other settings \(mean .0.49.*, not .0.4, 0.4, 0.4"):
        train("mixer_pico_cifar10", tmp_path, recipe=SMALL, mean=(0.4,) * 3, **data)
    with pytest.raises(ValueError, match=r"\(token_lr 0.004, not 0.5; other images or labels\)"):
        data = data | dict(labels=data["labels"].flip(0))
        train("mixer_pico_cifar10", tmp_path, recipe=replace(SMALL, token_lr=0.5), **data)


def test_a_run_starts_from_the_weights_it_is_given(tmp_path, data):
    # Learning rates of zero leave them as they are, to the last bit.
    still = replace(SMALL, epochs=1, channel_lr=0.0, token_lr=0.0, other_lr=0.0)
    begin = partial(train, "mixer_pico_cifar10", recipe=still)
    first = train("mixer_pico_cifar10", tmp_path / "first", recipe=SMALL, **data)
    again = begin(tmp_path / "again", start=first, seed=7, **data)
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True)
    )
    assert again.config.source.endswith(f"seed 7, from weights {first.config.source}")
    kept = load_file(tmp_path / "again" / "snapshots.safetensors")
    last = load_file(tmp_path / "first" / "snapshots.safetensors")
    assert torch.equal(kept["fc1"][0], last["fc1"][-1])

    # Of the same number of classes with other names nothing is known: their head is new.
    other = begin(tmp_path / "other", start=first, class_names=list("abcdefghij"), **data)
    assert first.head.weight.any() and not other.head.weight.any() and not other.head.bias.any()
    for (name, a), b in zip(first.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b) or name.startswith("head."), name
    few = dict(data, labels=data["labels"] % 3)
    assert begin(tmp_path / "few", start=first, class_names="abc", **few).head.out_features == 3

    with pytest.raises(ValueError, match=r"other settings \(other weights to start from\)"):
        begin(tmp_path / "again", start=other, seed=7, **data)
    with pytest.raises(ValueError, match=r"other settings \(other weights to start from\)"):
        begin(tmp_path / "again", seed=7, **data)
    words = (
        r"other sizes than the model to train \(num_blocks 4 and not 8.*\): "
        r"choose weights of the same sizes, or train mixer_pico_cifar10, which has theirs"
    )
    with pytest.raises(ValueError, match=words):
        train("mixer_nano_cifar10", tmp_path / "nano", start=first, **data)


def test_a_start_brings_its_dialect_and_preprocessing(tmp_path, data, capsys):
    first = create_model("mixer_femto_cifar10", gelu="tanh", norm_eps=1e-5, num_classes=10)
    first.config = replace(
        first.config, mean=(0.3, 0.4, 0.5), std=(0.1, 0.2, 0.3), crop=0.9, resize="opencv",
        interpolation="bilinear", source="made by hand",
    )  # fmt: skip
    kw = dict(recipe=replace(SMALL, epochs=1), start=first, **data)
    model = train("mixer_femto_cifar10", tmp_path / "run", **kw)
    assert (model.gelu, model.norm_eps) == ("tanh", 1e-5)
    for how in ("mean", "std", "crop", "resize", "interpolation"):
        assert getattr(model.config, how) == getattr(first.config, how)
    saved = load_checkpoint(tmp_path / "run" / "weights.safetensors")
    assert saved.config == model.config and saved.gelu == "tanh"
    assert "head starts untrained" not in capsys.readouterr().err
    own = train("mixer_femto_cifar10", tmp_path / "own", mean=(0.5,) * 3, **kw)
    assert own.config.mean == (0.5,) * 3 and own.config.std == (0.1, 0.2, 0.3)
    train("mixer_femto_cifar10", tmp_path / "other", class_names=list("abcdefghij"), **kw)
    assert "The head starts untrained, because the weights to start from name other" in (
        capsys.readouterr().err
    )
    train("mixer_femto_cifar10", tmp_path / "half", **(kw | dict(start=first.bfloat16())))


def test_a_start_goes_on_after_an_interruption_and_is_better_than_none(tmp_path, data):
    begin = partial(train, "mixer_pico_cifar10", recipe=SMALL, **data)
    first = begin(tmp_path / "first")
    kw, rows = dict(start=first, seed=3), []
    whole = begin(tmp_path / "whole", report=rows.append, **kw)
    begin(tmp_path / "parts", stop_after=1, **kw)
    parts = begin(tmp_path / "parts", **kw)
    assert all(
        torch.equal(a, b) for a, b in zip(whole.parameters(), parts.parameters(), strict=True)
    )
    begin(tmp_path / "fresh", report=rows.append, seed=3)
    assert rows[0]["loss"] < rows[len(rows) // 2]["loss"] - 0.1


def test_interrupted_write_leaves_the_old_checkpoint(tmp_path, data, monkeypatch):
    train("mixer_pico_cifar10", tmp_path, recipe=SMALL, stop_after=1, **data)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def breaks(state, file):
        file.write(b"half a file")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", breaks)
    with pytest.raises(KeyboardInterrupt):
        train("mixer_pico_cifar10", tmp_path, recipe=SMALL, stop_after=2, **data)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_watching_sees_every_step_and_a_stop_loses_nothing(tmp_path, data):
    moments = []

    def until(step):
        def watch(moment):
            moments.append(moment)
            return moment.step == step

        return watch

    kw = dict(recipe=SMALL, seed=4, **data)
    whole = train("mixer_pico_cifar10", tmp_path / "whole", **kw)
    for step in (2, 7, 0):  # in the middle of two epochs; the last call goes on to the end
        parts = train("mixer_pico_cifar10", tmp_path / "parts", watch=until(step), **kw)
    for (name, a), b in zip(whole.state_dict().items(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert [m.step for m in moments] == list(range(1, 16))
    assert {m.total for m in moments} == {15}
    assert [m.epoch for m in moments] == [1] * 5 + [2] * 5 + [3] * 5
    assert all(m.loss > 0 and m.seconds > 0 for m in moments) and moments[-1].lr_share == 0
    assert moments[-1].model is parts and len(moments[-1].log) == 3
    assert list(moments[-1].snapshots) == snapshot_steps(15, 4)
    logs = [(tmp_path / d / "log.csv").read_text().splitlines() for d in ("whole", "parts")]
    assert all(a.rpartition(",")[0] == b.rpartition(",")[0] for a, b in zip(*logs, strict=True))


# One step, by hand ------------------------------------------------------------------------------


def newton_schulz(matrix: np.ndarray) -> np.ndarray:
    x = matrix / max(np.linalg.norm(matrix), 1e-7)
    if wide := x.shape[0] <= x.shape[1]:
        x = x.T
    for _ in range(5):  # on columns here, on rows there
        gram = x.T @ x
        x = x @ (3.4445 * np.eye(len(gram)) - 4.7750 * gram + 2.0315 * gram @ gram)
    return x.T if wide else x


def strongest(matrix: np.ndarray, rank: int) -> np.ndarray:
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    flat = sum(np.outer(u[:, i], vt[i]) for i in range(rank))
    return flat * (len(s) / rank) ** 0.5


def test_steps_are_those_of_a_hand_written_reference_in_float64():
    sizes = dict(image_size=16, patch_size=4, num_classes=7, num_blocks=2)
    model = MlpMixer(
        **sizes, hidden_dim=20, tokens_mlp_dim=11, channels_mlp_dim=33
    ).double()  # S = 16
    recipe = Recipe(token_rank=3, clip=0.05, label_smoothing=0.2)
    init_weights(model, recipe)
    torch.nn.init.normal_(model.head.weight, std=0.3)
    theirs = timm.models.MlpMixer(
        img_size=16, patch_size=4, num_classes=7, num_blocks=2, embed_dim=20, mlp_ratio=(0.55, 1.65)
    ).double()
    theirs.load_state_dict(to_timm_state_dict(model))
    weights = {k: p.detach().numpy().copy() for k, p in theirs.named_parameters()}
    momenta = {k: np.zeros_like(w) for k, w in weights.items()}
    squares = {k: np.zeros_like(w) for k, w in weights.items()}

    optimizers = make_optimizers(model, recipe)
    batches = [(torch.randn(24, 3, 16, 16).double(), torch.rand(24, 7).double()) for _ in range(3)]
    for number, (x, y) in enumerate(batches, start=1):
        y, share = y / y.sum(1, keepdim=True), 0.3 * number
        with Workers(model, part=10) as workers:
            loss = train_step(workers, optimizers, x, y, share, recipe)

        theirs.load_state_dict({k: torch.from_numpy(w) for k, w in weights.items()})
        theirs.zero_grad()
        targets = 0.8 * y + 0.2 / 7
        wanted = -(targets * theirs(x).log_softmax(1)).sum() / len(x)
        wanted.backward()
        assert loss == pytest.approx(wanted.item(), rel=1e-12)
        grads = {k: p.grad.numpy() for k, p in theirs.named_parameters()}
        length = math.sqrt(sum((g**2).sum() for g in grads.values()))
        assert length > 0.05
        for name, g in grads.items():
            g = g * 0.05 / (length + 1e-6)
            w = weights[name]
            if name.endswith("weight") and ".mlp_" in name:
                tokens = "tokens" in name
                lr, decay, mu = (0.004, 0.05, 0.98) if tokens else (0.02, 0.02, 0.95)
                momenta[name] = mu * momenta[name] + (1 - mu) * g
                ahead = mu * momenta[name] + (1 - mu) * g
                update = strongest(ahead, 3) if tokens else newton_schulz(ahead)
                update *= max(1, w.shape[0] / w.shape[1]) ** 0.5
            else:
                lr, decay = 0.002, 0.02
                momenta[name] = 0.9 * momenta[name] + 0.1 * g
                squares[name] = 0.98 * squares[name] + 0.02 * g**2
                update = (momenta[name] / (1 - 0.9**number)) / (
                    np.sqrt(squares[name] / (1 - 0.98**number)) + 1e-8
                )
            weights[name] = w * (1 - lr * share * decay) - lr * share * update
    ours = to_timm_state_dict(model)
    for name, w in weights.items():
        # What all channels of a token share, the next LayerNorm takes away: the last bias of token
        # mixing has no effect, and its gradient is rounding error. It stays near its zero.
        error = np.abs(ours[name].numpy() - w).max() / max(np.abs(w).max(), 1e-2)
        assert error < 1e-8, (name, error)


def test_a_gradient_that_is_no_number_changes_no_weight():
    model, recipe = create_model("mixer_pico_cifar10", num_blocks=1), Recipe()
    torch.nn.init.normal_(model.head.weight)
    model.blocks[0].mlp_tokens.fc2.register_full_backward_hook(
        lambda module, grad_in, grad_out: tuple(g * math.nan for g in grad_in)
    )
    before = {k: v.clone() for k, v in model.state_dict().items()}
    x, y = torch.randn(8, 3, 32, 32), F.one_hot(torch.arange(8), 10).float()
    with (
        Workers(model) as workers,
        pytest.raises(Diverged, match=r"The gradient is nan\. Training has diverged: begin"),
    ):
        train_step(workers, make_optimizers(model, recipe), x, y, 1.0, recipe)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("choices", [{}, dict(token_optimizer="adamw", channel_optimizer="adamw")])
def test_a_step_lowers_the_loss_of_a_real_batch(choices):
    images, labels = cifar10_sample()
    x = normalize(images[:64], CIFAR10_MEAN, CIFAR10_STD)
    y = F.one_hot(labels[:64], 10).float()
    recipe = Recipe(channel_lr=0.002, token_lr=0.002, other_lr=0.002, **choices)
    model = create_model("mixer_pico_cifar10")
    init_weights(model, recipe)
    torch.nn.init.normal_(model.head.weight, std=0.05)
    optimizers = make_optimizers(model, recipe)
    with Workers(model) as workers:
        losses = [train_step(workers, optimizers, x, y, 0.5, recipe) for _ in range(4)]
    assert losses == sorted(losses, reverse=True) and losses[0] - losses[3] > 0.1


# The run ----------------------------------------------------------------------------------------


def test_the_callers_random_numbers_and_threads_are_left_alone(tmp_path, data):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(7)
        wanted = torch.rand(3)
        torch.manual_seed(7)
        train("mixer_pico_cifar10", tmp_path, recipe=replace(SMALL, epochs=1), **data)
        assert torch.equal(torch.rand(3), wanted) and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_averaged_weights_are_measured_and_kept(tmp_path, data, monkeypatch):
    recipe, passed, step = replace(SMALL, epochs=2, ema=0.8), [], steps.train_step

    def stepped(workers, *args):
        loss = step(workers, *args)
        passed.append({k: v.double() for k, v in workers.model.state_dict().items()})
        return loss

    monkeypatch.setattr(steps, "train_step", stepped)
    model = train("mixer_pico_cifar10", tmp_path, recipe=recipe, holdout=32, **data)
    wanted = passed[0]
    for state in passed[1:]:
        wanted = {k: 0.8 * v + 0.2 * state[k] for k, v in wanted.items()}
    kept = load_checkpoint(tmp_path / "weights.safetensors")
    for name, tensor in kept.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])
        assert torch.allclose(tensor.double(), wanted[name], atol=1e-6), name
        if "mlp_channels" in name and name.endswith("weight"):
            assert not torch.allclose(tensor.double(), passed[-1][name], atol=1e-4)
    split = torch.randperm(160, generator=torch.Generator().manual_seed(0))[:32]
    right = accuracy(
        kept, normalize(data["images"][split], CIFAR10_MEAN, CIFAR10_STD), data["labels"][split]
    )
    log = (tmp_path / "log.csv").read_text(encoding="utf-8").splitlines()
    assert float(log[-1].split(",")[log[0].split(",").index("held_out_accuracy")]) == right


def test_a_diverging_run_ends_with_advice_and_keeps_what_was_good(tmp_path, data):
    recipe = replace(SMALL, epochs=20, warmup_epochs=12.0, other_lr=1e25)
    moments = []
    with pytest.raises(RuntimeError, match=r"Training has diverged: begin .* lower") as caught:
        train(
            "mixer_pico_cifar10", tmp_path, recipe=recipe, save_every=0, watch=moments.append,
            **data,
        )  # fmt: skip
    assert str(caught.value).count("\n") == 0 and all(math.isfinite(m.loss) for m in moments)
    last = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["state"]
    assert all(v.isfinite().all() for v in last["model"].values())
    assert last["step"] in (len(moments), len(moments) - 1)
    assert not (tmp_path / "weights.safetensors").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(labels=torch.full((160,), 10)), "labels must be 160 numbers from 0 to 9"),
        (
            dict(images=torch.zeros(160, 3, 28, 28, dtype=torch.uint8)),
            "uint8 .160, 3, 28, 28",
        ),
        (dict(images=torch.zeros(160, 3, 32, 32)), "images must be a tensor of bytes"),
        (dict(images=np.zeros((160, 3, 32, 32), np.uint8)), "not ndarray of uint8 .160, 3, 32, 32"),
        (dict(labels=torch.zeros(160)), "labels must be a tensor of int64"),
        (dict(labels=torch.zeros(160, 1, dtype=torch.int64)), "not Tensor of torch.int64 .160, 1"),
        (dict(labels=[0] * 160), "labels must be a tensor of int64 .n,., not list"),
        (dict(holdout=150), "10 images are fewer than one batch of 32"),
        (dict(holdout=-2), "holdout must be 0 images or more.* not -2"),
        (dict(std=(0.2, 0.0, 0.2)), "std must be above 0 in each channel"),
        (dict(recipe=replace(SMALL, shift=32)), "shift must be less than the image's side of 32"),
        (dict(recipe=replace(SMALL, epochs=1, batch_size=160)), "One step trains nothing"),
    ],
)
def test_what_cannot_be_trained_on_is_said(tmp_path, data, change, words):
    with pytest.raises(ValueError, match=words):
        train("mixer_pico_cifar10", tmp_path / "out", **dict(recipe=SMALL) | data | change)
    assert not (tmp_path / "out").exists()


def test_mixed_and_erased(data):
    images, labels = data["images"][:24], data["labels"][:24]
    none = dict(shift=0, auto_augment=0.0, cutmix=0.0)
    x, y = augmentation(replace(Recipe(), **none, mixup=1.0), 10)(images, labels)
    assert torch.allclose(y.sum(1), torch.ones(24)) and (y.amax(1) < 1).any()
    # Blended as the labels are: a pixel is the same mixture of an image and its neighbour.
    share = y[1, labels[1]].item() if labels[0] != labels[1] else 1.0
    pairs = [
        share * a.float() + (1 - share) * b.float()
        for a in (images[1], images[1].flip(-1))
        for b in (images[0], images[0].flip(-1))
    ]
    assert min((x[1] - p).abs().max().item() for p in pairs) < 1

    x, y = augmentation(replace(Recipe(), **none, erase=1.0), 10)(images, labels)
    grey = torch.tensor([round(255 * m) for m in CIFAR10_MEAN]).view(3, 1, 1)
    painted = (x == grey).all(1).float().mean((1, 2))
    assert (painted > 0.01).all() and (painted < 0.4).all() and (y.amax(1) == 1).all()


# Several processes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "started", [False, True], ids=["from random weights", "from given weights"]
)
def test_two_processes_are_one_to_rounding(tmp_path, capsys, started):
    images, labels = cifar10_sample()
    for i in range(0, 500, 5):
        path = tmp_path / "data" / ("test" if i % 20 == 0 else "train") / f"class {labels[i] % 5}"
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[i].permute(1, 2, 0).numpy()).save(path / f"{i}.png")
    # 75 images: one step an epoch, so that the log has every step's loss.
    command = ["train", "mixer_pico_cifar10", "--data", str(tmp_path / "data"), "--epochs", "5"]
    command += ["--set", "batch_size=64", "--set", "warmup_epochs=0"]
    if started:
        torch.manual_seed(3)
        save_checkpoint(create_model("mixer_pico_cifar10"), tmp_path / "start.safetensors")
        command += ["--start-from", str(tmp_path / "start.safetensors")]
    command.append("--out")
    assert cli.main([*command, str(tmp_path / "one")]) == 0
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "mixer_lite.cli"]
    done = subprocess.run(
        [sys.executable, *torchrun, *command, tmp_path / "two"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here = capsys.readouterr()
    for said in (here.err, done.stderr):  # one of the processes says it
        assert said.count("The head starts untrained") == started
    outputs = [here.out, done.stdout]
    for out in outputs:
        assert out.count("epoch 5, ") == out.count("Accuracy on the 25 test") == 1
    assert outputs[0].splitlines()[-2] == outputs[1].splitlines()[-2]  # the test's accuracy
    logs = [
        np.loadtxt(tmp_path / name / "log.csv", delimiter=",", skiprows=1)[:, :-1]
        for name in ("one", "two")
    ]
    assert logs[0].shape[0] == 5 and logs[0][-1, 2] < logs[0][0, 2]
    assert np.abs(logs[0] - logs[1]).max() < 2e-3
    one, two = (load_checkpoint(tmp_path / n / "weights.safetensors") for n in ("one", "two"))
    assert one.config.class_names == tuple(f"class {i}" for i in range(5)) == two.config.class_names
    x = normalize(images[:50], one.config.mean, one.config.std)
    with torch.inference_mode():
        a, b = one(x), two(x)
    assert (a - b).abs().max() < 1e-3 * a.abs().max()
    states = [torch.load(Path(tmp_path, n, "checkpoint.pt"))["state"] for n in ("one", "two")]
    assert states[0]["step"] == states[1]["step"] == 5


# What one sees of it -----------------------------------------------------------------------------


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_with_the_time_left_on_a_terminal_alone(tmp_path, data, monkeypatch, terminal):
    screen = io.StringIO()
    screen.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", screen)
    train("mixer_pico_cifar10", tmp_path, recipe=replace(SMALL, epochs=1), **data)
    last = screen.getvalue().rpartition("\r")[2]
    if terminal:
        assert re.search(r"100%.* 5/5 \[\d\d:\d\d<\d\d:\d\d.*epoch=1, loss=\d\.\d{3}", last), last
    else:
        assert not last


def test_several_processes_without_accelerate_is_one_sentence(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(RuntimeError, match=r"^Work in several processes .* accelerate\.$"):
        processes("cpu")


def test_an_epoch_has_an_order_for_every_seed():
    for seed in (0, 1, 7):
        generator = torch.Generator().manual_seed(seed * 100_003 + 3)
        assert torch.equal(steps.epoch_order(50, seed, 2), torch.randperm(50, generator=generator))
    for seed in (-(2**63), -1, 2**62, 2**63 - 1):
        order = steps.epoch_order(50, seed, 2)
        assert sorted(order.tolist()) == list(range(50))
        assert not torch.equal(order, steps.epoch_order(50, seed, 3))
