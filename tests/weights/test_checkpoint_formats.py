"""Every layout, in every container, gives the numbers of the code that it came from."""

import argparse
import importlib.util
from collections import OrderedDict

import numpy as np
import numpy_mixers
import pytest
import timm
import torch
from safetensors.torch import save_file

import mixer_lite as ml
from mixer_lite.specs import CIFAR10_CLASSES, ModelConfig
from mixer_lite.weights.checkpoints import (
    to_google_npz,
    to_lucidrains_state_dict,
    to_openmmlab_state_dict,
    to_timm_state_dict,
)

IMAGES = np.random.default_rng(1).normal(size=(2, 3, 20, 20)).astype(np.float32)
SIZES = numpy_mixers.SIZES


def tensors(state):
    return {k: torch.from_numpy(v) for k, v in state.items()}


def put_safetensors(state, path):
    save_file({k: v.contiguous() for k, v in tensors(state).items()}, path)


def put_legacy(state, path):
    torch.save(tensors(state), path, _use_new_zipfile_serialization=False)


def put_npz(state, path):
    with open(path, "wb") as file:
        np.savez(file, **state)


def put_packed_npz(state, path):
    with open(path, "wb") as file:
        np.savez_compressed(file, **state)


CONTAINERS = {
    "zip": lambda state, path: torch.save(tensors(state), path),
    "legacy": put_legacy,
    "safetensors": put_safetensors,
    "npz": put_npz,
    "packed npz": put_packed_npz,
}
NUMERICS = {
    "google": ("tanh", 1e-6),
    "openmmlab": ("exact", 1e-5),
    "lucidrains": ("exact", 1e-5),
}


def largest(model, images, expected):
    """Largest differences of logits in float32 and float64; the model is changed to float64."""
    with torch.no_grad():
        single = model(torch.from_numpy(images).float()).double().numpy()
        double = model.double()(torch.from_numpy(images).double()).numpy()
    return np.abs(single - expected).max(), np.abs(double - expected).max()


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("project", numpy_mixers.FORWARD)
def test_layouts_give_the_numbers_of_an_independent_forward(tmp_path, project, container):
    state = numpy_mixers.random_state(project, **SIZES)
    CONTAINERS[container](state, tmp_path / "weights.bin")  # the name tells nothing
    model = ml.load_checkpoint(tmp_path / "weights.bin")
    assert (model.gelu, model.norm_eps) == NUMERICS[project]
    assert (model.image_size, model.patch_size, model.num_classes) == ((20, 20), 4, 7)
    assert (model.num_tokens, model.hidden_dim, model.num_blocks) == (25, 24, 3)
    assert (model.tokens_mlp_dim, model.channels_mlp_dim) == (18, 40)
    single, double = largest(model, IMAGES, numpy_mixers.FORWARD[project](state, IMAGES))
    assert single < 5e-6 and double < 1e-12


@pytest.mark.parametrize("project", numpy_mixers.FORWARD)
@pytest.mark.parametrize("depth, classes", [(1, 0), (4, 0), (12, 3)])
def test_any_depth_and_head(tmp_path, project, depth, classes):
    state = numpy_mixers.random_state(project, **SIZES | dict(depth=depth, classes=classes))
    # Small weights: the sums of deep models then stay of the size that the tolerance is for.
    state = {k: v if v.ndim == 1 else v / 2 for k, v in state.items()}
    put_npz(state, tmp_path / "a")
    model = ml.load_checkpoint(tmp_path / "a")
    assert (model.num_blocks, model.num_classes) == (depth, classes)
    single, double = largest(model, IMAGES, numpy_mixers.FORWARD[project](state, IMAGES))
    assert single < 5e-6 and double < 1e-12


@pytest.mark.parametrize("classes", [0, 5])
def test_timms_own_model_in_single_and_double_precision(tmp_path, classes):
    theirs = timm.models.mlp_mixer.MlpMixer(
        img_size=20, patch_size=4, num_classes=classes, num_blocks=3, embed_dim=24,
        mlp_ratio=(0.75, 3.0),
    ).eval()  # fmt: skip
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.2)
    save_file(theirs.state_dict(), tmp_path / "a")
    model = ml.load_checkpoint(tmp_path / "a")
    x = torch.from_numpy(IMAGES)
    with torch.no_grad():
        assert (model(x) - theirs(x)).abs().max() < 5e-6
        assert (model.double()(x.double()) - theirs.double()(x.double())).abs().max() < 1e-12


@pytest.mark.parametrize("channels", [1, 4])
def test_images_of_other_channels_are_read_off_a_convolution(tmp_path, channels):
    theirs = timm.models.mlp_mixer.MlpMixer(
        img_size=20, patch_size=4, num_classes=5, num_blocks=1, embed_dim=24, in_chans=channels,
        mlp_ratio=(0.75, 3.0),
    ).eval()  # fmt: skip
    torch.nn.init.normal_(theirs.head.weight)
    torch.save(theirs.state_dict(), tmp_path / "a.pth")
    x = torch.randn(2, channels, 20, 20)
    with torch.no_grad():
        assert (ml.load_checkpoint(tmp_path / "a.pth")(x) - theirs(x)).abs().max() < 5e-6


@pytest.mark.parametrize("project", numpy_mixers.FORWARD)
@pytest.mark.parametrize("classes", [0, 7])
def test_exports_have_the_projects_names_shapes_and_numbers(tmp_path, project, classes):
    gelu, norm_eps = NUMERICS[project]
    model = ml.MlpMixer(
        image_size=20, patch_size=4, num_classes=classes, num_blocks=3, hidden_dim=24,
        tokens_mlp_dim=18, channels_mlp_dim=40, gelu=gelu, norm_eps=norm_eps,
    )  # fmt: skip
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    if project == "google":
        to_google_npz(model, tmp_path / "a.weights")
        with np.load(tmp_path / "a.weights", allow_pickle=False) as file:
            state = dict(file)
    else:
        to = {"openmmlab": to_openmmlab_state_dict, "lucidrains": to_lucidrains_state_dict}
        state = {k: v.numpy() for k, v in to[project](model).items()}
    like = numpy_mixers.random_state(project, **SIZES | dict(classes=classes))
    assert {k: v.shape for k, v in state.items()} == {k: v.shape for k, v in like.items()}
    assert all(v.dtype == np.float32 and v.flags["C_CONTIGUOUS"] for v in state.values())
    expected = numpy_mixers.FORWARD[project](state, IMAGES)
    put_npz(state, tmp_path / "b")
    again = ml.load_checkpoint(tmp_path / "b")
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    single, double = largest(model, IMAGES, expected)
    assert single < 5e-6 and double < 1e-12


def test_exports_share_no_memory_with_the_model():
    model = ml.create_model("mixer_pico_cifar10")
    before = model.stem.bias.clone()
    for export in (to_timm_state_dict, to_openmmlab_state_dict, to_lucidrains_state_dict):
        for value in export(model).values():
            value.fill_(9)
    assert torch.equal(model.stem.bias, before)


def openmmlab(classes=7):
    return tensors(numpy_mixers.random_state("openmmlab", **SIZES | dict(classes=classes)))


def prefixed(prefix, state):
    return {prefix + k: v for k, v in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {"meta": {}, "state_dict": s},
        lambda s: {"state_dict": prefixed("module.", s), "optimizer": {"state": {}}},
        lambda s: {"model": {"state_dict": s}},
        lambda s: {"state_dict": s, "ema_state_dict": {k: v * 0 for k, v in s.items()}},
        lambda s: {"model": {k: v * 0 for k, v in s.items()}, "model_ema": s},
        lambda s: {"state_dict_ema": prefixed("module.", s)},
        lambda s: {"ema_state_dict": prefixed("module.", s), "steps": 3},
        lambda s: prefixed("timm_model.", s),
        lambda s: prefixed("model.", s),
        lambda s: prefixed("module._orig_mod.", s),
        lambda s: prefixed("module.model.", s),
        lambda s: {k.replace("backbone.", "backbone.module."): v for k, v in s.items()},
        lambda s: {k: torch.nn.Parameter(v) for k, v in s.items()},
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_wrappers_and_prefixes(tmp_path, wrap, zipped):
    state = openmmlab()
    torch.save(wrap(state), tmp_path / "a", _use_new_zipfile_serialization=zipped)
    model = ml.load_checkpoint(tmp_path / "a")
    for name, value in to_openmmlab_state_dict(model).items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    state = {k: v.to(dtype) for k, v in openmmlab().items()}
    torch.save(state, tmp_path / "a.pth")
    save_file(state, tmp_path / "a.safetensors")
    for name in ("a.pth", "a.safetensors"):
        for key, value in to_openmmlab_state_dict(ml.load_checkpoint(tmp_path / name)).items():
            assert value.dtype == torch.float32 and torch.equal(value, state[key].float()), key


def test_bfloat16_of_jax_and_other_byte_orders(tmp_path):
    state = numpy_mixers.random_state("google", **SIZES)
    half = {k: torch.from_numpy(v).bfloat16() for k, v in state.items()}
    put_npz({k: v.view(torch.int16).numpy().view("V2") for k, v in half.items()}, tmp_path / "b")
    put_npz({k: v.float().numpy().astype(">f4") for k, v in half.items()}, tmp_path / "c")
    put_npz({k: np.asfortranarray(v.float().numpy()) for k, v in half.items()}, tmp_path / "d")
    b, c, d = (ml.load_checkpoint(tmp_path / n).state_dict() for n in "bcd")
    for name, value in b.items():
        assert torch.equal(value, c[name]) and torch.equal(value, d[name]), name
    assert torch.equal(b["head.weight"], half["head/kernel"].float().T)


def test_weights_can_be_trained_and_outlive_their_file(tmp_path):
    for name in ("zip", "safetensors", "npz", "legacy"):
        path = tmp_path / name
        CONTAINERS[name](numpy_mixers.random_state("openmmlab", **SIZES), path)
        model = ml.load_checkpoint(path)
        before = {k: v.clone() for k, v in model.state_dict().items()}
        path.write_bytes(b"\0" * path.stat().st_size)  # as saving over it would
        for key, value in model.state_dict().items():
            assert torch.equal(value, before[key]), key
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        model.train()(torch.from_numpy(IMAGES)).square().mean().backward()
        optimizer.step()
        for key, p in model.named_parameters():
            assert p.requires_grad and p.dtype == torch.float32 and p.is_contiguous()
            assert p.grad is not None and not torch.equal(p, before[key]), key


def test_weights_that_were_views_of_one_memory_get_their_own(tmp_path):
    state = openmmlab()
    flat = torch.cat([v.flatten() for v in state.values()])
    views, start = {}, 0
    for name, value in state.items():
        views[name] = flat[start : start + value.numel()].view(value.shape)
        start += value.numel()
    # Two entries in one place, beside enough else that the file is large enough for both.
    views["backbone.layers.0.ln2.bias"] = views["backbone.layers.0.ln1.bias"]
    torch.save({"state_dict": views, "optimizer": torch.zeros(100)}, tmp_path / "a.pth")
    model = ml.load_checkpoint(tmp_path / "a.pth")
    places = {p.untyped_storage().data_ptr() for p in model.parameters()}
    assert len(places) == len(list(model.parameters()))
    assert all(p.untyped_storage().nbytes() == p.nbytes for p in model.parameters())
    assert torch.equal(model.blocks[0].norm1.bias, model.blocks[0].norm2.bias)


def test_weights_that_are_not_contiguous(tmp_path):
    state = openmmlab()
    turned = {k: v.T.contiguous().T if v.ndim == 2 else v for k, v in state.items()}
    assert not turned["head.fc.weight"].is_contiguous()
    torch.save(turned, tmp_path / "a.pth")
    model = ml.load_checkpoint(tmp_path / "a.pth")
    assert all(p.is_contiguous() for p in model.parameters())
    for name, value in to_openmmlab_state_dict(model).items():
        assert torch.equal(value, state[name]), name


def test_a_training_of_timms_own(tmp_path):
    # Its saver keeps the weights, their average, the optimizer and the arguments in one file.
    model = timm.create_model("mixer_s32_224", num_classes=3)
    average = timm.utils.ModelEmaV3(model, decay=0.9)
    for p in average.module.parameters():
        torch.nn.init.normal_(p, std=0.1)
    saver = timm.utils.CheckpointSaver(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        args=argparse.Namespace(model="mixer_s32_224", mean=None, lr=0.1),
        model_ema=average,
        checkpoint_dir=str(tmp_path),
    )
    saver.save_checkpoint(epoch=1, metric=0.5)
    loaded = to_timm_state_dict(ml.load_checkpoint(tmp_path / "last.pth.tar"))
    for name, value in average.module.state_dict().items():
        assert torch.equal(loaded[name], value), name


def test_own_files_keep_what_shapes_do_not_tell(tmp_path):
    model = ml.MlpMixer(
        image_size=(12, 20), patch_size=4, num_classes=5, num_blocks=2, hidden_dim=24,
        tokens_mlp_dim=18, channels_mlp_dim=40, in_channels=2, gelu="tanh", norm_eps=1e-4,
    ).eval()  # fmt: skip
    ml.save_checkpoint(model, tmp_path / "a.safetensors")
    again = ml.load_checkpoint(tmp_path / "a.safetensors")
    assert (again.image_size, again.in_channels, again.patch_size) == ((12, 20), 2, 4)
    assert (again.gelu, again.norm_eps, again.config) == ("tanh", 1e-4, None)
    x = torch.randn(2, 2, 12, 20)
    assert torch.equal(again(x), model(x))


def test_own_weights_in_other_containers(tmp_path):
    model = ml.create_model("mixer_pico_cifar10").eval()
    torch.save(model.state_dict(), tmp_path / "a.pth")
    again = ml.load_checkpoint(tmp_path / "a.pth")
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(again(x), model(x)) and again.config.class_names == ()


def test_preprocessing_is_that_of_the_source(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for project in numpy_mixers.FORWARD:
        put_npz(numpy_mixers.random_state(project, **SIZES), tmp_path / project)
        c = ml.load_checkpoint(tmp_path / project).config
        assert (c.mean, c.std, c.interpolation, c.crop) == (
            (0.5,) * 3,
            (0.5,) * 3,
            "bicubic",
            0.875,
        )
        assert (c.image_size, c.name, c.resize) == (20, project, "pillow")
        assert ("OpenCV, which resizes images there, is not installed" in c.source) == (
            project == "openmmlab"
        )
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    for project in numpy_mixers.FORWARD:
        c = ml.load_checkpoint(tmp_path / project).config
        assert c.resize == ("opencv" if project == "openmmlab" else "pillow")
    own = ModelConfig(name="mine", image_size=20, mean=(0.1, 0.2, 0.3))
    assert ml.load_checkpoint(tmp_path / "google", config=own).config is own


@pytest.mark.parametrize("classes, name", [(1000, "tench"), (21843, ""), (11221, "")])
def test_imagenet_heads_bring_their_class_names(tmp_path, classes, name):
    theirs = timm.models.mlp_mixer.MlpMixer(
        img_size=20, patch_size=4, num_classes=classes, num_blocks=1, embed_dim=8
    )
    save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    c = ml.load_checkpoint(tmp_path / "a.safetensors").config
    assert len(c.class_names) == classes and c.class_names[0].startswith(name)
    # MIIL's head of 11221 classes came with images that were not normalised.
    miil = timm.create_model("mixer_b16_224.miil_in21k", num_classes=0).pretrained_cfg
    goog = timm.create_model("mixer_b16_224.goog_in21k", num_classes=0).pretrained_cfg
    cfg = miil if classes == 11221 else goog
    assert (c.mean, c.std, c.interpolation) == (cfg["mean"], cfg["std"], cfg["interpolation"])


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    put_npz(numpy_mixers.random_state("google", **SIZES), tmp_path / "a")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    ml.load_checkpoint(tmp_path / "a")
    assert torch.equal(torch.rand(3), expected)


def test_saved_config_comes_back(tmp_path):
    model = ml.create_model("mixer_pico_cifar10")
    model.config = ModelConfig(
        name="x", image_size=32, mean=(0.1, 0.2, 0.3), crop=1.0, resize="opencv",
        class_names=CIFAR10_CLASSES, source="made here" + " and there" * 18, temperature=0.7,
    )  # fmt: skip
    ml.save_checkpoint(model, tmp_path / "a.safetensors")
    assert ml.load_checkpoint(tmp_path / "a.safetensors").config == model.config


class OfPython2(dict):
    """Pickled as Python 2 pickled an OrderedDict: with its pairs in a list."""

    def __reduce__(self):
        return OrderedDict, ([list(pair) for pair in self.items()],)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_state_dict_that_python_2_wrote(tmp_path, zipped):
    # lpips' weights of 2018, which its wheel carries, are such.
    model = ml.create_model("mixer_pico_cifar10")
    torch.save(OfPython2(model.state_dict()), tmp_path / "a.pth",
               _use_new_zipfile_serialization=zipped)  # fmt: skip
    again = ml.load_checkpoint(tmp_path / "a.pth").state_dict()
    assert all(torch.equal(again[k], v) for k, v in model.state_dict().items())
