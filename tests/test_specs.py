"""The counts against timm's models, the official constants, Table 1 and the published figures."""

import pytest
import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from mixer_lite.model import MlpMixer
from mixer_lite.specs import (
    CIFAR10_CLASSES,
    SPECS,
    count_macs,
    count_openmmlab_flops,
    count_parameters,
    create_model,
    list_models,
    spec,
)

# Sizes in which no two of S, C, D_S, D_C are equal.
ODD = dict(
    image_size=(24, 40),
    patch_size=8,
    num_classes=7,
    num_blocks=3,
    hidden_dim=20,
    tokens_mlp_dim=11,
    channels_mlp_dim=33,
    in_channels=2,
)
# Table 1 of the paper, in millions, without the head.
TABLE_1 = {
    "mixer_s32_224": 19,
    "mixer_s16_224": 18,
    "mixer_b32_224": 60,
    "mixer_b16_224": 59,
    "mixer_l32_224": 206,
    "mixer_l16_224": 207,
    "mixer_h14_224": 431,
}
IN_TIMM = [name for name in TABLE_1 if name != "mixer_h14_224"]


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(("name", "millions"), TABLE_1.items())
def test_table_1(name, millions):
    assert round(count_parameters(**spec(name) | {"num_classes": 0})["total"] / 1e6) == millions


def test_table_1_row_of_sizes():
    rows = [
        tuple(spec(name)[key] for key in ("num_blocks", "patch_size", "hidden_dim"))
        + ((224 // spec(name)["patch_size"]) ** 2,)
        + tuple(spec(name)[key] for key in ("channels_mlp_dim", "tokens_mlp_dim"))
        for name in TABLE_1
    ]
    assert rows == [
        (8, 32, 512, 49, 2048, 256),
        (8, 16, 512, 196, 2048, 256),
        (12, 32, 768, 49, 3072, 384),
        (12, 16, 768, 196, 3072, 384),
        (24, 32, 1024, 49, 4096, 512),
        (24, 16, 1024, 196, 4096, 512),
        (32, 14, 1280, 256, 5120, 640),
    ]


@pytest.mark.parametrize(
    ("name", "official"),
    [
        ("mixer_b16_224", 59_880_472),
        ("mixer_b32_224", 60_293_428),
        ("mixer_l16_224", 208_196_168),
    ],
)
def test_official_counts(name, official):
    assert count_parameters(**spec(name))["total"] == official


@pytest.mark.parametrize("name", IN_TIMM)
def test_parts_equal_timm(name):
    with torch.device("meta"):
        reference = timm.create_model(name)
    ours = count_parameters(**spec(name))
    blocks = list(reference.blocks)
    assert ours == {
        "stem": parameters(reference.stem),
        "token mixing": sum(parameters(block.mlp_tokens) for block in blocks),
        "channel mixing": sum(parameters(block.mlp_channels) for block in blocks),
        "norms": sum(parameters(block.norm1) + parameters(block.norm2) for block in blocks)
        + parameters(reference.norm),
        "head": parameters(reference.head),
        "total": parameters(reference),
    }


@pytest.mark.parametrize("name", SPECS)
def test_our_models_have_the_counted_parameters(name):
    with torch.device("meta"):
        model = create_model(name)
    assert parameters(model) == count_parameters(**spec(name))["total"]


@pytest.mark.parametrize("num_classes", [7, 0])
def test_parameters_of_odd_sizes(num_classes):
    config = ODD | {"num_classes": num_classes}
    assert parameters(MlpMixer(**config)) == count_parameters(**config)["total"]


@pytest.mark.parametrize("name", [*IN_TIMM, "odd"])
def test_macs_are_half_of_what_torch_counts(name):
    config = ODD if name == "odd" else spec(name)
    with torch.device("meta"):
        model = MlpMixer(**ODD) if name == "odd" else timm.create_model(name)
        images = torch.zeros(1, config.get("in_channels", 3), *_size(config))
        with FlopCounterMode(display=False) as counter:
            model(images)
    flops = counter.get_total_flops()
    assert flops == 2 * count_macs(**config)["total"]


def _size(config):
    size = config["image_size"]
    return size if isinstance(size, tuple) else (size, size)


def test_macs_by_part_equal_what_torch_counts():
    config = spec("mixer_b16_224")
    with torch.device("meta"):
        model = timm.create_model("mixer_b16_224")
        with FlopCounterMode(display=False, depth=3) as counter:
            model(torch.zeros(1, 3, 224, 224))
    flops = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    blocks = range(config["num_blocks"])
    measured = {
        "stem": flops["MlpMixer.stem"],
        "token mixing": sum(flops[f"MlpMixer.blocks.{i}.mlp_tokens"] for i in blocks),
        "channel mixing": sum(flops[f"MlpMixer.blocks.{i}.mlp_channels"] for i in blocks),
        "head": flops["MlpMixer.head"],
        "total": flops["Global"],
    }
    assert measured == {part: 2 * count for part, count in count_macs(**config).items()}


@pytest.mark.parametrize(
    ("name", "params", "flops", "exact"),
    [
        ("mixer_b16_224", "59.88", "12.61", 12_608_827_392),
        ("mixer_l16_224", "208.20", "44.57", 44_566_724_608),
    ],
)
def test_published_figures_to_the_digit(name, params, flops, exact):
    assert f"{count_parameters(**spec(name))['total'] / 1e6:.2f}" == params
    assert f"{count_openmmlab_flops(**spec(name))['total'] / 1e9:.2f}" == flops
    assert count_openmmlab_flops(**spec(name))["total"] == exact


def test_other_conventions_print_other_figures():
    macs = {name: count_macs(**spec(name))["total"] for name in IN_TIMM}
    assert (macs["mixer_b16_224"], macs["mixer_l16_224"]) == (12_601_767_936, 44_547_678_208)


@pytest.mark.parametrize("count", [count_parameters, count_macs, count_openmmlab_flops])
def test_parts_add_up_to_the_total(count):
    counts = count(**ODD)
    total = counts.pop("total")
    assert total == sum(counts.values())


@pytest.mark.parametrize("count", [count_parameters, count_macs, count_openmmlab_flops])
def test_an_image_that_cannot_be_cut_is_refused(count):
    with pytest.raises(ValueError, match="patch_size 15 does not divide the image size 224 x 224"):
        count(**spec("mixer_b16_224") | {"patch_size": 15})


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="Did you mean mixer_b16_224"):
        spec("mixer_b16")


def test_spec_is_a_copy():
    spec("mixer_b16_224")["hidden_dim"] = 1
    assert spec("mixer_b16_224")["hidden_dim"] == 768


def test_create_model_carries_its_configuration():
    model = create_model("mixer_pico_cifar10")
    assert model.config is not None
    assert model.config.class_names == CIFAR10_CLASSES
    assert (model.config.image_size, model.config.crop) == (32, 1.0)
    assert "mixer_pico_cifar10" in list_models()


def test_overrides_replace_the_named_sizes():
    model = create_model("mixer_pico_cifar10", num_classes=3, image_size=48)
    assert (model.head.out_features, model.num_tokens) == (3, 144)
    assert model.config is not None and model.config.class_names == ()
