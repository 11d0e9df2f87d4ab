"""Bundled weights are what they claim to be; others load as their source means them."""

import csv
import hashlib
import importlib.util
import json
import shutil
from dataclasses import replace
from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.mlp_mixer import MlpMixer as TimmMixer

import mixer_lite as ml
from mixer_lite._support.files import data_path
from mixer_lite.datasets.imagenet import imagenet_names
from mixer_lite.prediction import logits
from mixer_lite.weights import downloads, pretrained

BUNDLED = ["mixer_nano_cifar10", "mixer_grid16_cifar10"]


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_model_needs_nothing_else_and_is_as_accurate_as_its_card_says(name):
    model = ml.load_pretrained(name)
    card = json.loads(data_path(f"{name}.json").read_text(encoding="utf-8"))
    assert sum(p.numel() for p in model.parameters()) == card["parameters"] <= 1_200_000
    assert model.config.class_names == ml.specs.CIFAR10_CLASSES
    images, labels = ml.datasets.cifar10_sample()
    out = logits(model, images, batch_size=100)
    right = (out.argmax(1) == labels).float().mean().item()
    # The slice is part of the test set: its accuracy lies within sampling error of the whole's.
    claimed = card["test_accuracy"]
    assert abs(right - claimed) < 4 * (claimed * (1 - claimed) / 500) ** 0.5
    assert right == pytest.approx(card["slice_accuracy"], abs=0.003)


@pytest.mark.parametrize("name", BUNDLED)
def test_model_card_adds_up(name):
    card = json.loads(data_path(f"{name}.json").read_text(encoding="utf-8"))
    confusion = torch.tensor(card["confusion"])
    assert confusion.sum(1).tolist() == [1000] * 10  # rows are the true classes
    assert confusion.diag().sum().item() / 10_000 == pytest.approx(card["test_accuracy"])
    with data_path(f"{name}_log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    trainings = [*card.get("earlier", []), card]
    assert len(rows) == sum(trained["recipe"]["epochs"] for trained in trainings)
    assert [int(row["epoch"]) for row in rows] == list(range(1, len(rows) + 1))
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    model = ml.load_pretrained(name)
    filters = [ml.filters.token_filters(model, i) for i in range(model.num_blocks)]
    smooth = [ml.filters.smoothness(f).mean().item() for f in filters]
    assert smooth == pytest.approx(card["smoothness"], abs=1e-3)
    assert [ml.filters.variety(f) for f in filters] == pytest.approx(card["variety"], abs=1e-3)


def test_snapshots_end_in_the_bundled_weights():
    from safetensors.torch import load_file

    path = data_path("mixer_nano_cifar10_snapshots.safetensors")
    assert path.stat().st_size < 3_000_000
    kept = load_file(path)
    steps = kept["step"].tolist()
    assert 20 <= len(steps) <= 30 and steps == sorted(set(steps)) and steps[0] == 0
    model = ml.load_pretrained("mixer_nano_cifar10")
    for i, block in enumerate(model.blocks):
        assert torch.equal(kept["fc1"][-1, i].float(), block.mlp_tokens.fc1.weight)
        assert torch.equal(kept["fc2"][-1, i].float(), block.mlp_tokens.fc2.weight)


def test_damaged_bundled_file_is_refused(tmp_path, monkeypatch):
    name = "mixer_nano_cifar10.safetensors"
    shutil.copy(data_path(name), tmp_path / name)
    whole = bytearray((tmp_path / name).read_bytes())
    whole[-1] ^= 1
    (tmp_path / name).write_bytes(whole)
    monkeypatch.setattr(
        pretrained, "data_path", lambda file: tmp_path / file if file == name else data_path(file)
    )
    with pytest.raises(ValueError, match="is not the file that came with Mixer Lite"):
        ml.load_pretrained("mixer_nano_cifar10")


def test_every_bundled_checksum_is_right():
    for name in BUNDLED:
        stored = data_path(f"{name}.safetensors").read_bytes()
        assert hashlib.sha256(stored).hexdigest() == ml.describe_pretrained(name).sha256, name


def test_names():
    names = ml.list_pretrained()
    assert ml.list_pretrained(bundled_only=True) == names[:2] == BUNDLED
    assert isinstance(names, list) and len(names) == len(set(names)) == 21
    from_timm = [n for n in names if ml.describe_pretrained(n).origin == "timm"]
    assert set(from_timm) == set(timm.list_models("mixer_*", pretrained=True))
    with pytest.raises(ValueError, match="Did you mean mixer_nano_cifar10"):
        ml.load_pretrained("mixer_nano")
    with pytest.raises(ValueError, match=r"load_token_mixing\('resmlp_12_224.fb_in1k'\)"):
        ml.load_pretrained("resmlp_12_224.fb_in1k")


def test_what_is_known_agrees_with_timm_and_with_the_published_counts_and_sizes():
    for name, known in pretrained.PUBLISHED.items():
        classes = known.sizes["num_classes"]
        if known.origin == "timm":
            cfg = timm.get_pretrained_cfg(name)
            assert (cfg.hf_hub_id, cfg.num_classes) == (known.where, classes)
            with torch.device("meta"):
                model = timm.create_model(name.split(".")[0], num_classes=classes)
            assert sum(p.numel() for p in model.parameters()) == known.parameters
        elif known.origin == "Google":
            # Four bytes a parameter and, for each array of the archive, its names and headers.
            arrays = 12 * known.sizes["num_blocks"] + 6
            overhead = known.mib * 2**20 - 4 * known.parameters
            assert 256 * arrays - 6000 < overhead < 512 * arrays + 6000, name
        else:  # OpenMMLab's model zoo: 59.88 M and 208.2 M parameters
            counts = {"b16": (59.88e6, 5e3), "l16": (208.2e6, 5e4)}
            count, error = counts[name[16:19]]
            assert abs(known.parameters - count) < error
            assert known.where.endswith(f"-{known.sha256}.pth") and len(known.sha256) == 8
    # Of the official code's own tests; S/8 has S/16's channels and 784 tokens.
    assert pretrained.PUBLISHED["google/mixer_b32_224.sam"].parameters == 60_293_428
    assert pretrained.PUBLISHED["google/mixer_l16_224.imagenet1k"].parameters == 208_196_168
    assert pretrained.PUBLISHED["google/mixer_s8_224.gsam"].parameters == 20_646_504


def test_the_list_shows_itself_as_a_table():
    names = ml.list_pretrained()
    lines = str(names).splitlines()
    assert len(lines) == 1 + len(names) and repr(names).startswith("['mixer_nano_cifar10', ")
    for name, line in zip(names, lines[1:], strict=True):
        assert line.startswith(name) and max(map(len, lines)) < 150
    row = {line.split()[0]: line.split() for line in lines[1:]}
    assert row["mixer_nano_cifar10"][1:4] == ["bundled", "2", "yes"]
    assert row["openmmlab/mixer_l16_224.imagenet1k"][-5:-3] == ["72.34", "88.02"]
    page = names._repr_html_()
    assert page.count("<tr>") == 1 + len(names) and "82.31" in page
    card = json.loads(data_path("mixer_nano_cifar10.json").read_text(encoding="utf-8"))
    nano = ml.describe_pretrained("mixer_nano_cifar10")
    assert nano.top1 == pytest.approx(100 * card["test_accuracy"])
    assert nano.parameters == card["parameters"] and nano.url == ""


@pytest.mark.parametrize("name", timm.list_models("mixer_*", pretrained=True))
def test_weights_from_timm_carry_its_preprocessing_and_give_its_logits(name, monkeypatch, tmp_path):
    # Random weights in a smaller model's shapes, in a file as timm writes it.
    classes = timm.get_pretrained_cfg(name).num_classes
    theirs = timm.create_model("mixer_s32_224", num_classes=classes).eval()
    torch.nn.init.normal_(theirs.head.weight)
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    sizes = {**ml.specs.spec("mixer_s32_224"), "num_classes": classes}
    small = replace(pretrained.PUBLISHED[name], sizes=sizes)
    monkeypatch.setitem(pretrained.PUBLISHED, name, small)
    model = ml.load_pretrained(name, file=tmp_path / "model.safetensors")
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert (model(x) - theirs(x)).abs().max() < 5e-5
    c, cfg = model.config, timm.get_pretrained_cfg(name)
    assert (c.mean, c.std) == (tuple(cfg.mean), tuple(cfg.std))
    assert (c.interpolation, c.crop) == (cfg.interpolation, cfg.crop_pct)
    if "miil" in name:
        assert (c.mean, c.std, c.interpolation) == ((0, 0, 0), (1, 1, 1), "bilinear")
    assert len(c.class_names) == classes
    if classes == 1000:
        assert c.class_names[281].startswith("tabby")


def test_class_names_exist_for_every_size_of_head():
    for n in (1000, 21843, 11221):
        names = imagenet_names(n)
        assert len(names) == n and all(names)


def test_openmmlab_resizes_with_opencv_where_it_is_installed(monkeypatch):
    known = ml.describe_pretrained("openmmlab/mixer_b16_224.imagenet1k")
    found, real = {"cv2": True}, importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec",
        lambda name, *rest: found.get(name) if name == "cv2" else real(name, *rest),
    )
    config = pretrained.config_of(known)
    assert (config.resize, config.source) == ("opencv", known.source)
    assert (config.interpolation, config.crop, config.mean) == ("bicubic", 0.875, (0.5,) * 3)
    found.clear()
    config = pretrained.config_of(known)
    assert config.resize == "pillow" and "pip install opencv" in config.source
    google = pretrained.config_of(ml.describe_pretrained("google/mixer_b16_224.sam"))
    assert google.resize == "pillow" and "SAM" in google.source


def test_provenance_of_misnamed_weights_is_told():
    for name in ("mixer_b16_224.goog_in21k_ft_in1k", "mixer_l16_224.goog_in21k_ft_in1k"):
        known = ml.describe_pretrained(name)
        assert known.trained_on == "ImageNet-1k, from scratch"
        assert "from scratch on ImageNet-1k" in known.source and known.source.count("\n") == 0
        (row,) = (line for line in str(ml.list_pretrained()).splitlines() if name + " " in line)
        assert known.trained_on in row and known.top1 < 77
    for model in ("b16", "l16"):  # as OpenMMLab says, but for the file that it names for L/16
        source = ml.describe_pretrained(f"openmmlab/mixer_{model}_224.imagenet1k").source
        assert "from scratch" in source and "metafile names B/16's ImageNet-21k file" in source


def test_import_is_cheap():
    import subprocess
    import sys

    code = (
        "import sys, mixer_lite; "
        "print([m for m in ('timm', 'torchvision', 'matplotlib', 'ipywidgets', 'pooch', "
        "'huggingface_hub', 'IPython') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


# The real files, where a cache has them. Which were there, and so were tested, is printed in the
# summary of the test run.

CATS = {"tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat", "lynx"}


def test_real_weights_where_the_cache_has_them(remark):
    here = [n for n in pretrained.PUBLISHED if ml.describe_pretrained(n).here]
    here += [n for n in ml.list_relatives() if downloads.kept_from_hub(f"timm/{n}")]
    count = len(pretrained.PUBLISHED) + len(ml.list_relatives())
    remark(
        f"Real weights: {len(here)} of {count} published files are in a cache and were tested "
        f"({', '.join(here)}); the other {count - len(here)} were not."
        if here
        else f"Real weights: none of {count} published files is in a cache, so none was tested."
    )
    for name in here:
        check_real_relative(name) if name in ml.list_relatives() else check_real_weights(name)


def check_real_weights(name: str) -> None:
    known = ml.describe_pretrained(name)
    model = ml.load_pretrained(name)
    assert sum(p.numel() for p in model.parameters()) == known.parameters
    assert model.num_classes == len(model.config.class_names) == known.sizes["num_classes"]
    cat = ml.images.photo("cat")
    top = [p.label for p in ml.predict(model, cat, top_k=5)]
    assert any("cat" in label.lower() or label.split(",")[0] in CATS for label in top), (name, top)
    # timm's own network with the same weights, and with the GELU and epsilon of their source.
    theirs = TimmMixer(
        num_classes=model.num_classes,
        img_size=model.image_size[0],
        patch_size=model.patch_size,
        num_blocks=model.num_blocks,
        embed_dim=model.hidden_dim,
        act_layer=partial(torch.nn.GELU, approximate="tanh" if model.gelu == "tanh" else "none"),
        norm_layer=partial(torch.nn.LayerNorm, eps=model.norm_eps),
    ).eval()
    theirs.load_state_dict(ml.to_timm_state_dict(model))
    x = ml.images.preprocess(cat, model.config)
    with torch.no_grad():
        ours, wanted = model(x), theirs(x)
    assert (ours - wanted).abs().max() < 1e-5 * wanted.abs().max().clamp_min(1)


def check_real_relative(name: str) -> None:
    mixing = ml.load_token_mixing(name)
    maps = [ml.filters.token_filters(mixing, i) for i in range(mixing.num_blocks)]
    # Trained maps are smoother than noise, whose neighbours do not agree.
    assert max(ml.filters.smoothness(f).mean().item() for f in maps) > 0.02
