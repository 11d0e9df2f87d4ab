"""Files that are not what they seem: the right weights, or one clear sentence; never code run."""

import io
import json
import pathlib
import pickle
import re
import struct
import subprocess
import sys
import zipfile

import numpy as np
import numpy_mixers
import pytest
import timm
import torch
from safetensors.torch import save, save_file

import mixer_lite as ml
from mixer_lite.weightfiles import MAX_EXPANSION

STATE = {
    k: torch.from_numpy(v)
    for k, v in numpy_mixers.random_state("openmmlab", **numpy_mixers.SIZES).items()
}
HEAD = "head.fc.weight"


class Touch:
    """A pickle that makes a file when it is carried out."""

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("EXECUTED"),)


class Gigabytes:
    """A pickle of 40 bytes that asks for a gigabyte."""

    def __reduce__(self):
        return bytearray, (2**30,)


def pth(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def legacy(content):
    return pth(content, _use_new_zipfile_serialization=False)


def npz(*, packed=False, **arrays):
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **arrays)
    return file.getvalue()


def npy_header(shape, descr="<f4"):
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(members, method=zipfile.ZIP_STORED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def safetensors(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def damaged_record():
    whole = bytearray(pth(STATE))
    where = whole.index(STATE["backbone.ln1.bias"].numpy().tobytes())
    whole[where : where + 40] = bytes(40)
    return bytes(whole)


def timm_state(name):
    with torch.device("meta"):
        state = timm.create_model(name).state_dict()
    return {k: torch.zeros(v.shape, dtype=v.dtype) for k, v in state.items()}


def changed(name, value):
    return {**STATE, name: value}


NOT_FINITE = r"head\.fc\.bias holds NaN or infinite weights"
NOT_OPENED = (
    r"holds more than tensors \((pathlib\.Path|builtins\.getattr|__builtin__\.getattr).*not opened"
)
# Name of the fault -> bytes of the file, and words of the sentence that names it.
FAULTS = {
    "malicious pickle, zip": (lambda: pth({"state_dict": Touch()}), NOT_OPENED),
    "malicious pickle beside good weights": (lambda: pth({**STATE, "x": Touch()}), NOT_OPENED),
    "malicious pickle, legacy": (lambda: legacy({"state_dict": Touch()}), NOT_OPENED),
    "malicious pickle, plain": (lambda: pickle.dumps(Touch()), "plain Python pickle"),
    "malicious pickle in .npz": (
        lambda: npz(a=np.array([Touch()], dtype=object)),
        "holds Python objects .* not opened",
    ),
    "pickle that fills the memory, zip": (
        lambda: pth([Gigabytes() for _ in range(64)]),
        r"holds more than tensors \((__builtin__|builtins)\.bytearray\)",
    ),
    "pickle that fills the memory, legacy": (
        lambda: legacy([Gigabytes() for _ in range(64)]),
        r"holds more than tensors \((__builtin__|builtins)\.bytearray\)",
    ),
    "pickle of a later protocol": (
        lambda: pth({"state_dict": Touch()}, pickle_protocol=4),
        "pickled by another protocol .* not opened",
    ),
    "TorchScript": (
        lambda: zipped({"m/data.pkl": b"", "m/constants.pkl": b"", "m/code/a.py": b""}),
        "TorchScript program",
    ),
    "empty": (lambda: b"", r"is empty \(0 bytes\)"),
    "cut .pth": (lambda: pth(STATE)[:-3000], "damaged or cut short"),
    "cut legacy .pth": (lambda: legacy(STATE)[:-3000], "damaged or cut short"),
    "cut to the magic number": (lambda: legacy(STATE)[:20], "damaged or cut short"),
    "cut .safetensors": (lambda: save(STATE)[:-100], "not a whole safetensors file"),
    "cut in the header": (lambda: save(STATE)[:100], "not a whole safetensors file"),
    "cut .npz": (lambda: npz(a=np.ones(999))[:-500], "damaged or cut short"),
    "changed bytes in .npz": (
        lambda: npz(a=np.full(999, 2.0)).replace(struct.pack("<d", 2), struct.pack("<d", 3)),
        "damaged or cut short.*CRC",
    ),
    "web page": (lambda: b"\n<!DOCTYPE html>\n<html>404", "web page or a server's error"),
    "XML error of a bucket": (lambda: b"<?xml version='1.0'?><Error/>", "web page or a server's"),
    "Git LFS pointer": (
        lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git LFS pointer.*git lfs pull",
    ),
    "HDF5": (lambda: b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5 file"),
    "gzip": (lambda: b"\x1f\x8b\x08" + bytes(99), "compressed with gzip"),
    "one array": (lambda: npy_header((1,)) + bytes(4), "one NumPy array"),
    "JSON": (lambda: b'{"weight_map": {"a": "b"}}', "a JSON text"),
    "text": (lambda: b"not weights", "of no kind that is known here"),
    "zip of something else": (lambda: zipped({"a.txt": b"x"}), "zip file of another kind"),
    "zip bomb, .npz": (
        lambda: npz(packed=True, a=np.zeros(10**7, np.float32)),
        "would unpack to 40,000,128 bytes from 39,098, more than 10 times",
    ),
    "zip bomb, .pth": (
        lambda: zipped({"a/data.pkl": b".", "a/data/0": bytes(10**7)}, zipfile.ZIP_DEFLATED),
        "would unpack to",
    ),
    "array header that lies": (
        lambda: zipped({"a.npy": npy_header((10**6, 10**6)) + bytes(400)}),
        "names 4,000,000,000,0.. bytes where the file has",
    ),
    "array header of negative sizes": (
        lambda: zipped({"a.npy": npy_header((-2, -50)) + bytes(400)}),
        "damaged or cut short",
    ),
    "array of text": (lambda: npz(a=np.array(["x"])), "of type <U1"),
    "safetensors: data beyond the end": (
        lambda: safetensors({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}),
        "not a whole safetensors file",
    ),
    "safetensors: shape larger than its data": (
        lambda: safetensors(
            {"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4]}}, bytes(4)
        ),
        "not a whole safetensors file",
    ),
    "safetensors: a header of 2 ** 62 bytes": (
        lambda: struct.pack("<Q", 2**62) + b'{"a": 1}',
        "not a whole safetensors file",
    ),
    "safetensors: entries that overlap": (
        lambda: safetensors(
            {
                "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
                "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
            },
            bytes(12),
        ),
        "not a whole safetensors file",
    ),
    "tensors larger than the file": (
        lambda: pth({"a": torch.zeros(1).expand(10**6, 10**6)}),
        "claim 4,000,000,000,000: several share",
    ),
    "sparse": (lambda: pth(changed(HEAD, STATE[HEAD].to_sparse())), "holds sparse tensors"),
    "quantized": (
        lambda: pth(changed(HEAD, torch.quantize_per_tensor(STATE[HEAD], 0.1, 0, torch.qint8))),
        "holds quantized tensors",
    ),
    "meta device": (
        lambda: pth(changed(HEAD, STATE[HEAD].to("meta"))),
        "holds tensors of the meta device",
    ),
    "integers": (lambda: pth(changed(HEAD, STATE[HEAD].int())), f"{HEAD} is of type int32"),
    "8-bit floats": (
        lambda: save(changed(HEAD, STATE[HEAD].to(torch.float8_e4m3fn))),
        f"{HEAD} is of type float8_e4m3fn",
    ),
    "not a tensor": (lambda: pth({**STATE, "epoch": 3}), "holds epoch of type int"),
    "names that are numbers": (lambda: pth({1: STATE[HEAD]}), "numbers in place of names"),
    "a tensor alone": (lambda: pth(torch.zeros(3)), "no state dict"),
    "a list": (lambda: pth([STATE]), "no state dict"),
    "optimizer alone": (lambda: pth({"optimizer": {"state": {}}, "epoch": 3}), "no state dict"),
    "nothing": (lambda: pth({}), "no state dict"),
    "one weight twice": (lambda: pth({**STATE, f"module.{HEAD}": STATE[HEAD]}), f"{HEAD} twice"),
    "NaN": (
        lambda: pth(changed("head.fc.bias", STATE["head.fc.bias"] * torch.nan)),
        NOT_FINITE,
    ),
    "infinity": (
        lambda: pth(changed("head.fc.bias", (STATE["head.fc.bias"] * 1e7).half())),
        NOT_FINITE,
    ),
    "more than float32 can hold": (
        lambda: pth(changed("head.fc.bias", STATE["head.fc.bias"].double() * 1e40)),
        NOT_FINITE,
    ),
    "metadata that lies": (
        lambda: save(
            ml.create_model("mixer_pico_cifar10").state_dict(),
            {"gelu": "exact", "norm_eps": '"no"'},
        ),
        "its metadata is damaged: norm_eps is",
    ),
    "config that lies": (
        lambda: save(
            ml.create_model("mixer_pico_cifar10").state_dict(),
            {"config": '{"name": "x", "image_size": 33}'},
        ),
        "its metadata is damaged: image_size of its config is 33",
    ),
    "Vision Transformer": (
        lambda: pth(timm_state("vit_tiny_patch16_224")),
        "These are a Vision Transformer's weights .*, not an MLP-Mixer's",
    ),
    "ResNet": (lambda: pth(timm_state("resnet18")), "These are a ResNet's weights"),
    "ResMLP": (
        lambda: pth(timm_state("resmlp_12_224")),
        "These are a ResMLP's weights",
    ),
    "gMLP": (lambda: pth(timm_state("gmlp_ti16_224")), "These are a gMLP's weights"),
    "gMixer": (
        lambda: pth(timm_state("gmixer_12_224")),
        "These are a gMixer's weights",
    ),
    "another model": (
        lambda: pth(torch.nn.Linear(2, 2).state_dict()),
        "not an MLP-Mixer's weights: .*the first of their names: weight, bias",
    ),
    "names of several lines": (lambda: pth({"a\nb": torch.ones(2)}), r"'a\\nb'"),
}


def sentence(path):
    """What ``load_checkpoint`` says of a file that it refuses."""
    with pytest.raises(ValueError) as error:
        ml.load_checkpoint(path)
    text = str(error.value)
    assert "\n" not in text and text.startswith(str(path)) and text.endswith("."), text
    return text


@pytest.mark.filterwarnings("ignore:.*quantized tensor creation")
@pytest.mark.parametrize("fault", FAULTS)
def test_one_sentence_and_nothing_is_run(tmp_path, monkeypatch, fault):
    monkeypatch.chdir(tmp_path)
    make, words = FAULTS[fault]
    (tmp_path / "a.pth").write_bytes(make())
    with pytest.raises(ValueError, match=words):
        ml.load_checkpoint(tmp_path / "a.pth")
    sentence(tmp_path / "a.pth")
    assert not (tmp_path / "EXECUTED").exists()


def test_the_malicious_pickles_would_have_been_executed(tmp_path, monkeypatch):
    # Else the test above could not fail.
    monkeypatch.chdir(tmp_path)
    for make in (pth, legacy):
        (tmp_path / "a.pth").write_bytes(make({"state_dict": Touch()}))
        torch.load(tmp_path / "a.pth", weights_only=False)
        assert (tmp_path / "EXECUTED").exists()
        (tmp_path / "EXECUTED").unlink()


def test_every_misfit_is_named_with_its_shapes(tmp_path):
    state = dict(STATE)
    del state["backbone.layers.1.ln2.bias"], state["backbone.layers.2.token_mix.layers.1.weight"]
    state["backbone.layers.0.ln1.weight"] = torch.ones(23)
    state["backbone.ln1.bias"] = torch.ones(24, 1)
    state["backbone.extra"] = torch.ones(2, 3)
    state["backbone.layers.700.ln1.bias"] = torch.ones(24)
    torch.save(state, tmp_path / "a.pth")
    assert sentence(tmp_path / "a.pth").endswith(
        "These weights in OpenMMLab's layout are not those of one whole Mixer: "
        "missing backbone.layers.2.token_mix.layers.1.weight (25, 18), "
        "backbone.layers.1.ln2.bias (24,); "
        "unexpected backbone.extra (2, 3), backbone.layers.700.ln1.bias (24,); "
        "misshapen backbone.layers.0.ln1.weight (23,) in place of (24,), "
        "backbone.ln1.bias (24, 1) in place of (24,)."
    )


@pytest.mark.parametrize("project", numpy_mixers.FORWARD)
def test_each_missing_weight_is_named(tmp_path, project):
    state = numpy_mixers.random_state(project, **numpy_mixers.SIZES)
    for name in state:
        rest = {k: torch.from_numpy(v) for k, v in state.items() if k != name}
        save_file(rest, tmp_path / "a")
        # Without its weight there is no head, and the bias is left over.
        left = {"head/kernel": "head/bias", HEAD: "head.fc.bias", "7.weight": "7.bias"}.get(name)
        told = f"unexpected {left}" if left else f"missing {name}"
        with pytest.raises(ValueError, match=f"one whole Mixer: {re.escape(told)}"):
            ml.load_checkpoint(tmp_path / "a")


@pytest.mark.parametrize("project", numpy_mixers.FORWARD)
def test_each_misshapen_weight_is_named(tmp_path, project):
    state = numpy_mixers.random_state(project, **numpy_mixers.SIZES)
    for name in state:
        wrong = {k: torch.from_numpy(v) for k, v in state.items()}
        wrong[name] = wrong[name][..., None]
        save_file(wrong, tmp_path / "a")
        with pytest.raises(ValueError, match="are not those of one whole Mixer: misshapen") as e:
            ml.load_checkpoint(tmp_path / "a")
        assert f"misshapen {name} {tuple(wrong[name].shape)}" in str(e.value)


def test_folders_absent_and_unreadable_files(tmp_path, monkeypatch):
    assert "is a folder: give the file of weights in it" in sentence(tmp_path)
    with pytest.raises(FileNotFoundError, match="There is no checkpoint file") as error:
        ml.load_checkpoint(tmp_path / "nothing.pth")
    assert "\n" not in str(error.value)
    torch.save(STATE, tmp_path / "a.pth")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "open", refuse)
    assert "cannot be read: Permission denied" in sentence(tmp_path / "a.pth")


def test_packed_weights_are_far_from_the_limit_of_bombs():
    # Weights that were bfloat16, half their bits zero: as well as real ones can be packed.
    values = torch.randn(10**5).bfloat16().float().numpy()
    assert len(npz(a=values)) * 3 < MAX_EXPANSION * len(npz(packed=True, a=values))


# Each file is loaded by a child of its own, which the system counts from where it begins.
LOADER = """
import os, re, sys
import torch
import mixer_lite as ml

torch.set_num_threads(1)
most = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
tiny, *paths = sys.argv[1:]
ml.load_checkpoint(tiny)  # what the first call imports is not counted
for path in paths:
    if not os.fork():
        before = most()
        try:
            model = ml.load_checkpoint(path)
        except ValueError:
            pass
        print(most() - before, flush=True)
        os._exit(0)
    os.wait()
"""


def peaks(folder, files):
    """Bytes by which loading each file raises a process's largest memory."""
    (folder / "tiny").write_bytes(pth(STATE))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", LOADER, *(str(folder / name) for name in ("tiny", *files))],
        capture_output=True, text=True, check=True, timeout=100,
    )  # fmt: skip
    return dict(zip(files, map(int, done.stdout.split()), strict=True))


linux = pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="only Linux counts a child's own peak"
)


@linux
def test_loading_makes_no_second_copy_of_the_weights(tmp_path):
    # 75 MB: large enough to stand out from the interpreter.
    sizes = dict(side=32, patch=4, hidden=640, tokens=320, channels=2560, depth=6, classes=10)
    arrays = numpy_mixers.random_state("openmmlab", **sizes)
    state = {k: torch.from_numpy(v) for k, v in arrays.items()}
    files = {
        "zip": pth(state),
        "legacy": legacy(state),
        "safetensors": save(state),
        "npz": npz(**arrays),
        "half precision": pth({k: v.half() for k, v in state.items()}),
    }
    size = sum(v.nbytes for v in state.values())
    assert size > 75_000_000
    for name, peak in peaks(tmp_path, files).items():
        # 16 MiB of a mapped file may stand beside the copies, whatever the model's size.
        assert 0.9 * size < peak < 1.1 * size + 2**24, name


@linux
def test_bombs_take_no_memory(tmp_path):
    bombs = {
        "pickle that fills the memory, zip",
        "pickle that fills the memory, legacy",
        "zip bomb, .npz",
        "zip bomb, .pth",
        "array header that lies",
        "tensors larger than the file",
    }
    files = {name.replace(" ", "_"): FAULTS[name][0]() for name in bombs}
    for name, peak in peaks(tmp_path, files).items():
        assert peak < 8_000_000, name
