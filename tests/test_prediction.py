"""Predictions against a hand-made softmax, and every kind of input."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import mixer_lite as ml
from mixer_lite import cli, fast
from mixer_lite.prediction import logits
from mixer_lite.specs import ModelConfig
from mixer_lite.training.evaluation import evaluate


@pytest.fixture
def model():
    model = ml.create_model("mixer_pico_cifar10")
    torch.nn.init.normal_(model.head.weight, std=3)
    return model


IMAGES = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)


def by_hand(model, image):
    x = (torch.tensor(image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.5
    with torch.no_grad():
        return model.eval()(x).softmax(1)[0]


def test_probabilities_names_and_order(model):
    wanted = by_hand(model, IMAGES[1])
    got = ml.predict(model, IMAGES[1], top_k=4)
    assert [p.index for p in got] == wanted.argsort(descending=True)[:4].tolist()
    for p in got:
        assert p.probability == pytest.approx(wanted[p.index].item(), abs=1e-5)
        assert p.label == ml.specs.CIFAR10_CLASSES[p.index]


def test_all_kinds_of_input_agree(model, tmp_path):
    one = ml.predict(model, IMAGES[0])
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    tensor = torch.tensor(IMAGES[0]).permute(2, 0, 1)
    for same in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(IMAGES[0]), tensor):
        assert ml.predict(model, same) == one
    many = ml.predict(model, IMAGES, batch_size=2)
    assert len(many) == 3 and [p.index for p in many[0]] == [p.index for p in one]
    assert ml.predict(model, list(IMAGES), batch_size=2) == many
    assert ml.predict(model, torch.tensor(IMAGES).permute(0, 3, 1, 2), batch_size=2) == many
    assert ml.predict(model, [IMAGES[0]]) == [one]


def test_top_k_beyond_the_classes_gives_all_and_sums_to_one(model):
    got = ml.predict(model, IMAGES[0], top_k=99)
    assert len(got) == 10 and sum(p.probability for p in got) == pytest.approx(1, abs=1e-5)


def test_many_images_a_few_at_a_time_in_their_order(model, monkeypatch):
    many = np.random.default_rng(1).integers(0, 256, (11, 32, 32, 3), dtype=np.uint8)
    opened = []
    real = ml.images.preprocess

    def preprocess(images, *rest):
        opened.append(len(images))
        return real(images, *rest)

    monkeypatch.setattr("mixer_lite.prediction.preprocess", preprocess)
    got = ml.predict(model, many, top_k=3, batch_size=4)
    assert opened == [4, 4, 3]  # never all at once, and the last batch is what remains
    for image, predictions in zip(many, got, strict=True):
        wanted = by_hand(model, image)
        assert [p.index for p in predictions] == wanted.argsort(descending=True)[:3].tolist()
    out = logits(model, list(many), batch_size=5)
    assert out.shape == (11, 10) and not out.requires_grad
    wanted = torch.stack([by_hand(model, image) for image in many])
    assert (out.softmax(1) - wanted).abs().max() < 1e-5


def test_the_temperature_mends_probabilities_and_not_the_order(model):
    raw = ml.predict(model, IMAGES, top_k=10)
    model.config = replace(model.config, temperature=2.5)
    mended = ml.predict(model, IMAGES, top_k=10)
    assert ml.predict(model, IMAGES, top_k=10, calibrated=False) == raw
    for before, after in zip(raw, mended, strict=True):
        assert [p.index for p in before] == [p.index for p in after]
        # p ** (1 / T), made to sum to one: the same as logits / T.
        powers = np.array([p.probability for p in before]) ** (1 / 2.5)
        assert np.allclose([p.probability for p in after], powers / powers.sum(), atol=1e-5)


def test_training_mode_is_left_as_it_was(model):
    model.train()
    ml.predict(model, IMAGES[0])
    assert model.training


def test_bad_calls_get_one_clear_sentence(model, tmp_path):
    with pytest.raises(ValueError, match="top_k must be 1 or more"):
        ml.predict(model, IMAGES[0], top_k=0)
    with pytest.raises(ValueError, match="the list is empty"):
        ml.predict(model, [])
    with pytest.raises(ValueError, match="batch_size must be 1 or more"):
        ml.predict(model, IMAGES, batch_size=0)
    with pytest.raises(ValueError, match="no head"):
        ml.predict(ml.create_model("mixer_pico_cifar10", num_classes=0), IMAGES[0])
    with pytest.raises(FileNotFoundError):
        ml.predict(model, tmp_path / "nothing.jpg")
    model.config = None
    with pytest.raises(ValueError, match="does not know how its images were prepared"):
        ml.predict(model, IMAGES[0])


# Memory -----------------------------------------------------------------------------------------


def test_no_more_images_at_once_than_memory_takes(model, monkeypatch, tmp_path, capsys):
    wanted, seen, forward = ml.predict(model, [*IMAGES] * 4), [], fast.logits

    def counting(model, images):
        seen.append(len(images))
        return forward(model, images)

    monkeypatch.setattr(fast, "logits", counting)
    each = 4 * (3 * 3 * 32 * 32 + 4 * model.num_tokens * model.hidden_dim)
    widest = max(model.num_tokens * model.channels_mlp_dim, model.hidden_dim * model.tokens_mlp_dim)
    fixed = 4 * 3 * min(torch.get_num_threads() * fast.PART, 12 * widest)
    monkeypatch.setattr("mixer_lite.prediction.free_memory", lambda: (fixed + 5.5 * each) / 0.8)
    assert ml.predict(model, [*IMAGES] * 4, batch_size=12) == wanted and seen == [5, 5, 2]
    for i, image in enumerate(IMAGES):
        (tmp_path / "cat").mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / f"cat/{i}.png")
    evaluate(model, tmp_path, batch_size=12)
    assert "5 images at once and not 12, because memory takes no more" in capsys.readouterr().err
    monkeypatch.setattr("mixer_lite.prediction.free_memory", lambda: each)
    for call in (ml.predict, evaluate):
        with pytest.raises(MemoryError, match=r"about 0\.\d GB for an image of 32 x 32 pixels"):
            call(model, tmp_path if call is evaluate else IMAGES[0])


# What PyTorch and Python say when memory ends, each as it was seen.
ENDS = [
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't "
                 "allocate memory: you tried to allocate 400000000000 bytes.\nError code 12"),
    RuntimeError("Storage size calculation overflowed with sizes=[4611686018427387904, 4]"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    OverflowError("Python int too large to convert to C long"),
    MemoryError(),
]  # fmt: skip


@pytest.mark.parametrize("error", ENDS, ids=lambda error: type(error).__name__)
def test_the_end_of_memory_is_one_sentence(model, monkeypatch, tmp_path, capsys, error):
    def end(*_):
        raise error

    (tmp_path / "cat").mkdir()
    for i in range(2):
        Image.fromarray(IMAGES[i]).save(tmp_path / f"cat/{i}.png")
    ml.save_checkpoint(model, tmp_path / "a.safetensors")
    monkeypatch.setattr(fast, "logits", end)
    sentence = r"^The model takes more memory than there is for 2 images of 32 x 32 pixels: take "
    for call in (lambda: ml.predict(model, [*IMAGES[:2]]), lambda: evaluate(model, tmp_path)):
        with pytest.raises(MemoryError, match=sentence):
            call()
    command = ["--model", str(tmp_path / "a.safetensors"), str(tmp_path / "cat")]
    out = ["--out", str(tmp_path / "out"), "--workers", "0"]
    for argv in (["predict", *command],
                 ["evaluate", str(tmp_path / "a.safetensors"), str(tmp_path), *out]):  # fmt: skip
        capsys.readouterr()
        assert cli.main(argv) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if "more memory" in line]
        assert lines and all(line.endswith("smaller model.") for line in lines)
    monkeypatch.setattr(cli, "_models", end)
    assert cli.main(["models"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("mixer-lite: this takes more memory") and said.count("\n") == 1


def test_another_error_of_the_forward_pass_stays_itself(model, monkeypatch):
    def end(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(fast, "logits", end)
    with pytest.raises(RuntimeError, match=r"^mat1 and mat2"):
        ml.predict(model, IMAGES[0])


CHILD = """
import re, resource, sys
import torch
from mixer_lite import cli

torch.set_num_threads(1)
cli.main(["predict", sys.argv[2]])  # what the first call takes is not counted
now = int(re.search(r"VmSize:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (now + 300_000_000,) * 2)
sys.exit(cli.main(["predict", "--model", *sys.argv[1:]]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="others do not limit a process's memory so")
@pytest.mark.parametrize("side, patch", [(4000, 100), (3200, 8)])
def test_a_small_file_that_claims_many_pixels_ends_in_a_sentence(tmp_path, side, patch):
    sizes = dict(image_size=side, patch_size=patch, num_classes=2, num_blocks=1, hidden_dim=8,
                 tokens_mlp_dim=1, channels_mlp_dim=8)  # fmt: skip
    model = ml.MlpMixer(**sizes)
    model.config = ModelConfig(name="claims", image_size=side, crop=1.0)
    ml.save_checkpoint(model, tmp_path / "a.safetensors", dtype=torch.float16)
    assert (tmp_path / "a.safetensors").stat().st_size < 1_500_000
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path / "a.safetensors"), str(tmp_path / "a.png")],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "takes more memory than there is" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("crop", [0, -1, 1.5, float("nan")])
def test_a_crop_that_is_none_is_a_sentence(model, crop):
    model.config = replace(model.config, crop=crop)
    with pytest.raises(ValueError, match=r"crop .* lies between 0 and 1"):
        ml.predict(model, IMAGES[0])
