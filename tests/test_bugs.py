"""The bug hunt: each suspect is wrong in the way it is said to be, and in no other."""

import copy
import csv
import functools
import importlib.util
import inspect
import re

import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch.func import jacrev

import mixer_lite as ml
from mixer_lite import bugs, check, mysteries
from mixer_lite._support.files import data_path
from mixer_lite.model import MixerBlock, MlpMixer
from mixer_lite.training.loop import train
from mixer_lite.training.recipe import Recipe, init_weights

NUMBERS = range(1, len(bugs.BUGS) + 1)
# Every size another, and C, S, D_S, D_C far enough apart to tell counts of them apart.
SIZES = dict(
    image_size=(8, 12), patch_size=4, num_classes=7, num_blocks=2,
    hidden_dim=10, tokens_mlp_dim=9, channels_mlp_dim=13,
)  # fmt: skip
S, C = 6, 10


def shaken() -> MlpMixer:
    torch.manual_seed(3)
    model = ml.MlpMixer(**SIZES).double().requires_grad_(False)
    for p in model.parameters():
        p.add_(torch.randn_like(p) / 3)
    return model.eval()


@pytest.fixture
def healthy() -> MlpMixer:
    return shaken()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(5, 3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def suspect(number: int, healthy: MlpMixer) -> MlpMixer:
    model = bugs.suspect(number, healthy).double().requires_grad_(False)
    for block in model.blocks:  # .double() does not reach the ones that number 3 hides
        block.double().requires_grad_(False)
    return model


def timms(healthy: MlpMixer) -> torch.nn.Module:
    from timm.models.mlp_mixer import MlpMixer as Theirs

    shape = dict(img_size=(8, 12), patch_size=4, num_blocks=2, embed_dim=C, num_classes=7)
    theirs = Theirs(**shape, mlp_ratio=(9 / C, 13 / C)).double().eval()
    theirs.load_state_dict(ml.to_timm_state_dict(healthy))
    return theirs


def gap(one, other, images):
    return (one(images) - other(images)).abs().max().item()


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_the_control_is_healthy(healthy, images):
    assert gap(healthy, timms(healthy), images) < 1e-12


@pytest.mark.parametrize("number", NUMBERS)
def test_shapes_give_nothing_away_and_values_do(number, healthy, images):
    model = suspect(number, healthy)
    assert model(images).shape == (5, 7)
    assert model.forward_features(images).shape == (5, S, C)
    assert not model.training
    reference = timms(healthy)
    if number == 8:  # equal to the healthy model, until its weights travel
        assert gap(model, reference, images) < 1e-12
        reference.load_state_dict(ml.to_timm_state_dict(model))
    assert gap(model, reference, images) > 1e-7


def test_parameters_are_as_many_as_said(healthy):
    missing = {n: count(healthy) - count(bugs.suspect(n, healthy)) for n in NUMBERS}
    blocks, ds, dc = 2, 9, 13
    right = 2 * S * ds + ds + S + 2 * C * dc + dc + C
    wrong = 2 * S * dc + dc + S + 2 * C * ds + ds + C
    norms = 4 * C
    assert missing.pop(1) == blocks * (right - wrong) != 0
    assert missing.pop(3) == blocks * (right + norms)
    assert missing.pop(5) == blocks * 2 * C
    assert set(missing.values()) == {0}


def test_1_swaps_the_two_widths(healthy):
    block = bugs.suspect(1, healthy).blocks[1]
    assert block.mlp_tokens.fc1.weight.shape == (13, S)
    assert block.mlp_channels.fc1.weight.shape == (9, C)


def test_2_cuts_memory_and_not_squares(healthy, images):
    model = suspect(2, healthy)
    flat = images.numpy().tobytes()
    token = model.patchify(images)[0, 1].numpy().tobytes()  # 48 numbers of 8 bytes
    assert token == flat[48 * 8 : 2 * 48 * 8]
    assert not torch.equal(model.patchify(images), healthy.patchify(images))
    order = torch.randperm(S, generator=torch.Generator().manual_seed(0))
    moved = ml.explain.shuffle_patches(images, 4, patch_order=order)
    for m, unnoticed in ((healthy, True), (model, False)):
        twin = ml.explain.reparametrise(m, patch_order=order)
        assert ((twin(moved) - m(images)).abs().max() < 1e-10) == unnoticed


def test_3_trains_all_but_its_blocks():
    torch.manual_seed(0)
    model = bugs.suspect(3, ml.MlpMixer(**SIZES))
    assert {name.split(".")[0] for name in model.state_dict()} == {"stem", "norm", "head"}
    before = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(torch.randn(4, 3, 8, 12)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(model.stem.weight, before.stem.weight)
    for new, old in zip(model.blocks, before.blocks, strict=True):
        for p, q in zip(new.parameters(), old.parameters(), strict=True):
            assert torch.equal(p, q)
    assert any(p.grad.any() for p in model.blocks[0].parameters())  # asked, and never heard


def test_4_lets_token_mixing_be_heard_through_channel_mixing_alone(healthy):
    table = torch.randn(S, C, dtype=torch.float64)
    for model, alone in ((healthy, True), (suspect(4, healthy), False)):
        block = copy.deepcopy(model.blocks[0])
        whole = jacrev(lambda t, block=block: block(t[None])[0])(table)  # (S, C, S, C)
        assert (whole[2, :, 4] != 0).any(), "tokens are mixed"
        torch.nn.init.zeros_(block.mlp_channels.fc2.weight)
        torch.nn.init.zeros_(block.mlp_channels.fc2.bias)
        part = jacrev(lambda t, block=block: block(t[None])[0])(table)
        bare = torch.eye(S * C, dtype=torch.float64).reshape(S, C, S, C)
        assert torch.equal(part, bare) != alone


def test_5_has_one_norm_which_fresh_weights_hide(images):
    torch.manual_seed(5)
    fresh = ml.MlpMixer(**SIZES).double().requires_grad_(False)
    assert gap(suspect(5, fresh), fresh, images) == 0
    block = suspect(5, shaken()).blocks[0]
    assert block.norm1 is block.norm2
    assert torch.equal(block.norm1.weight, shaken().blocks[0].norm2.weight)


def test_6_never_says_the_same_twice(healthy, images):
    model = suspect(6, healthy).eval()
    torch.manual_seed(0)
    many = torch.stack([model(images[:1])[0] for _ in range(400)])  # (400, 7)
    assert len(many.unique(dim=0)) > 300
    mlp, x = model.blocks[0].mlp_channels, torch.randn(C, dtype=torch.float64)
    hidden = mlp.act(mlp.fc1(x))
    seen = torch.stack([mlp(x) for _ in range(4000)])
    # What dropout with p = 0.1 does on average, and how far it strays.
    plain = mlp.fc2.weight @ hidden + mlp.fc2.bias
    strays = ((mlp.fc2.weight * hidden).square().sum(dim=1) * 0.1 / 0.9).sqrt()
    assert ((seen.mean(dim=0) - plain).abs() < 5 * strays / 4000**0.5).all()
    assert torch.allclose(seen.std(dim=0), strays, rtol=0.1)


def test_7_differs_by_an_epsilon_that_can_be_measured(healthy, images):
    model = suspect(7, healthy)
    row = torch.linspace(-1e-3, 1e-3, C, dtype=torch.float64)
    for m, epsilon in ((healthy, 1e-6), (model, 1e-5)):
        for norm in (m.blocks[0].norm1, m.blocks[1].norm2):
            z = (norm(row) - norm.bias) / norm.weight
            measured = (row / z).square().mean() - row.square().mean()
            assert measured.item() == pytest.approx(epsilon, rel=1e-6)
    assert 1e-7 < gap(model, healthy, images) < 0.1


def test_8_is_the_same_function_with_a_stem_in_another_order(healthy):
    model = suspect(8, healthy)
    weight = rearrange(model.stem.weight, "n (p1 p2 c) -> n (c p1 p2)", p1=4, p2=4)
    assert torch.equal(weight, healthy.stem.weight)
    assert not torch.equal(model.stem.weight, healthy.stem.weight)
    others = [name for name in healthy.state_dict() if name != "stem.weight"]
    assert all(torch.equal(model.state_dict()[k], healthy.state_dict()[k]) for k in others)


# words that would solve a puzzle
TELLING = {
    1: "swap|width|D_S|D_C|tokens_mlp_dim",
    2: "reshape|strip|memory|view",
    3: r"\blist\b|sequential|nn\.",
    4: "skip|residual|x \\+",
    5: "share|same norm|one norm|one LayerNorm|norm2 = norm1",
    6: "dropout|training",
    7: "epsilon|1e-5|default",
    8: "p1 p2 c|colou?rs? last|transpos",
}


@pytest.mark.parametrize("number", NUMBERS)
def test_hints_come_one_by_one_and_do_not_tell(number, monkeypatch):
    monkeypatch.setattr(bugs, "_asked", {})
    hints = bugs.BUGS[number - 1].hints
    assert len(hints) == len(set(hints)) == 3
    shown = [bugs.hint(number) for _ in range(5)]
    for step, folded in zip([1, 2, 3, 3, 3], shown, strict=True):
        assert hints[step - 1] in repr(folded) and f"hint {step} of 3" in repr(folded)
        assert f"<summary>Puzzle {number}, hint {step} of 3</summary>" in folded._repr_html_()
    assert not re.search(TELLING[number], " ".join(hints), flags=re.IGNORECASE)
    assert re.search(TELLING[number], repr(bugs.reveal(number)), flags=re.IGNORECASE)


@pytest.mark.parametrize("number", NUMBERS)
def test_nothing_tells_before_the_reveal(number, healthy):
    model = bugs.suspect(number, healthy)
    assert repr(model) == repr(bugs.suspect(number % 8 + 1, healthy))
    assert {type(m).__name__ for m in model.modules()} <= {
        type(m).__name__ for m in healthy.modules()
    }
    said = " ".join([repr(model), repr(model.forward), repr(model.patchify), repr(type(model))])
    said += repr([type(block) for block in model.blocks]) + repr(model.blocks[0].forward)
    mine = [c.__doc__ for c in type(model).__mro__ if c.__module__ == "mixer_lite.bugs"]
    assert mine and not re.search(TELLING[number], said, flags=re.IGNORECASE)
    assert set(dict(model.named_parameters())) <= set(dict(healthy.named_parameters()))


@pytest.mark.parametrize("number", NUMBERS)
def test_reveal_quotes_the_code_that_runs(number, healthy):
    bug, answer = bugs.BUGS[number - 1], bugs.reveal(number)
    wrong, right = re.findall(r"^    (?:wrong|right): (.*)$", repr(answer), flags=re.MULTILINE)
    for line, (function, _) in ((wrong, bug.wrong), (right, bug.right)):
        source = [row.split("  #")[0].strip() for row in inspect.getsource(function).splitlines()]
        assert source.count(line) == 1
    assert wrong != right
    # The faulty method belongs to the model or to something in it; the right one to the course.
    parts = [model for model in bugs.suspect(number, healthy).modules()]
    parts += list(bugs.suspect(number, healthy).blocks)
    assert any(bug.wrong[0] in vars(cls).values() for m in parts for cls in type(m).__mro__)
    assert bug.right[0].__module__ == MixerBlock.__module__
    assert "github.com/" in repr(answer) and bug.lesson in repr(answer)
    assert answer._repr_html_().startswith(f"<details><summary>Puzzle {number}, the answer</summ")


def test_by_default_suspects_are_twins_of_the_bundled_model():
    healthy = ml.load_pretrained("mixer_nano_cifar10")
    state = torch.get_rng_state()
    model = bugs.suspect(4)
    assert torch.equal(torch.get_rng_state(), state), "the global random state is left alone"
    assert model.config == healthy.config
    for name, p in healthy.state_dict().items():
        assert torch.equal(model.state_dict()[name], p)
    first, again, other = (bugs.suspect(1, healthy, seed=s) for s in (0, 0, 1))
    assert torch.equal(first.stem.weight, again.stem.weight)
    assert not torch.equal(first.stem.weight, other.stem.weight)


@pytest.mark.parametrize("number", [0, 9, -1, True, "1", 2.5, None])
def test_other_numbers_are_refused_in_one_sentence(number):
    for ask in (bugs.suspect, bugs.hint, bugs.reveal):
        with pytest.raises(ValueError, match=r"^Puzzles are numbered from 1 to 8; there is no "):
            ask(number)


@pytest.mark.parametrize("epochs", [1, 5])
def test_every_bug_was_trained_as_the_healthy_model_was(epochs):
    costs = bugs.costs(epochs)
    assert sorted(costs) == [0, *NUMBERS]
    with data_path("bug_costs.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["epochs"] == str(epochs)]
    assert len(rows) == sum(len(runs) for runs in costs.values())
    assert len({(row["model"], row["images"], row["batch_size"]) for row in rows}) == 1
    assert all(set(runs) <= set(costs[0]) and 0 in runs for runs in costs.values())
    assert all(0.1 < a < 0.95 for runs in costs.values() for a in runs.values())
    assert len(costs[0]) >= 2, "how far runs scatter"


def test_costs_that_were_not_measured_are_refused():
    with pytest.raises(ValueError, match="after 1 pass and after 5, not after 3"):
        bugs.costs(3)


def costs_tool():
    path = data_path("README.md").parents[1] / "tools" / "bug_costs.py"
    spec = importlib.util.spec_from_file_location("bug_costs", path)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_healthy_and_faulty_start_their_training_from_the_same_weights():
    build, start = costs_tool().build, []
    for number in (0, 2, 4, 5, 6, 7):
        torch.manual_seed(8)
        start.append(build(number, "mixer_pico_cifar10"))
    assert all(model.training for model in start)
    for model in start[1:]:
        assert torch.equal(model.stem.weight, start[0].stem.weight)
        for ours, theirs in zip(model.blocks, start[0].blocks, strict=True):
            assert torch.equal(ours.mlp_tokens.fc1.weight, theirs.mlp_tokens.fc1.weight)


@pytest.mark.parametrize("number", [3, 5])
def test_the_recipe_trains_and_saves_models_with_hidden_and_shared_weights(number, tmp_path):
    build = functools.partial(costs_tool().build, number)
    recipe = Recipe(epochs=1, batch_size=16, auto_augment=0.0, cutmix=0.0, snapshots=1)
    images = torch.randint(0, 256, (32, 3, 32, 32), dtype=torch.uint8)
    data = dict(images=images, labels=torch.arange(32) % 10)
    model = train("mixer_pico_cifar10", tmp_path, recipe=recipe, seed=8, build=build, **data)
    torch.manual_seed(8)
    start = build("mixer_pico_cifar10")
    init_weights(start, recipe)
    moved = not torch.equal(model.blocks[0].mlp_channels.fc1.weight,
                            start.blocks[0].mlp_channels.fc1.weight)  # fmt: skip
    assert moved == (number == 5) and not torch.equal(model.stem.weight, start.stem.weight)
    saved = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(saved[name], p) for name, p in model.state_dict().items())


# --- mysteries -------------------------------------------------------------------------------

SEEDS = range(100)


@functools.lru_cache(maxsize=1)
def bundled():
    return ml.load_pretrained("mixer_nano_cifar10").double()


def first_apart(model: MlpMixer) -> int:
    """The first block whose output differs from the healthy model's, in double precision."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    ours, theirs = (m.stem(m.patchify(x)) for m in (bundled(), model))
    for number, (one, other) in enumerate(zip(bundled().blocks, model.blocks, strict=True)):
        ours, theirs = one(ours), other(theirs)
        if (ours - theirs).abs().max() > 1e-9:
            return number
    raise AssertionError("the mystery is healthy")


def test_mysteries_are_drawn_by_their_seeds():
    answers = [mysteries.answer(seed) for seed in SEEDS]
    assert {a.kind for a in answers} == set(mysteries.KINDS)
    assert {a.block for a in answers} == set(range(8))
    assert answers == [mysteries.answer(seed) for seed in SEEDS]


@pytest.mark.parametrize("kind", mysteries.KINDS)
@torch.no_grad()
def test_a_mystery_is_wrong_where_it_is_said(kind):
    seeds = [seed for seed in range(200) if mysteries.answer(seed).kind == kind][:2]
    for seed in seeds:
        model = bugs.mystery(seed)
        assert "under suspicion" in repr(model) and not model.training
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
        assert first_apart(model.double()) == mysteries.answer(seed).block
        own, healthy = model.state_dict(), bundled().state_dict()
        changed = {n for n, p in healthy.items() if not torch.equal(own[n], p)}
        assert bool(changed) == (kind in ("norm", "transposed"))


def test_check_culprit_says_which_half_is_right():
    seed, others = 5, list(mysteries.KINDS)
    kind, block = mysteries.answer(seed)
    others.remove(kind)
    assert check.culprit(seed, kind, block)
    for guess, place, mistake in [
        (kind, block + 1, "another block"), (others[0], block, "another mistake"),
        (others[0], block + 1, "neither"),
    ]:  # fmt: skip
        report = check.culprit(seed, guess, place)
        assert not report and report.finding.mistake == mistake
        assert f"bugs.mystery({seed})" in str(report) and "{" not in str(report)
    with pytest.raises(ValueError, match="no kind of mistake 'dropuot'"):
        check.culprit(seed, "dropuot", 0)
    with pytest.raises(ValueError, match="whole number"):
        bugs.mystery(1.5)
