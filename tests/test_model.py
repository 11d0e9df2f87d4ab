"""The Mixer against timm's, value for value, and what it says to wrong input."""

import pytest
import torch
from timm.models.mlp_mixer import MlpMixer as TimmMixer

import mixer_lite as ml

# S != C and D_S != D_C everywhere, so that no axis can pass for another.
SHAPES = [
    dict(image_size=32, patch_size=4, hidden_dim=24, tokens_mlp_dim=20, channels_mlp_dim=40),
    dict(image_size=32, patch_size=8, hidden_dim=48, tokens_mlp_dim=12, channels_mlp_dim=36),
    dict(image_size=48, patch_size=16, hidden_dim=40, tokens_mlp_dim=64, channels_mlp_dim=24),
    dict(image_size=28, patch_size=14, hidden_dim=32, tokens_mlp_dim=8, channels_mlp_dim=128),
    dict(image_size=10, patch_size=1, hidden_dim=16, tokens_mlp_dim=24, channels_mlp_dim=48),
]


def pair(shape, num_classes=7, num_blocks=3, in_channels=3):
    """Our Mixer with random weights, and timm's with a copy of them."""
    ours = ml.MlpMixer(
        **shape, num_classes=num_classes, num_blocks=num_blocks, in_channels=in_channels
    )
    for p in ours.parameters():  # biases, LayerNorms and head too: nothing stays 0 or 1
        torch.nn.init.normal_(p, std=0.2)
    theirs = TimmMixer(
        img_size=shape["image_size"],
        patch_size=shape["patch_size"],
        num_classes=num_classes,
        num_blocks=num_blocks,
        in_chans=in_channels,
        embed_dim=shape["hidden_dim"],
        mlp_ratio=(
            shape["tokens_mlp_dim"] / shape["hidden_dim"],
            shape["channels_mlp_dim"] / shape["hidden_dim"],
        ),
    )
    theirs.load_state_dict(ml.to_timm_state_dict(ours))
    return ours, theirs


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 5e-6), (torch.float64, 1e-12)])
def test_logits_equal_timm(shape, dtype, limit):
    ours, theirs = pair(shape)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    x = torch.randn(3, 3, shape["image_size"], shape["image_size"], dtype=dtype)
    a, b = ours(x), theirs(x)
    assert b.std() > 0.1  # real differences between classes, not all zeros
    assert (a - b).abs().max() < limit
    features = (ours.forward_features(x) - theirs.forward_features(x)).abs().max()
    assert features < limit * 5  # not yet averaged over tokens


@pytest.mark.parametrize("shape", SHAPES[:3])
def test_gradients_equal_timm(shape):
    ours, theirs = (m.double() for m in pair(shape))
    x = torch.randn(2, 3, shape["image_size"], shape["image_size"], dtype=torch.float64)
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y = torch.tensor([1, 5])
    torch.nn.functional.cross_entropy(ours(x1), y).backward()
    torch.nn.functional.cross_entropy(theirs(x2), y).backward()
    assert (x1.grad - x2.grad).abs().max() < 1e-12
    mine = {k: p.grad for k, p in ours.named_parameters()}
    for name, p in theirs.named_parameters():
        got = mine[name.replace("stem.proj", "stem")].reshape(p.shape)
        assert (got - p.grad).abs().max() < 1e-12, name
        assert p.grad.abs().max() > 0, name


def test_other_inputs_and_no_head_equal_timm():
    ours, theirs = (m.double() for m in pair(SHAPES[0], num_classes=0, in_channels=1))
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64)
    assert ours(x).shape == (2, 24)
    assert (ours(x) - theirs(x)).abs().max() < 1e-12


def test_image_that_is_not_square_equals_timm():
    sizes = dict(hidden_dim=24, tokens_mlp_dim=12, channels_mlp_dim=40)
    ours = ml.MlpMixer(image_size=(16, 32), patch_size=4, num_classes=5, num_blocks=2, **sizes)
    theirs = TimmMixer(
        img_size=(16, 32), patch_size=4, num_classes=5, num_blocks=2,
        embed_dim=24, mlp_ratio=(0.5, 40 / 24),
    )  # fmt: skip
    torch.nn.init.normal_(ours.head.weight)
    theirs.load_state_dict(ml.to_timm_state_dict(ours))
    x = torch.randn(2, 3, 16, 32)
    assert ours.grid_size == (4, 8)
    assert (ours(x) - theirs(x)).abs().max() < 5e-6


def test_tanh_gelu_is_the_other_formula():
    x = torch.randn(4, 6)
    exact, tanh = (ml.MlpBlock(dim=6, hidden_dim=9, gelu=g) for g in ("exact", "tanh"))
    tanh.load_state_dict(exact.state_dict())
    h = exact.fc1(x)
    by_hand = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    assert torch.allclose(tanh(x), tanh.fc2(by_hand), atol=1e-6)
    assert 1e-7 < (tanh(x) - exact(x)).abs().max() < 1e-2


def test_patchify_against_loops():
    model = ml.MlpMixer(
        image_size=(8, 12), patch_size=4, num_classes=2, num_blocks=1,
        hidden_dim=5, tokens_mlp_dim=3, channels_mlp_dim=7,
    )  # fmt: skip
    x = torch.randn(2, 3, 8, 12)
    patches = model.patchify(x)
    assert patches.shape == (2, 6, 48)
    for b in range(2):
        for row in range(2):
            for column in range(3):
                patch = x[b, :, row * 4 : row * 4 + 4, column * 4 : column * 4 + 4]
                assert torch.equal(patches[b, row * 3 + column], patch.flatten())


GOOD = dict(
    image_size=32, patch_size=4, num_classes=10, num_blocks=2,
    hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=32,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(patch_size=5), "patch_size 5 does not divide the image size 32 x 32"),
        (dict(image_size=(32, 30)), "patch_size 4 does not divide the image size 32 x 30"),
        (dict(hidden_dim=0), "hidden_dim must be a whole number of 1 or more, not 0"),
        (dict(num_blocks=-1), "num_blocks must be"),
        (dict(tokens_mlp_dim=2.5), "tokens_mlp_dim must be"),
        (dict(channels_mlp_dim=True), "channels_mlp_dim must be"),
        (dict(num_classes=-3), "num_classes must be a whole number, 0 for no head, not -3"),
        (dict(gelu="relu"), 'gelu must be "exact" or "tanh"'),
        (dict(in_channels="3"), "in_channels must be"),
    ],
)
def test_wrong_configuration_is_refused_in_one_sentence(change, words):
    with pytest.raises(ValueError) as error:
        ml.MlpMixer(**{**GOOD, **change})
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("images", "kind", "words"),
    [
        (torch.zeros(1, 3, 32, 28), ValueError, "(batch, 3, 32, 32), not (1, 3, 32, 28)"),
        (torch.zeros(3, 32, 32), ValueError, "not (3, 32, 32)"),
        (torch.zeros(1, 1, 32, 32), ValueError, "not (1, 1, 32, 32)"),
        (torch.zeros(1, 32, 32, 3), ValueError, "not (1, 32, 32, 3)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), TypeError, "not torch.uint8"),
        ([[0.0]], TypeError, "not list"),
    ],
)
def test_wrong_input_is_refused_in_one_sentence(images, kind, words):
    with pytest.raises(kind) as error:
        ml.MlpMixer(**GOOD)(images)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_are_keyword_only():
    with pytest.raises(TypeError):
        ml.MlpMixer(32, 4, 10, 2, 16, 8, 32)


def test_named_models_take_overrides_and_suggest_names():
    model = ml.create_model("mixer_nano_cifar10", num_classes=3, num_blocks=1)
    assert model.num_classes == 3 and len(model.blocks) == 1 and model.grid_size == (8, 8)
    assert sum(p.numel() for p in ml.create_model("mixer_nano_cifar10").parameters()) == 1_132_170
    with pytest.raises(ValueError, match="Did you mean mixer_b16_224"):
        ml.create_model("mixer_b_16_224")
