"""The recipe: its optimizer against PyTorch's, interruption, determinism, and that it learns."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mixer_lite.measures import snapshot_steps
from mixer_lite.muon import Muon, flatten_spectrum
from mixer_lite.recipe import Recipe, init_weights, learning_rate_share, make_optimizers
from mixer_lite.specs import CIFAR10_CLASSES, create_model
from mixer_lite.train import _augment, _Workers, train

SMALL = replace(Recipe(), epochs=3, batch_size=32, snapshots=4, warmup_epochs=0.5)


def coloured_squares(n: int = 160) -> tuple[torch.Tensor, torch.Tensor]:
    """Images that a class gives its mean colour: easy to learn."""
    g = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % len(CIFAR10_CLASSES)
    colours = torch.randint(30, 220, (len(CIFAR10_CLASSES), 3, 1, 1), generator=g)
    noise = torch.randint(-20, 20, (n, 3, 32, 32), generator=g)
    return (colours[labels] + noise).clamp(0, 255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def data():
    return dict(zip(("images", "labels"), coloured_squares(), strict=True))


def test_muon_steps_like_pytorchs():
    # PyTorch's iterates in bfloat16, which moves single entries by a few percent.
    start = [torch.randn(12, 40) for _ in range(3)]
    ours = [torch.nn.Parameter(p.clone()) for p in start]
    theirs = [torch.nn.Parameter(p.clone()) for p in start]
    a = Muon(ours, lr=0.1, weight_decay=0.3)
    b = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.3)
    for _ in range(4):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(12, 40)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - s).norm() > 1
        assert (p - q).norm() / (q - s).norm() < 0.02


@pytest.mark.parametrize("shape", [(2, 6, 6), (3, 9, 4), (1, 4, 11)])
@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_form_keeps_the_strongest_directions_alone(shape, rank):
    x = torch.randn(shape, dtype=torch.float64)
    y = flatten_spectrum(x, rank)
    small = min(shape[1:])
    for before, after in zip(x, y, strict=True):
        wanted = [(small / rank) ** 0.5] * rank + [0.0] * (small - rank)
        assert torch.linalg.svdvals(after).tolist() == pytest.approx(wanted, abs=1e-9)
        # <x, y> is largest for the strongest directions: the sum of x's largest singular values
        most = torch.linalg.svdvals(before)[:rank].sum() * (small / rank) ** 0.5
        assert torch.isclose((before * after).sum(), most)


def test_full_flattening_makes_all_directions_alike():
    s = torch.linalg.svdvals(flatten_spectrum(torch.randn(2, 30, 50)))
    assert s.min() > 0.5 and s.max() < 1.3


def test_zero_gradient_moves_nothing_but_decay():
    for rank in (None, 2):
        p = torch.nn.Parameter(torch.ones(3, 3))
        p.grad = torch.zeros(3, 3)
        Muon([p], lr=0.1, weight_decay=0.5, rank=rank).step()
        assert torch.allclose(p.detach(), torch.full((3, 3), 0.95))


def test_every_parameter_has_exactly_one_optimizer():
    model = create_model("mixer_pico_cifar10")
    groups = [g for o in make_optimizers(model, Recipe()) for g in o.param_groups]
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())


def test_gradient_in_parts_is_the_gradient():
    model = create_model("mixer_pico_cifar10", num_blocks=2)
    init_weights(model, Recipe())
    torch.nn.init.normal_(model.head.weight)
    x, y = torch.randn(21, 3, 32, 32), torch.rand(21, 10).softmax(1)
    loss = torch.nn.functional.cross_entropy(model(x), y, label_smoothing=0.1)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    got = _Workers(model, part=8).gradient(x, y, 0.1)
    assert abs(got - loss.item()) < 1e-5
    for p, g in zip(model.parameters(), wanted, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-6)


def test_gradient_in_bfloat16_is_the_same_within_its_precision():
    model = create_model("mixer_pico_cifar10", num_blocks=2)
    init_weights(model, Recipe())
    torch.nn.init.normal_(model.head.weight)
    x, y = torch.randn(16, 3, 32, 32), torch.rand(16, 10).softmax(1)
    _Workers(model).gradient(x, y, 0.1)
    exact = torch.cat([p.grad.flatten() for p in model.parameters()])
    _Workers(model, bfloat16=True).gradient(x, y, 0.1)
    half = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    assert (half - exact).norm() / exact.norm() < 0.15


def test_augmentation_keeps_what_the_recipe_leaves_out():
    images = torch.randint(0, 256, (24, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(24) % 10
    none = dict(shift=0, auto_augment=0.0, cutmix=0.0)
    x, y = _augment(replace(Recipe(), **none), 10)(images, labels)
    assert y.argmax(1).tolist() == labels.tolist() and (y.amax(1) == 1).all()
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(x, images, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(x, images, strict=True)]
    assert any(flipped) and any(same)
    assert all(a or b for a, b in zip(flipped, same, strict=True))

    x, _ = _augment(replace(Recipe(), **none | dict(auto_augment=1.0)), 10)(images, labels)
    kept = [torch.equal(a, b) or torch.equal(a, b.flip(-1)) for a, b in zip(x, images, strict=True)]
    assert not all(kept) and x.dtype == torch.uint8

    _, y = _augment(replace(Recipe(), **none | dict(cutmix=1.0)), 10)(images, labels)
    assert torch.allclose(y.sum(1), torch.ones(24)) and (y.amax(1) < 1).any()


def test_learning_rate_rises_stays_and_falls_to_zero():
    recipe = replace(Recipe(), epochs=10, warmup_epochs=1.0, decay_share=0.5)
    shares = [learning_rate_share(p, recipe) for p in (0.05, 0.1, 0.3, 0.5, 0.75, 1.0)]
    assert shares == pytest.approx([0.5, 1, 1, 1, 0.5, 0])


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
