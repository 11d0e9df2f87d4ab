"""Honest forms that a check must take: square images alone, other names, finished modules."""

import inspect

import matplotlib.pyplot as plt
import pytest
import torch
from einops import rearrange
from torch import nn

import mixer_lite as ml
from mixer_lite import check
from mixer_lite.check.engine.instances import one_line
from tests.check import answers_modules as answers

# Square images alone


def square_patchify(images, p):
    assert images.shape[2] == images.shape[3], "only square images"
    g = images.shape[2] // p
    return rearrange(images, "b c (g p) (h q) -> b (g h) (c p q)", g=g, h=g, p=p, q=p)


def square_unpatchify(patches, p, grid):
    g = int(patches.shape[1] ** 0.5)
    return rearrange(patches, "b (g h) (c p q) -> b c (g p) (h q)", g=g, h=g, p=p, q=p)


def square_embedding(images, weight, bias, p):
    return square_patchify(images, p) @ weight.T + bias


def square_evidence(model, image):
    x = model.blocks(model.stem(model.patchify(image)))
    e = nn.functional.linear(model.norm(x), model.head.weight)
    g = int(e.shape[1] ** 0.5)
    return e[0].T.reshape(e.shape[2], g, g)


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("patchify", square_patchify),
        ("unpatchify", square_unpatchify),
        ("patch_embedding", square_embedding),
        ("patch_evidence", square_evidence),
        ("mixer", answers.MixerForSquares),
    ],
)
def test_right_for_square_images_passes_with_a_remark(name, answer):
    for seed in range(4):
        report = getattr(check, name)(answer, seed=seed).require()
        assert "right for square images" in str(report) and "Error: " in str(report)


def test_a_mistake_is_named_where_only_squares_run():
    def down_the_columns(images, p):
        x = square_patchify(images, p)
        return rearrange(x, "b (g h) d -> b (h g) d", h=images.shape[2] // p)

    assert check.patchify(down_the_columns, seed=0).finding.mistake == "column-major tokens"
    report = check.mixer(SquareFirstToken, seed=0)
    assert report.finding.mistake == "first-token pooling" and "with a square image" in str(report)


class SquareFirstToken(answers.MixerForSquares):
    def pool(self, x):
        return self.norm(x)[:, 0]


def test_other_numbers_for_wide_images_are_no_pass():
    def forgets_the_width(images, p):  # right for squares, and silent where it is wrong
        h = images.shape[2]
        return rearrange(images[..., :h], "b c (g p) (h q) -> b (g h) (c p q)", p=p, q=p)

    found = [check.patchify(forgets_the_width, seed=seed).finding for seed in range(5)]
    assert all(found)


# Other names, and finished modules


class Block(nn.Module):
    def __init__(self, dim, seq_len, mlp_ratio=(0.5, 4.0), drop=0.0):
        super().__init__()
        tokens_dim, channels_dim = (int(ratio * dim) for ratio in mlp_ratio)
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.mlp_tokens = answers.MlpOfTwoLinears(seq_len, tokens_dim)
        self.mlp_channels = answers.MlpOfTwoLinears(dim, channels_dim)

    def forward(self, x):
        x = x + self.mlp_tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp_channels(self.norm2(x))


class Network(nn.Module):
    def __init__(self, num_classes, img_size, patch_size, embed_dim, depth, mlp_ratio=(0.5, 4.0)):
        super().__init__()
        self.proj = nn.Conv2d(3, embed_dim, patch_size, patch_size)
        seq_len = (img_size // patch_size) ** 2
        self.blocks = nn.Sequential(*(Block(embed_dim, seq_len, mlp_ratio) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(embed_dim, eps=1e-6), nn.Linear(embed_dim, num_classes)

    def forward(self, images):
        x = self.proj(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x)).mean(1))


class FirstToken(Network):
    def forward(self, images):
        x = self.proj(images).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(x))[:, 0])


@pytest.mark.parametrize(("name", "kind"), [("mixer_block", Block), ("mixer", Network)])
def test_the_line_that_is_told_makes_other_names_fit(name, kind):
    report = getattr(check, name)(kind, seed=0)
    assert report.finding.mistake == "arguments do not fit"
    (line,) = report.finding.evidence
    assert "..." not in line
    assert eval(line, dict(check=check, **{kind.__name__: kind})).passed, line


def test_a_name_that_says_nothing_is_left_open():
    def made(foo, dim, bar=3):
        pass

    line = one_line("mlp_block", "Mlp", inspect.signature(made), dict(dim=3, hidden_dim=4))
    assert line == 'check.mlp_block(lambda **s: Mlp(foo=..., dim=s["dim"]))'


@pytest.mark.parametrize(
    ("name", "module", "sizes"),
    [
        ("mlp_block", answers.MlpOfTwoLinears(5, 7), "dim = 5, hidden_dim = 7"),
        ("mlp_block", answers.MlpOfBareParameters(dim=5, hidden_dim=7), "hidden_dim = 7"),
        ("mixer_block", Block(8, 6), "num_tokens = 6, hidden_dim = 8, tokens_mlp_dim = 4"),
        ("mixer_block", Block(16, 64, (4.0, 4.0)), "num_tokens = 64, hidden_dim = 16"),
        ("mixer", Network(10, 32, 8, 24, 3), "num_blocks = 3, hidden_dim = 24"),
        ("mixer", answers.mixer_in_a_row(
            image_size=(12, 12), patch_size=4, num_classes=5, num_blocks=2, hidden_dim=7,
            tokens_mlp_dim=6, channels_mlp_dim=8), "patch_size = 4, num_classes = 5"),
    ],
)  # fmt: skip
def test_a_finished_module_is_read(name, module, sizes):
    before = {name: value.clone() for name, value in module.state_dict().items()}
    report = getattr(check, name)(module, seed=0).require()
    assert sizes in str(report)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_finished_module_is_judged():
    assert check.mixer(FirstToken(10, 32, 8, 24, 3)).finding.mistake == "first-token pooling"
    model = Network(10, 32, 8, 24, 3)
    model.blocks = nn.Sequential(*[model.blocks[0]] * 3)
    assert check.mixer(model).finding.mistake == "blocks sharing weights"
    report = check.mixer(Network(10, 32, 8, 24, 3), like=dict(num_blocks=4))
    assert report.finding.mistake == "too few blocks"
    assert "remark" in str(check.mixer_block(Block(8, 8)).require())
    assert "equal" in str(check.mixer_block(Block(8, 8)))


def test_sizes_that_cannot_be_read_are_asked_for():
    wide = answers.MixerAsTimm((8, 12), 4, 5, 1, 9, 7, 10)
    report = check.mixer(wide)
    assert report.finding.mistake == "sizes not found" and "like=dict(" in str(report)
    assert check.mixer(wide, like=dict(image_size=(8, 12)))
    assert check.mixer(wide, like=dict(imagesize=8)).finding.mistake == "unknown size"
    assert check.mixer_block(Block, like=dict(num_tokens=3)).finding.mistake == "sizes of a class"
    assert check.mixer(ml.MlpMixer(
        image_size=8, patch_size=4, num_classes=5, num_blocks=1, hidden_dim=9, tokens_mlp_dim=7,
        channels_mlp_dim=10)).finding.mistake == "not your own"  # fmt: skip


def test_a_module_too_large_to_diagnose_says_so():
    model = FirstToken(100, 64, 8, 128, 6)
    model.head = nn.Sequential(model.head, nn.Softplus())
    report = check.mixer(model, seconds=3)
    assert report.finding.mistake == "too large to say"


# Figures


def sheet(filters, order=None, columns=3):
    units = list(range(len(filters)) if order is None else order)
    figure, axes = plt.subplots(-(-len(units) // columns), columns)
    limit = float(filters.abs().max())
    for ax, unit in zip(axes.flat, units, strict=False):
        ax.imshow(filters[unit], cmap="RdBu_r", vmin=-limit, vmax=limit)
        ax.set_title(f"unit {unit}")
    return figure


def saved_and_closed(filters):
    sheet(filters)
    plt.savefig("no/such/folder.png")
    plt.close()


def saved_by_name(filters):
    figure = sheet(filters)
    figure.savefig("no/such/folder.png")
    plt.close(figure)
    return "no/such/folder.png"


def on_a_square_grid(filters):
    g = int((filters.shape[1] * filters.shape[2]) ** 0.5)
    return sheet(filters.reshape(len(filters), g, g))


def by_frequency(filters):
    power = torch.fft.fft2(filters - filters.mean((1, 2), keepdim=True)).abs() ** 2
    down, across = (torch.fft.fftfreq(n) for n in filters.shape[1:])
    radius = torch.hypot(down[:, None], across)
    return sheet(filters, ((power * radius).sum((1, 2)) / power.sum((1, 2))).argsort().tolist())


@pytest.mark.parametrize("draw", [saved_and_closed, saved_by_name, on_a_square_grid, by_frequency])
def test_honest_figures_pass(draw):
    for seed in range(3):
        assert check.filter_figure(draw, seed=seed).require()
    assert plt.get_fignums() == []


def test_any_other_order_is_wrong():
    def by_strength(filters):
        return sheet(filters, filters.flatten(1).norm(dim=1).argsort().tolist())

    assert check.filter_figure(by_strength, seed=0).finding.mistake == "wrong order"


def test_a_figure_saved_wrong_is_still_wrong():
    def upside_down(filters):
        sheet(filters.flip(1)).savefig("no/such/folder.png")

    assert check.filter_figure(upside_down, seed=0).finding.mistake == "upside down"
