"""Token-mixing matrices of ResMLP, gMLP and gMixer, held to what timm's own models do with them."""

import pytest
import timm
import torch
from einops import einsum, rearrange
from safetensors.torch import save_file

import mixer_lite as ml
from mixer_lite import filters
from mixer_lite.weights import relatives


def random_model(family: str):
    """Three blocks of timm's model on 3 x 3 patches, and the layers that mix its tokens."""
    with torch.device("meta"):
        model = timm.create_model(f"{family}_224", img_size=48, num_classes=5).double().eval()
    model.blocks = model.blocks[:3]
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    place = {"resmlp_12": "linear_tokens", "gmixer_24": "mlp_tokens"}
    layers = [
        block.mlp_channels.gate.proj if family == "gmlp_s16" else getattr(block, place[family])
        for block in model.blocks
    ]
    return model, layers


def close(ours, theirs) -> bool:
    # The matrices are float32; what goes through them is not.
    assert theirs.abs().max() > 1e-3
    return (ours - theirs).abs().max() < 1e-6 * theirs.abs().max()


def heard(model, layer):
    """What one layer gets and gives while the model looks at an image."""
    seen = []
    hook = layer.register_forward_hook(lambda _, x, y: seen.extend((x[0], y)))
    with torch.no_grad():
        model(torch.randn(2, 3, 48, 48, dtype=torch.float64))
    hook.remove()
    return seen  # (b, channels, S) each


@pytest.mark.parametrize("family", ["resmlp_12", "gmlp_s16"])
def test_rows_of_a_linear_mixer_are_what_each_token_is_made_of(family):
    model, layers = random_model(family)
    mixing = relatives.token_mixing(model.state_dict(), name="x")
    assert (mixing.num_blocks, mixing.grid_size, mixing.tokens_mlp_dim) == (3, (3, 3), 9)
    for i, layer in enumerate(layers):
        maps = filters.token_filters(mixing, i).double()
        assert maps.shape == (9, 3, 3)
        got, gave = heard(model, layer)
        grid = rearrange(got, "b c (gh gw) -> b c gh gw", gh=3)
        ours = einsum(maps, grid, "s gh gw, b c gh gw -> b c s") + layer.bias
        assert close(ours, gave)
        with pytest.raises(ValueError, match='one matrix a block: it has "fc1" alone'):
            filters.token_filters(mixing, i, "fc2")


def test_gmixer_reads_where_its_gate_opens_and_writes():
    model, layers = random_model("gmixer_24")
    mixing = relatives.token_mixing(model.state_dict(), name="x")
    assert (mixing.num_blocks, mixing.grid_size, mixing.tokens_mlp_dim) == (3, (3, 3), 192)
    for i, layer in enumerate(layers):
        reads = filters.token_filters(mixing, i, "fc1").double()
        writes = filters.token_filters(mixing, i, "fc2").double()
        gates = mixing.blocks[i].mlp_tokens.gate.weight.double()
        assert reads.shape == writes.shape == (192, 3, 3) and gates.shape == (192, 9)
        got, gave = heard(model, layer)
        grid = rearrange(got, "b c (gh gw) -> b c gh gw", gh=3)
        read = einsum(reads, grid, "u gh gw, b c gh gw -> b c u") + layer.fc1.bias[:192]
        gate = torch.nn.functional.silu(got @ gates.T + layer.fc1.bias[192:])
        ours = einsum(read * gate, writes, "b c u, u gh gw -> b c gh gw")
        ours = rearrange(ours, "b c gh gw -> b c (gh gw)") + layer.fc2.bias
        assert close(ours, gave)


def test_metas_own_names_of_the_same_layers():
    model, _ = random_model("resmlp_12")
    theirs = {k.replace("linear_tokens", "attn"): v for k, v in model.state_dict().items()}
    mixing = relatives.token_mixing(theirs, name="x")
    assert torch.equal(
        mixing.blocks[2].mlp_tokens.fc1.weight.double(),
        model.blocks[2].linear_tokens.weight.float().double(),
    )


def test_names_are_timms_and_sizes_are_those_of_its_models():
    known = timm.list_models(["resmlp_*", "gmlp_*", "gmixer_*"], pretrained=True)
    assert set(ml.list_relatives()) == set(known)
    for name, (megabytes, source) in relatives.RELATIVES.items():
        with torch.device("meta"):
            model = timm.create_model(name.split(".")[0])
        assert round(sum(p.numel() for p in model.parameters()) * 4 / 1e6) == megabytes
        assert timm.get_pretrained_cfg(name).hf_hub_id == f"timm/{name}"
        assert source.endswith(".") and "\n" not in source


def test_load_by_name(tmp_path):
    model, _ = random_model("resmlp_12")
    path = tmp_path / "model.safetensors"
    save_file(model.float().state_dict(), path)
    mixing = ml.load_token_mixing("resmlp_12_224.fb_in1k", file=path)
    assert mixing.name == "resmlp_12_224.fb_in1k" and "ResMLP" in mixing.source
    assert torch.equal(mixing.blocks[0].mlp_tokens.fc1.weight, model.blocks[0].linear_tokens.weight)
    with pytest.raises(ValueError, match=r"Did you mean resmlp_12_224\.fb_in1k"):
        ml.load_token_mixing("resmlp_12")


def test_what_is_no_relative_is_refused():
    mixer = ml.create_model("mixer_pico_cifar10").state_dict()
    with pytest.raises(ValueError, match="may be a Mixer, which load_checkpoint"):
        relatives.token_mixing(mixer, name="x")
    with pytest.raises(ValueError, match="not the weights of a ResMLP, gMLP or gMixer"):
        relatives.token_mixing({"blocks.0.attn.qkv.weight": torch.zeros(6, 2)}, name="x")
    with pytest.raises(ValueError, match="not the weights"):
        relatives.token_mixing({}, name="x")
    gap = {f"blocks.{i}.linear_tokens.weight": torch.zeros(9, 9) for i in (0, 2)}
    with pytest.raises(ValueError, match="not the weights"):
        relatives.token_mixing(gap, name="x")
    odd = {"blocks.0.linear_tokens.weight": torch.zeros(8, 8)}
    with pytest.raises(ValueError, match="8 tokens are no square grid"):
        relatives.token_mixing(odd, name="x")
