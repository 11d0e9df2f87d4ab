"""Bundled weights are what they claim to be; timm's load through timm; refusals are clear."""

import csv
import hashlib
import json
import shutil

import pytest
import timm
import torch

import mixer_lite as ml
from mixer_lite import pretrained
from mixer_lite.labels import imagenet_names
from mixer_lite.predict import logits
from mixer_lite.resources import data_path


def test_bundled_model_needs_nothing_else_and_is_as_accurate_as_its_card_says():
    model = ml.load_pretrained("mixer_nano_cifar10")
    card = json.loads(data_path("mixer_nano_cifar10.json").read_text(encoding="utf-8"))
    assert sum(p.numel() for p in model.parameters()) == card["parameters"] <= 1_200_000
    assert model.config.class_names == ml.specs.CIFAR10_CLASSES
    images, labels = ml.datasets.cifar10_sample()
    out = logits(model, images, batch_size=100)
    right = (out.argmax(1) == labels).float().mean().item()
    # The slice is part of the test set: its accuracy lies within sampling error of the whole's.
    claimed = card["test_accuracy"]
    assert abs(right - claimed) < 4 * (claimed * (1 - claimed) / 500) ** 0.5
    assert right == pytest.approx(card["slice_accuracy"], abs=0.003)


def test_model_card_adds_up():
    card = json.loads(data_path("mixer_nano_cifar10.json").read_text(encoding="utf-8"))
    confusion = torch.tensor(card["confusion"])
    assert confusion.sum(1).tolist() == [1000] * 10  # rows are the true classes
    assert confusion.diag().sum().item() / 10_000 == pytest.approx(card["test_accuracy"])
    with data_path("mixer_nano_cifar10_log.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == card["recipe"]["epochs"]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    model = ml.load_pretrained("mixer_nano_cifar10")
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
    name = pretrained.BUNDLED["mixer_nano_cifar10"].file
    shutil.copy(data_path(name), tmp_path / name)
    whole = bytearray((tmp_path / name).read_bytes())
    whole[-1] ^= 1
    (tmp_path / name).write_bytes(whole)
    monkeypatch.setattr(pretrained, "data_path", lambda name: tmp_path / name)
    with pytest.raises(ValueError, match="is not the file that came with Mixer Lite"):
        ml.load_pretrained("mixer_nano_cifar10")


def test_every_bundled_checksum_is_right():
    for name, entry in pretrained.BUNDLED.items():
        assert hashlib.sha256(data_path(entry.file).read_bytes()).hexdigest() == entry.sha256, name


def test_names():
    names = ml.list_pretrained()
    assert names[0] == "mixer_nano_cifar10" and ml.list_pretrained(bundled_only=True) == names[:1]
    known = timm.list_models("mixer_*", pretrained=True)
    assert set(names[1:]) == set(known)
    with pytest.raises(ValueError, match="Did you mean mixer_nano_cifar10"):
        ml.load_pretrained("mixer_nano")


def test_weights_from_timm_carry_its_preprocessing_and_give_its_logits(monkeypatch):
    # Random weights in place of the download; everything else is timm's own code and data.
    real = timm.create_model
    theirs = real("mixer_s32_224", num_classes=1000).eval()
    torch.nn.init.normal_(theirs.head.weight)
    cfg = real("mixer_b16_224.miil_in21k_ft_in1k", num_classes=0).pretrained_cfg
    theirs.pretrained_cfg = cfg
    asked = []

    def create(name, pretrained):
        asked.append((name, pretrained))
        return theirs

    monkeypatch.setattr(timm, "create_model", create)
    model = ml.load_pretrained("mixer_b16_224.miil_in21k_ft_in1k")
    assert asked == [("mixer_b16_224.miil_in21k_ft_in1k", True)]
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert (model(x) - theirs(x)).abs().max() < 2e-5
    c = model.config
    assert (c.mean, c.std, c.interpolation, c.crop) == ((0, 0, 0), (1, 1, 1), "bilinear", 0.875)
    assert c.class_names[281].startswith("tabby") and len(c.class_names) == 1000


def test_class_names_exist_for_every_size_of_head():
    for n in (1000, 21843, 11221):
        names = imagenet_names(n)
        assert len(names) == n and all(names)


def test_without_network_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ConnectionError, match="could not be downloaded") as error:
        ml.load_pretrained("mixer_b16_224.goog_in21k_ft_in1k")
    assert "\n" not in str(error.value)


def test_provenance_of_timms_misnamed_weights_is_told():
    assert "from scratch on ImageNet-1k" in pretrained.FROM_TIMM["mixer_b16_224.goog_in21k_ft_in1k"]


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
