"""The same random weights in the packages of others and here: make parity.

OpenMMLab's and lucidrains' own code, installed from their packages. Each model is filled at
random, saved as its project saves, loaded by content, and compared by value. Also the way back:
our export goes into their code with ``strict=True``. Differences are printed.
"""

import inspect

import numpy as np
import numpy_mixers
import pytest
import torch
from mlp_mixer_pytorch import MLPMixer
from mmpretrain.models.backbones import MlpMixer as OpenMMLabMixer
from mmpretrain.models.classifiers import ImageClassifier

import mixer_lite as ml
from mixer_lite.weights.checkpoints import to_lucidrains_state_dict, to_openmmlab_state_dict

# (image size, patch, C, D_S, D_C, blocks, classes): S != C always; the last two are real sizes.
SIZES = [(20, 4, 24, 18, 40, 3, 7), (32, 8, 40, 12, 80, 1, 1000), (24, 4, 16, 32, 8, 5, 2)]
B16 = (224, 16, 768, 384, 3072, 12, 1000)


def openmmlab(size, patch, c, d_s, d_c, blocks, classes):
    arch = dict(embed_dims=c, num_layers=blocks, tokens_mlp_dims=d_s, channels_mlp_dims=d_c)
    return ImageClassifier(
        backbone=dict(type="MlpMixer", arch=arch, img_size=size, patch_size=patch),
        neck=dict(type="GlobalAveragePooling", dim=1),
        head=dict(type="LinearClsHead", num_classes=classes, in_channels=c),
    )


def lucidrains(size, patch, c, d_s, d_c, blocks, classes):
    # Its argument names are the other way round: expansion_factor makes the token MLP wide.
    return MLPMixer(
        image_size=size, channels=3, patch_size=patch, dim=c, depth=blocks, num_classes=classes,
        expansion_factor=d_s / c, expansion_factor_token=d_c / c,
    )  # fmt: skip


PROJECTS = {
    "openmmlab": (openmmlab, lambda s: {"meta": {}, "state_dict": s}, to_openmmlab_state_dict),
    "lucidrains": (lucidrains, lambda s: s, to_lucidrains_state_dict),
}


def fill(model):
    generator = torch.Generator().manual_seed(3)
    for name, p in model.named_parameters():
        # Norms near one and matrices that keep the scale: values stay of order one.
        norm = float(name.endswith("weight"))
        mean, std = (norm, 0.1) if p.ndim == 1 else (0.0, p[0].numel() ** -0.5)
        p.data.normal_(mean, std, generator=generator)
    return model.eval()


@pytest.mark.parametrize("sizes", [*SIZES, B16], ids=str)
@pytest.mark.parametrize("project", PROJECTS)
def test_their_code_and_ours_agree_by_value(tmp_path, capsys, project, sizes):
    build, wrap, export = PROJECTS[project]
    theirs = fill(build(*sizes))
    torch.save(wrap(theirs.state_dict()), tmp_path / "weights")
    ours = ml.load_checkpoint(tmp_path / "weights")
    size, patch, c, d_s, d_c, blocks, classes = sizes
    assert (ours.image_size, ours.patch_size, ours.num_classes) == ((size,) * 2, patch, classes)
    assert (ours.hidden_dim, ours.tokens_mlp_dim, ours.channels_mlp_dim) == (c, d_s, d_c)
    assert (ours.num_blocks, ours.gelu, ours.norm_eps) == (blocks, "exact", 1e-5)

    again = build(*sizes)
    again.load_state_dict(export(ours), strict=True)
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name

    x = torch.randn(2, 3, size, size)
    found = []
    for dtype, limit in ((torch.float32, 5e-6), (torch.float64, 1e-12)):
        with torch.no_grad():
            ours.to(dtype), theirs.to(dtype)
            found.append((ours(x.to(dtype)) - theirs(x.to(dtype))).abs().max().item())
        assert found[-1] < limit
    with capsys.disabled():
        print(f"\n{project:11s} {sizes!s:40s} float32 {found[0]:.1e}  float64 {found[1]:.1e}")


@pytest.mark.parametrize("project", PROJECTS)
def test_the_numpy_forwards_of_the_quick_tests_are_theirs(project):
    # The default tests compare with NumPy: here NumPy is compared with the real code.
    sizes = numpy_mixers.SIZES
    state = numpy_mixers.random_state(project, **sizes)
    names = ("side", "patch", "hidden", "tokens", "channels", "depth", "classes")
    theirs = PROJECTS[project][0](*(sizes[name] for name in names))
    theirs.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True)
    x = np.random.default_rng(2).normal(size=(2, 3, 20, 20))
    with torch.no_grad():
        expected = theirs.eval().double()(torch.from_numpy(x)).numpy()
    assert np.abs(numpy_mixers.FORWARD[project](state, x) - expected).max() < 1e-12


def test_these_are_the_real_packages():
    assert inspect.getmodule(OpenMMLabMixer).__name__ == "mmpretrain.models.backbones.mlp_mixer"
    assert inspect.getmodule(MLPMixer).__name__ == "mlp_mixer_pytorch.mlp_mixer_pytorch"
