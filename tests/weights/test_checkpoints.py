"""Weights in and out of files, and what damaged or unsafe files get."""

import pickle

import pytest
import timm
import torch
from safetensors.torch import save_file

import mixer_lite as ml
from mixer_lite.weights.checkpoints import from_timm_state_dict, read_arguments


def small_timm():
    """A timm Mixer with every parameter random; S = 16, C = 24."""
    model = timm.models.mlp_mixer.MlpMixer(
        img_size=32, patch_size=8, num_classes=5, num_blocks=2, embed_dim=24, mlp_ratio=(0.75, 3.0)
    )
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    return model.eval()


X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": s},
        lambda s: {"state_dict": {}, "state_dict_ema": s},
        lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}},
    ],
)
def test_timm_pth_gives_timm_logits(tmp_path, wrap):
    theirs = small_timm()
    torch.save(wrap(theirs.state_dict()), tmp_path / "a.pth")
    ours = ml.load_checkpoint(tmp_path / "a.pth")
    assert (ours(X) - theirs(X)).abs().max() < 5e-6
    assert (ours.num_blocks, ours.tokens_mlp_dim, ours.channels_mlp_dim) == (2, 18, 72)
    assert not ours.training


def test_timm_safetensors_and_the_way_back(tmp_path):
    theirs = small_timm()
    save_file(theirs.state_dict(), tmp_path / "a.safetensors")
    back = ml.to_timm_state_dict(ml.load_checkpoint(tmp_path / "a.safetensors"))
    assert back.keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(back[name], value), name


def test_save_and_load_keep_everything(tmp_path):
    model = ml.create_model("mixer_pico_cifar10", gelu="tanh")
    torch.nn.init.normal_(model.head.weight)
    ml.save_checkpoint(model, tmp_path / "m.safetensors")
    again = ml.load_checkpoint(tmp_path / "m.safetensors")
    assert again.config == model.config and again.gelu == "tanh"
    assert torch.equal(model(X), again(X))
    ml.save_checkpoint(model, tmp_path / "h.safetensors", dtype=torch.float16)
    half = ml.load_checkpoint(tmp_path / "h.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(half.state_dict()[name], value.half().float()), name


def test_model_without_head_goes_both_ways(tmp_path):
    model = ml.create_model("mixer_pico_cifar10", num_classes=0)
    ml.save_checkpoint(model, tmp_path / "m.safetensors")
    assert torch.equal(ml.load_checkpoint(tmp_path / "m.safetensors")(X), model(X))


@pytest.mark.parametrize("name", ["mixer_s32_224", "mixer_b16_224", "mixer_l32_224"])
def test_every_size_is_read_off_the_shapes(name):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    assert read_arguments(from_timm_state_dict(state)) == ml.specs.spec(name)


class _Bomb:
    def __reduce__(self):
        import pathlib

        return pathlib.Path.touch, (pathlib.Path("EXECUTED"),)


def test_pickle_with_code_is_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": _Bomb()}, tmp_path / "evil.pth")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Bomb()))
    for name in ("evil.pth", "plain.pt"):
        with pytest.raises(ValueError, match=r"not opened|damaged"):
            ml.load_checkpoint(tmp_path / name)
    assert not (tmp_path / "EXECUTED").exists()


def test_bad_files_get_one_clear_sentence(tmp_path):
    save_file(small_timm().state_dict(), tmp_path / "good.safetensors")
    whole = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-100])
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "a.h5").write_text("x")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    state = small_timm().state_dict()
    del state["blocks.1.norm2.bias"]
    torch.save(state, tmp_path / "lacking.pt")
    for name, words in {
        "cut.safetensors": "not a whole safetensors file",
        "text.pth": "of no kind that is known here",
        "a.h5": "of no kind that is known here",
        "tensor.pt": "no state dict",
        "linear.pt": "not an MLP-Mixer's weights",
        "lacking.pt": r"missing blocks\.1\.norm2\.bias \(24,\)\.$",
    }.items():
        with pytest.raises(ValueError, match=words) as error:
            ml.load_checkpoint(tmp_path / name)
        assert "\n" not in str(error.value), name
    with pytest.raises(FileNotFoundError):
        ml.load_checkpoint(tmp_path / "nothing.pth")


def test_shapes_of_no_square_grid_are_refused():
    state = ml.MlpMixer(
        image_size=(16, 32), patch_size=4, num_classes=5, num_blocks=1,
        hidden_dim=24, tokens_mlp_dim=12, channels_mlp_dim=40,
    ).state_dict()  # fmt: skip
    with pytest.raises(ValueError, match="32 tokens of 48 values are not a square grid"):
        read_arguments(state)
