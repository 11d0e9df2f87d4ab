"""The experiments of notebook 07: their networks, their shuffles, and what is bundled of them."""

import csv
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mixer_lite import experiments
from mixer_lite._support.files import data_path
from mixer_lite._support.tables import read_table
from mixer_lite.datasets import Cifar10, cifar10_sample
from mixer_lite.experiments import RECIPE, RUNS, fit
from mixer_lite.filters import smoothness
from mixer_lite.model import MlpMixer
from mixer_lite.training import steps
from mixer_lite.training.recipe import Recipe

TOOL = Path(__file__).resolve().parents[1] / "tools/experiments.py"


@pytest.fixture(scope="module")
def little():
    images, labels = cifar10_sample()
    return Cifar10(images[:400], labels[:400], images[400:], labels[400:])


def size(run):
    return sum(p.numel() for p in RUNS[run].build(RECIPE).parameters())


def test_networks_that_are_compared_are_of_one_size():
    sizes = {run: size(run) for run in RUNS if not run.startswith("untied")}
    assert sizes["mixer"] == 181_034
    assert all(0.9 < count / sizes["mixer"] < 1.1 for count in sizes.values()), sizes
    assert size("untied") == size("untied_muon") > 10 * sizes["mixer"]


@pytest.mark.parametrize("run", ["mixer", "conv", "vit", "untied"])
def test_an_image_is_answered_alike_in_any_company(run):
    torch.manual_seed(0)
    net = RUNS[run].build(RECIPE).eval()
    for weight in net.parameters():  # heads and gains of zero would agree by themselves
        torch.nn.init.normal_(weight, std=0.1)
    images = torch.randn(4, 3, 32, 32)
    together = net(images)
    assert together.shape == (4, 10) and together.std() > 0.01
    alone = torch.cat([net(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-5)


def test_untied_mixing_is_tied_where_all_channels_have_the_same_matrices():
    torch.manual_seed(0)
    recipe = Recipe(token_std=0.1)
    tied, net = RUNS["mixer"].build(recipe), RUNS["untied"].build(recipe)
    assert isinstance(tied, MlpMixer) and isinstance(net, MlpMixer)
    torch.nn.init.normal_(tied.head.weight)
    others = {k: v for k, v in tied.state_dict().items() if "mlp_tokens" not in k}
    net.load_state_dict(others, strict=False)
    with torch.no_grad():
        for one, all_channels in zip(tied.blocks, net.blocks, strict=True):
            for layer, bias in (("fc1", "bias1"), ("fc2", "bias2")):
                source = getattr(one.mlp_tokens, layer)
                torch.nn.init.normal_(source.bias)
                getattr(all_channels.mlp_tokens, layer).copy_(source.weight.expand(96, -1, -1))
                getattr(all_channels.mlp_tokens, bias).copy_(source.bias.expand(96, -1))
        images = torch.randn(3, 3, 32, 32)
        assert torch.allclose(tied(images), net(images), atol=1e-5)
        # A channel's own matrices move that channel alone in its block.
        x = torch.randn(2, 96, 64)
        mixing = net.blocks[0].mlp_tokens
        before = mixing(x)
        mixing.fc1[5] += 1
        changed = (mixing(x) != before).any(dim=2).any(dim=0)
        assert changed.nonzero().flatten().tolist() == [5]


@pytest.mark.parametrize(
    ("run", "ours"),
    [("conv", lambda n, p: p.ndim == 4 and n != "conv1.weight"),
     ("vit", lambda n, p: p.ndim == 2 and n != "head.weight"), ("untied", lambda n, p: False)],
)  # fmt: skip
def test_every_parameter_has_one_optimizer(run, ours):
    recipe = replace(RECIPE, **RUNS[run].choices)
    net = RUNS[run].build(recipe)
    kinds = {"Muon": [], "AdamW": []}
    for optimizer in experiments.optimizers_of(net, recipe):
        kinds[type(optimizer).__name__] += [p for g in optimizer.param_groups for p in g["params"]]
        assert all(g["initial_lr"] == g["lr"] > 0 for g in optimizer.param_groups)
    muon = {id(p) for p in kinds["Muon"]}
    assert {n for n, p in net.named_parameters() if id(p) in muon} == {
        n for n, p in net.named_parameters() if ours(n, p)
    }
    assert len(kinds["Muon"] + kinds["AdamW"]) == len(list(net.parameters()))
    assert {id(p) for p in kinds["Muon"] + kinds["AdamW"]} == {id(p) for p in net.parameters()}


class Seen(torch.nn.Module):
    def forward(self, images):
        return images


def test_shuffles_move_what_they_say():
    images = torch.arange(2 * 3 * 32 * 32).reshape(2, 3, 32, 32)
    net = Seen()
    experiments.shuffle_first(net, "pixels", seed=4)
    order = experiments.orders_of("pixels", seed=4)["pixels"]
    moved = net(images)
    for q in (0, 33, 1023):
        p = int(order[q])
        assert torch.equal(moved[..., q // 32, q % 32], images[..., p // 32, p % 32])
    net = Seen()
    experiments.shuffle_first(net, "patches", seed=4)
    orders = experiments.orders_of("patches", seed=4)
    moved = net(images)
    for k in (0, 9, 63):
        for q in (0, 6, 15):
            j, p = int(orders["patches"][k]), int(orders["inside"][q])
            to = (k // 8 * 4 + q // 4, k % 8 * 4 + q % 4)
            source = (j // 8 * 4 + p // 4, j % 8 * 4 + p % 4)
            assert torch.equal(moved[(..., *to)], images[(..., *source)])
    assert sorted(orders["patches"].tolist()) == list(range(64))
    plain = Seen()
    experiments.shuffle_first(plain, "", seed=4)
    assert plain(images) is images
    other = experiments.orders_of("patches", seed=5)
    assert not torch.equal(other["patches"], orders["patches"])


def test_a_run_is_repeated_by_its_seed_and_leaves_the_callers_numbers_alone(little):
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    one = fit("mixer_patches", 1, little, seen=256 * 6, progress=False)
    assert torch.equal(torch.random.get_rng_state(), state)
    again = fit("mixer_patches", 1, little, seen=256 * 6, progress=False)
    for a, b in zip(one.net.parameters(), again.net.parameters(), strict=True):
        assert torch.equal(a, b)
    timeless = [{k: v for k, v in row.items() if k != "processor_seconds"} for row in one.rows]
    assert timeless == [
        {k: v for k, v in r.items() if k != "processor_seconds"} for r in again.rows
    ]
    assert [row["step"] for row in one.rows] == [1, 2, 3, 4, 5, 6]
    assert [row["test_images"] for row in one.rows] == [20] * 5 + [100]
    assert one.rows[0]["loss"] == pytest.approx(np.log(10), abs=1e-3)  # the head begins at zero
    assert one.rows[-1]["loss"] < one.rows[0]["loss"]
    other = fit("mixer_patches", 2, little, seen=256 * 6, progress=False)
    assert other.rows[-1]["loss"] != one.rows[-1]["loss"]


@pytest.mark.parametrize("run", ["conv_pixels", "vit", "untied", "images_10000_strong"])
def test_every_kind_of_run_learns(little, run):
    rows = fit(run, 0, little, seen=256 * 6, progress=False).rows
    assert rows[-1]["loss"] < rows[0]["loss"] and ("smoothness" in rows[0]) == (run[0] == "i")


def test_plain_runs_see_images_as_they_are(little, monkeypatch):
    seen = []
    step = steps.train_step

    def watched(workers, optimizers, x, *others):
        seen.append(x)
        return step(workers, optimizers, x, *others)

    monkeypatch.setattr(steps, "train_step", watched)
    fit("images_10000_plain", 0, little, seen=256, progress=False)
    images = experiments.normalize(
        little.train_images, experiments.CIFAR10_MEAN, experiments.CIFAR10_STD
    )
    assert {image.sum().item() for image in seen[0]} <= {image.sum().item() for image in images}
    seen.clear()
    fit("images_10000", 0, little, seen=256, progress=False)
    assert not {i.sum().item() for i in seen[0]} <= {image.sum().item() for image in images}


def test_wrong_names_are_told(little):
    with pytest.raises(ValueError, match=r"no run named 'conf'\. Did you mean conv"):
        fit("conf", 0, little)
    with pytest.raises(ValueError, match="no 'smoothness' of a run 'conv'"):
        experiments.curves("conv", "smoothness")
    with pytest.raises(ValueError, match="No filters are bundled of 'conv'; of these there are: m"):
        experiments.filters_of("conv")


def test_bundled_table_is_whole_and_is_read_as_it_stands():
    with data_path("experiments.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert {row["run"] for row in table} == set(RUNS)
    for run in RUNS:
        seen, accuracy = experiments.curves(run)
        seeds = sorted({row["seed"] for row in table if row["run"] == run})
        assert seeds == [str(seed) for seed in range(len(seeds))] and len(seeds) >= 2
        assert [row["run"] for row in table].count(run) == len(seeds) * experiments.POINTS
        assert accuracy.shape == (len(seeds), 6) and (0.1 < accuracy).all() and (accuracy < 1).all()
        assert seen[-1] == experiments.SEEN // RECIPE.batch_size * RECIPE.batch_size
        row = [r for r in table if r["run"] == run and r["seed"] == seeds[-1]][-1]
        assert experiments.last(run)[-1] == float(row["accuracy"]) and row["test_images"] == "10000"
        assert int(row["parameters"]) == size(run)
        assert int(row["images"]) == RUNS[run].images


def test_bundled_filters_are_those_of_the_table():
    for run, experiment in RUNS.items():
        if experiment.keep:
            found = experiments.filters_of(run)
            assert found.shape == (4, 48, 8, 8)
            smooth = np.mean([smoothness(f).mean().item() for f in found])
            assert smooth == pytest.approx(experiments.last(run, "smoothness")[0], abs=2e-3)


@pytest.fixture
def tool(monkeypatch, little):
    spec = importlib.util.spec_from_file_location("experiments_tool", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "cifar10", lambda: little)
    monkeypatch.setattr(
        module,
        "fit",
        lambda *a, **k: fit(*a, **k, seen=256 * 6),  # short ones
    )
    return module


def test_tool_goes_on_where_it_was(tool, tmp_path, capsys):
    files = ["--table", str(tmp_path / "t.csv"), "--filters", str(tmp_path / "f.safetensors")]
    tool.main(["--seeds", "1", "--runs", "mixer", *files])
    tool.main(["--seeds", "0", "1", "--runs", "mixer", "conv", *files])
    said = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["mixer, seed 1", "mixer, seed 0", "conv, seed 0", "conv, seed 1"]
    rows = read_table(tmp_path / "t.csv")
    assert [(r["run"], r["seed"]) for r in rows[::6]] == [
        ("mixer", "0"), ("mixer", "1"), ("conv", "0"), ("conv", "1"),
    ]  # fmt: skip
    from safetensors.torch import load_file

    kept = (tmp_path / "f.safetensors").read_bytes()
    tool.main(["--seeds", "2", "--runs", "mixer", *files])
    assert (tmp_path / "f.safetensors").read_bytes() == kept, "filters are those of seed 0"
    assert load_file(tmp_path / "f.safetensors")["mixer"].shape == (4, 48, 64)
