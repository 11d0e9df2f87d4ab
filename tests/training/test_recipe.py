"""The choices of the recipe."""

import json
from dataclasses import asdict, replace

import pytest
import torch

from mixer_lite._support.files import data_path
from mixer_lite.specs import create_model
from mixer_lite.training.recipe import (
    _RANGES,
    LESSON,
    RECIPES,
    Recipe,
    init_weights,
    learning_rate_share,
    make_optimizers,
    with_choices,
)


@pytest.mark.parametrize("tokens", ["muon", "adamw"])
@pytest.mark.parametrize("channels", ["muon", "adamw"])
def test_every_parameter_has_exactly_one_optimizer(tokens, channels):
    model = create_model("mixer_pico_cifar10")
    recipe = Recipe(
        token_optimizer=tokens, channel_optimizer=channels, token_lr=0.5, channel_lr=0.25
    )
    groups = [g for o in make_optimizers(model, recipe) for g in o.param_groups]
    ids = [id(p) for g in groups for p in g["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    rates = {id(p): g["lr"] for g in groups for p in g["params"]}
    block = model.blocks[3]
    assert rates[id(block.mlp_tokens.fc1.weight)] == rates[id(block.mlp_tokens.fc2.weight)] == 0.5
    assert rates[id(block.mlp_channels.fc2.weight)] == 0.25
    assert rates[id(block.mlp_tokens.fc1.bias)] == rates[id(model.head.weight)] == recipe.other_lr
    kinds = {type(o).__name__ for o in make_optimizers(model, recipe)}
    assert kinds == ({"Muon"} if "muon" in (tokens, channels) else set()) | {"AdamW"}


def test_learning_rate_rises_stays_and_falls_to_zero():
    recipe = replace(Recipe(), epochs=10, warmup_epochs=1.0, decay_share=0.5)
    shares = [learning_rate_share(p, recipe) for p in (0.05, 0.1, 0.3, 0.5, 0.75, 1.0)]
    assert shares == pytest.approx([0.5, 1, 1, 1, 0.5, 0])


def test_cosine_falls_as_pytorchs_schedule_does():
    recipe = replace(Recipe(), epochs=10, warmup_epochs=0.0, decay_share=1.0, decay_shape="cosine")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=50)
    for step in range(51):
        wanted = optimizer.param_groups[0]["lr"]
        assert learning_rate_share(step / 50, recipe) == pytest.approx(wanted, abs=1e-9)
        optimizer.step()
        schedule.step()


def test_every_number_of_the_recipe_has_its_range():
    numbers = {n for n, v in asdict(Recipe()).items() if not isinstance(v, str)}
    assert set(_RANGES) == numbers


def test_small_start_of_token_mixing_alone_or_pytorchs_own():
    model = create_model("mixer_pico_cifar10")
    before = {name: p.clone() for name, p in model.named_parameters()}
    init_weights(model, Recipe(token_std=None))
    changed = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert changed == ["head.weight", "head.bias"] and not model.head.weight.any()
    init_weights(model, Recipe(token_std=0.01))
    for name, p in model.named_parameters():
        if "mlp_tokens" in name and name.endswith("weight"):
            assert p.std().item() == pytest.approx(0.01, rel=0.1)
        elif "head" not in name and "mlp_tokens" not in name:
            assert torch.equal(p, before[name])


def test_choices_from_words():
    recipe = with_choices(
        Recipe(), ["clip=1.5", "epochs=7", "token_rank=None", "token_optimizer=adamw"]
    )
    assert recipe == replace(Recipe(), clip=1.5, epochs=7, token_rank=None, token_optimizer="adamw")
    for words, told in (
        ("clipp=1", "no choice named 'clipp'. Did you mean clip"),
        ("epochs=many", "epochs must be a whole number like 60, not 'many'"),
        ("epochs=1.5", "epochs must be a whole number like 60, not '1.5'"),
        ("token_rank=0", "token_rank must be 1 or more, not 0"),
        ("snapshots=-1", "snapshots must be 0 or more, not -1"),
        ("clip=-1", "clip must be 0 or more, not -1.0"),
        ("clip=nan", "clip must be 0 or more, not nan"),
        ("other_lr=inf", "other_lr must be 0 or more, not inf"),
        ("cutmix=-0.1", "cutmix must be from 0 to 1, not -0.1"),
        ("auto_augment=1.5", "auto_augment must be from 0 to 1, not 1.5"),
        ("adam_beta2=1", "adam_beta2 must be from 0 to 0.999999, not 1"),
        ("epochs=0", "epochs must be 1 or more"),
        ("clip=None", "clip must be a number"),
        ("decay_shape=steps", "decay_shape must be 'linear' or 'cosine', not 'steps'"),
        ("mixup=0.7", "together they are at most 1, not 1.2"),
    ):
        with pytest.raises(ValueError, match=told):
            with_choices(Recipe(), [words])


def test_shipped_weights_keep_their_recipe():
    # Every choice that their model cards print, and nothing new switched on.
    grid16 = replace(Recipe(), epochs=20, token_rank=12, auto_augment=0.25, cutmix=0.25)
    assert RECIPES == {"mixer_femto_cifar10": LESSON, "mixer_grid16_cifar10": grid16}
    for name in ("mixer_nano_cifar10", "mixer_grid16_cifar10"):
        whole = json.loads(data_path(f"{name}.json").read_text(encoding="utf-8"))
        card = [*whole.get("earlier", []), whole][0]["recipe"]  # that of the first training
        ours = asdict(RECIPES.get(name, Recipe()))
        assert {k: ours[k] for k in card} == card
        off = {k: v for k, v in ours.items() if k not in card}
        assert off == dict(
            token_optimizer="muon", channel_optimizer="muon", adam_beta2=0.98, mixup=0.0,
            decay_shape="linear", erase=0.0, clip=0.0, ema=0.0, average_share=0.0,
            teacher_temperature=1.0, start_share=0.0,
        )  # fmt: skip
