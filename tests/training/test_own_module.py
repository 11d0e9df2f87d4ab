"""A module of the reader's own, written without the package, in the loop and on the page."""

import pytest
import torch
import torch.nn.functional as F
from short_runs import SMALL, coloured_squares
from torch import nn

import mixer_lite as ml
from mixer_lite.specs import create_model, spec
from mixer_lite.training.loop import train

NAME = "mixer_pico_cifar10"


class Mlp(nn.Module):
    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, tokens, dim, tokens_dim, channels_dim):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mlp_tokens, self.mlp_channels = Mlp(tokens, tokens_dim), Mlp(dim, channels_dim)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Own(nn.Module):
    """A Mixer, or with ``first`` one that reads its first token in place of the mean."""

    def __init__(self, sizes, num_classes, first=False):
        super().__init__()
        side, self.patch, dim = sizes["image_size"], sizes["patch_size"], sizes["hidden_dim"]
        widths = (dim, sizes["tokens_mlp_dim"], sizes["channels_mlp_dim"])
        self.first, self.stem = first, nn.Linear(3 * self.patch**2, dim)
        tokens = (side // self.patch) ** 2
        self.blocks = nn.Sequential(*[Block(tokens, *widths) for _ in range(sizes["num_blocks"])])
        self.norm, self.head = nn.LayerNorm(dim, eps=1e-6), nn.Linear(dim, num_classes)

    def forward(self, images):
        patches = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        x = self.norm(self.blocks(self.stem(patches)))
        return self.head(x[:, 0] if self.first else x.mean(dim=1))


def build(name, *, num_classes, **options):
    """The reader's module, from the very weights that the named Mixer would start from."""
    start = create_model(name, num_classes=num_classes).state_dict()
    with torch.random.fork_rng():
        module = Own(spec(name), num_classes, **options)
    module.load_state_dict(start)
    return module


def first_token(name, **sizes):
    return build(name, first=True, **sizes)


@pytest.fixture(scope="module")
def data():
    return coloured_squares()


def test_it_is_trained_as_the_named_mixer_is(data, tmp_path):
    wanted = train(NAME, tmp_path / "named", recipe=SMALL, **data)
    got = train(NAME, tmp_path / "own", recipe=SMALL, build=build, **data)
    assert type(got.module) is Own and not any(p.is_meta for p in got.parameters())
    for mine, theirs in ((got, wanted), (got.module, wanted)):
        for key, weight in theirs.state_dict().items():
            assert torch.allclose(mine.state_dict()[key], weight, atol=1e-6), key
    saved = ml.load_checkpoint(tmp_path / "own" / "weights.safetensors").eval()
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(saved(images), got.module(images), atol=1e-5)
    assert ml.filters.token_filters(got, 0).shape == ml.filters.token_filters(wanted, 0).shape


def test_it_goes_on_where_it_was_and_may_be_averaged(data, tmp_path):
    recipe = {**SMALL.__dict__, "ema": 0.9}
    options = dict(recipe=type(SMALL)(**recipe), build=build, **data)
    whole = train(NAME, tmp_path / "whole", **options)
    train(NAME, tmp_path / "parts", stop_after=1, **options)
    parts = train(NAME, tmp_path / "parts", **options)
    images = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(parts(images), whole(images))
        assert torch.equal(parts.module(images), parts(images)), "the averaged one is whole"
    for key, weight in whole.module.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[key])


def test_its_own_answers_are_what_is_trained(data, tmp_path):
    rows = []
    options = dict(recipe=SMALL, holdout=40, report=rows.append, **data)
    got = train(NAME, tmp_path, build=first_token, **options).eval()
    assert not got.module.training
    images = (data["images"].float() / 255 - 0.5) / 0.25
    plain = create_model(NAME)
    plain.load_state_dict(got.state_dict())
    with torch.no_grad():
        assert torch.equal(got(images), got.module(images))
        assert (got(images) - plain(images)).abs().max() > 0.05, "not the Mixer's mean"
    assert rows[-1]["loss"] < rows[0]["loss"] and rows[-1]["held_out_accuracy"] > 0.2


def lacking(name, *, num_classes):
    module = Own(spec(name), num_classes)
    del module.norm
    return module


def other_names(name, *, num_classes):
    module = build(name, num_classes=num_classes)
    module.position = nn.Parameter(torch.zeros(1, 64, 8))
    return module


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (lacking, r"norm\.weight is missing, norm\.bias is missing"),
        (other_names, "position is not known"),
        (lambda name, num_classes: build(name, num_classes=7), r"head\.weight is \(7, \d+\) and n"),
        (lambda name, num_classes: "a Mixer", "must return a torch.nn.Module, not str"),
        (lambda name, num_classes: nn.Sequential(), r"stem\.weight is missing.*others"),
    ],
)
def test_what_cannot_be_adopted_is_told(data, tmp_path, other, said):
    with pytest.raises(ValueError, match=said):
        train(NAME, tmp_path, recipe=SMALL, build=other, **data)


class Tables(Own):
    """Forgot the mean: a logit for each token and class."""

    def forward(self, images):
        patches = F.unfold(images, self.patch, stride=self.patch).transpose(1, 2)
        return self.head(self.norm(self.blocks(self.stem(patches))))


class Both(Own):
    def forward(self, images):
        return super().forward(images), images


@pytest.mark.parametrize(("kind", "said"), [(Tables, r"\(1, 64, 10\)"), (Both, "a tuple")])
def test_answers_that_are_no_logits_are_told(data, tmp_path, kind, said):
    with pytest.raises(ValueError, match=f"answers one image with {said}, not"):
        train(NAME, tmp_path, recipe=SMALL, build=lambda n, num_classes: kind(spec(n), 10), **data)


def test_it_is_watched(data, tmp_path):
    explorer = ml.watch_training(
        NAME, tmp_path, recipe=SMALL, build=build, holdout=40, wait=True, **data
    )
    assert explorer.state == "done" and not explorer.message
    frames = explorer.history.frames
    assert frames[0].step == 0 and frames[-1].step == explorer._run.last.total
    trained = explorer.wait()
    assert type(trained.module) is Own
    kept = torch.stack([block.mlp_tokens.fc1.weight for block in trained.module.blocks]).detach()
    assert torch.allclose(frames[-1].filters.flatten(2), kept, atol=1e-6)
    again = ml.watch_training(NAME, tmp_path, recipe=SMALL, build=build, holdout=40, **data)
    assert again.state == "done" and type(again.wait().module) is Own
