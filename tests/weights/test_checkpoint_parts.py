"""A Mixer that is part of a larger model, of other channels and grids, in layouts of one's own."""

from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer as TimmMixer

import mixer_lite as ml
from mixer_lite import cli
from mixer_lite.weights.layouts import LAYOUTS, Layout, from_layout, to_layout


def timms(**sizes):
    torch.manual_seed(0)
    given = dict(num_classes=5, img_size=16, patch_size=4, num_blocks=2, embed_dim=24) | sizes
    return TimmMixer(**given).eval()


def saved(tmp_path, state):
    torch.save(state, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def answers_alike(model, reference, size=(16, 16), channels=3):
    x = torch.randn(2, channels, *size)
    with torch.inference_mode():
        return torch.allclose(model(x), reference(x), atol=1e-5)


# Prefixes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["net.", "backbone.", "encoder.", "student.net.", "_fsdp_wrapped_module.", "model."]
)
def test_a_common_prefix_is_no_part_of_the_names(tmp_path, prefix):
    reference = timms()
    state = {prefix + k: v for k, v in reference.state_dict().items()}
    model = ml.load_checkpoint(saved(tmp_path, {"state_dict": state}))
    assert answers_alike(model, reference)


def test_wrappers_of_every_block_are_no_part_of_the_names(tmp_path):
    reference = timms()
    state = {
        "_fsdp_wrapped_module." + k.replace("blocks.0.", "blocks.0._fsdp_wrapped_module."): v
        for k, v in reference.state_dict().items()
    }
    assert answers_alike(ml.load_checkpoint(saved(tmp_path, state)), reference)


@pytest.mark.parametrize("prefix", ["model.", "net."])
def test_what_lies_outside_is_ignored_and_named(tmp_path, prefix):
    reference = timms()
    state = {prefix + k: v for k, v in reference.state_dict().items()}
    state |= {"criterion.weight": torch.ones(5), "metric.count": torch.tensor(3)}
    with pytest.warns(UserWarning, match=r"outside of the Mixer: criterion\.weight, metric\.count"):
        model = ml.load_checkpoint(saved(tmp_path, {"state_dict": state}))
    assert answers_alike(model, reference)


def test_a_head_of_another_name_is_named_and_the_rest_has_none(tmp_path):
    reference = timms(num_classes=0)
    state = {f"encoder.{k}": v for k, v in reference.state_dict().items()}
    state |= {"classifier.weight": torch.ones(5, 24), "classifier.bias": torch.ones(5)}
    with pytest.warns(UserWarning, match=r"classifier\.weight, classifier\.bias"):
        model = ml.load_checkpoint(saved(tmp_path, state))
    assert model.num_classes == 0 and answers_alike(model, reference)


def test_two_mixers_are_asked_about(tmp_path):
    state = timms().state_dict()
    both = {f"{who}.{k}": v.clone() for who in ("student", "teacher") for k, v in state.items()}
    with pytest.raises(ValueError, match=r"several Mixers here, under student\., teacher\.: save"):
        ml.load_checkpoint(saved(tmp_path, both))


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_may_have_a_prefix(tmp_path, layout):
    model = ml.create_model("mixer_pico_cifar10").eval()
    state = to_layout(model.state_dict(), LAYOUTS[layout], model.patch_size)
    back = ml.load_checkpoint(saved(tmp_path, {f"whole.{k}": v for k, v in state.items()}))
    for name, weight in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight)


# Grids and channels -----------------------------------------------------------------------------


def test_a_grid_that_is_not_square_is_given(tmp_path, capsys):
    # timm's own Mixer takes square images alone: its weights for 64 tokens are taken as 4 x 16.
    reference = timms(img_size=32)
    path = saved(tmp_path, reference.state_dict())
    model = ml.load_checkpoint(path)
    assert model.image_size == (32, 32) and model.config.source.endswith("grid assumed square")
    assert cli.main(["info", str(path)]) == 0 and "grid assumed square" in capsys.readouterr().out
    model = ml.load_checkpoint(path, image_size=(16, 64))
    assert model.image_size == (16, 64) and model.grid_size == (4, 16)
    square = ml.load_checkpoint(path, image_size=32)
    assert square.image_size == (32, 32) and "assumed" not in square.config.source
    with pytest.raises(ValueError, match=r"64 tokens of 48 values are not an image of \(16, 32\)"):
        ml.load_checkpoint(path, image_size=(16, 32))
    ml.save_checkpoint(model, tmp_path / "ours.safetensors")
    assert cli.main(["info", str(tmp_path / "ours.safetensors")]) == 0
    assert "16 x 64 pixels" in (said := capsys.readouterr().out) and "(4 x 16)" in said


def lucidrains(tmp_path, pixels, tokens=16):
    """Weights whose first layer is a matrix, so that channels and patch are one number."""
    model = ml.MlpMixer(image_size=16, patch_size=4, num_classes=5, num_blocks=2, hidden_dim=24,
                        tokens_mlp_dim=10, channels_mlp_dim=20)  # fmt: skip
    state = to_layout(model.state_dict(), LAYOUTS["lucidrains"], 4)
    state["1.weight"] = torch.randn(24, pixels)
    return saved(tmp_path, state)


def test_channels_are_inferred_where_one_number_fits(tmp_path):
    # 28 x 28 digits in patches of 7: 49 = 1 x 7 x 7.
    model = ml.load_checkpoint(lucidrains(tmp_path, 49))
    assert (model.in_channels, model.patch_size, model.image_size) == (1, 7, (28, 28))
    digit = (np.random.default_rng(0).random((28, 28)) * 255).astype(np.uint8)
    assert len(ml.predict(model, digit, top_k=2)) == 2
    assert model.config.source.endswith("grid assumed square, grey images assumed")
    assert ml.load_checkpoint(lucidrains(tmp_path, 48)).in_channels == 3
    assert ml.load_checkpoint(lucidrains(tmp_path, 16)).patch_size == 4  # grey, not 4 x 2 x 2
    two = ml.load_checkpoint(lucidrains(tmp_path, 2 * 49))
    assert (two.in_channels, two.patch_size) == (2, 7)


def test_channels_that_are_left_open_are_asked_for(tmp_path):
    path = lucidrains(tmp_path, 2 * 16)  # 2 x 4 x 4 or 8 x 2 x 2
    with pytest.raises(ValueError, match=r"Patches of 32 .*load_checkpoint\(path, image_size="):
        ml.load_checkpoint(path)
    model = ml.load_checkpoint(path, in_channels=8)
    assert (model.in_channels, model.patch_size) == (8, 2)
    assert ml.load_checkpoint(path, patch_size=4).in_channels == 2
    with pytest.raises(ValueError, match="Patches of 32"):
        ml.load_checkpoint(path, in_channels=3)
    with pytest.raises(ValueError, match="Patches of 47"):
        ml.load_checkpoint(lucidrains(tmp_path, 47))


def test_the_stem_tells_timms_channels(tmp_path):
    reference = timms(in_chans=2)
    model = ml.load_checkpoint(saved(tmp_path, reference.state_dict()))
    assert model.in_channels == 2 and answers_alike(model, reference, channels=2)


# A layout with names of its own -----------------------------------------------------------------


def test_a_layout_knows_what_its_biases_are_called():
    # As Keras names them: kernel and bias, gamma and beta.
    rows = {}
    for ours, (theirs, pattern) in LAYOUTS["google"].rows.items():
        rows[ours] = (theirs.replace("scale", "gamma"), pattern)
    keras = Layout("Keras", rows, biases={"gamma": "beta"})
    model = ml.create_model("mixer_pico_cifar10")
    state = to_layout(model.state_dict(), keras, model.patch_size)
    assert "MixerBlock_0/LayerNorm_0/beta" in state and "head/bias" in state
    assert "MixerBlock_0/LayerNorm_0/bias" not in state
    back = {ours: weight for ours, _, weight in from_layout(dict(state), model, keras)}
    assert all(torch.equal(back[k], v) for k, v in model.state_dict().items())


def test_a_layout_knows_how_images_are_resized_there(tmp_path):
    import cv2  # noqa: F401  comes with the dev extra: without it this fails

    model = ml.create_model("mixer_pico_cifar10")
    for name, resize in (("openmmlab", "opencv"), ("timm", "pillow")):
        state = to_layout(model.state_dict(), LAYOUTS[name], model.patch_size)
        config = ml.load_checkpoint(saved(tmp_path, state)).config
        assert (config.resize, config.upright) == (resize, resize == "opencv")
        assert replace(LAYOUTS[name]).resize == resize


def test_timm_itself_opens_what_was_taken_out_of_a_larger_model(tmp_path):
    reference = timms()
    state = {f"net.{k}": v for k, v in reference.state_dict().items()}
    model = ml.load_checkpoint(saved(tmp_path, state))
    again = timm.models.mlp_mixer.MlpMixer(
        num_classes=5, img_size=16, patch_size=4, num_blocks=2, embed_dim=24
    ).eval()
    again.load_state_dict(ml.to_timm_state_dict(model))
    assert answers_alike(again, reference)
