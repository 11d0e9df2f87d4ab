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
from mixer_lite.weights.pickles import MAX_EXPANSION

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


def torch_zip(pickled, method=zipfile.ZIP_DEFLATED, **storages):
    """A file of PyTorch's kind around a pickle written by hand."""
    data = {f"a/data/{name}": content for name, content in storages.items()}
    return zipped({"a/data.pkl": pickled, "a/version": b"3\n", **data}, method)


_PAIRS = b"]q\x00(" + b"K\x01K\x02\x86" * 2000 + b"e0"  # a list of pairs, put aside as number 0
_TENSOR = (
    b"ctorch._utils\n_rebuild_tensor_v2\nq\x01((X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x04tQK\x00K\x04\x85K\x01\x85\x89"
    b"ccollections\nOrderedDict\n)Rtq\x0200"
)  # the function as number 1, its arguments as number 2


def grown(call, name=b"X\x01\x00\x00\x00w", times=4000):
    return b"\x80\x02" + call[0] + b"}" + name + b"](" + call[1] * times + b"es."


def calls(name):
    return grown((_PAIRS, b"c" + name.replace(b" ", b"\n") + b"\nh\x00\x85R"))


def colliding(count):
    numbers = (k * (2**61 - 1) for k in range(1, count + 1))
    longs = (b"\x8a\x0a" + n.to_bytes(10, "little", signed=True) + b"N" for n in numbers)
    return b"\x80\x02}X\x01\x00\x00\x00w}(" + b"".join(longs) + b"us."


def in_legacy(pickled):
    head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
    return head + pickled + pickle.dumps([], 2)


NOT_FINITE = r"head\.fc\.bias holds NaN or infinite weights"
NOT_OPENED = (
    r"holds more than tensors \((pathlib\.Path|builtins\.getattr|__builtin__\.getattr).*not opened"
)
# Name of the fault -> bytes of the file, and words of the sentence that names it.
FAULTS = {
    **{
        f"pickle that grows, {name}, {kind}": (
            lambda write=write, name=name: write(calls(name.encode())),
            "no state dict|would unpack|no names|more objects",
        )
        for name in ("collections OrderedDict", "collections Counter", "builtins set", "torch Size")
        for kind, write in (("zip", torch_zip), ("legacy", in_legacy))
    },
    "a tensor a hundred thousand times": (
        lambda: torch_zip(grown((_TENSOR, b"h\x01h\x02R"), times=100_000), **{"0": bytes(16)}),
        "more objects than|more tensors than|would unpack",
    ),
    "a tensor many times, not packed": (
        lambda: torch_zip(
            grown((_TENSOR, b"h\x01h\x02R"), times=20_000), zipfile.ZIP_STORED, **{"0": bytes(16)}
        ),
        "more tensors than",
    ),
    "lists in lists, packed": (
        lambda: torch_zip(
            b"\x80\x02" + b"]" * 800_000 + b".", x=np.random.default_rng(0).bytes(100_000)
        ),
        "more objects than",
    ),
    "a text that claims a terabyte, grows": (
        lambda: in_legacy(b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"x."),
        "damaged or cut short",
    ),
    "a number that claims two gigabytes, grows": (
        lambda: in_legacy(b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"x."),
        "damaged or cut short",
    ),
    "keys that collide": (lambda: torch_zip(colliding(50_000)), "keys that are no names"),
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
    "temperature that lies": (
        lambda: save(
            ml.create_model("mixer_pico_cifar10").state_dict(),
            {"config": '{"name": "x", "image_size": 32, "temperature": 0}'},
        ),
        "its metadata is damaged: temperature of its config is 0",
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


def test_one_parser_reads_a_file_with_two_directories(tmp_path):
    def rezipped(state):
        with zipfile.ZipFile(io.BytesIO(pth(state))) as archive:
            return zipped({name: archive.read(name) for name in archive.namelist()})

    ours, theirs = rezipped(STATE), rezipped({k: v + 1 for k, v in STATE.items()})
    end = ours.rindex(b"PK\x05\x06")
    assert len(ours) == len(theirs) and theirs.rindex(b"PK\x05\x06") == end
    # The last directory lies where it ends; the end record says that the first one's place is it.
    (tmp_path / "two.pth").write_bytes(theirs[:end] + ours)
    model = ml.load_checkpoint(tmp_path / "two.pth")
    assert torch.equal(model.head.bias, STATE["head.fc.bias"])
    other = torch.load(tmp_path / "two.pth", weights_only=True)["head.fc.bias"]
    assert torch.equal(other, STATE["head.fc.bias"] + 1)  # two parsers would have differed


def test_members_of_one_name_are_refused(tmp_path):
    with (
        pytest.warns(UserWarning, match="Duplicate name"),
        zipfile.ZipFile(tmp_path / "a.pth", "w") as archive,
    ):
        for _ in range(2):
            archive.writestr("a/data.pkl", b"\x80\x02}.")
    assert "two members of one name" in sentence(tmp_path / "a.pth")


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
        ml.load_checkpoint(tiny)  # nor what a new process's first call costs
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
@pytest.mark.slow
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
@pytest.mark.slow
def test_bombs_take_no_memory(tmp_path):
    bombs = {
        "pickle that fills the memory, zip",
        "pickle that fills the memory, legacy",
        "zip bomb, .npz",
        "zip bomb, .pth",
        "array header that lies",
        "tensors larger than the file",
    }
    bombs |= {name for name in FAULTS if re.search("grows|a tensor|collide|in lists", name)}
    files = {name.replace(" ", "_"): FAULTS[name][0]() for name in bombs}
    for name, peak in peaks(tmp_path, files).items():
        assert peak < 8_000_000, (name, peak)


# What metadata asks for, and what it says


def own(**changes):
    model = ml.create_model("mixer_pico_cifar10")
    names = [f"class {i}" for i in range(model.num_classes)]
    config = {"name": "x", "image_size": model.image_size[0], "class_names": names, **changes}
    return save(model.state_dict(), {"config": json.dumps(config)})


@pytest.mark.parametrize("crop", [0.002, 1e-6, 1e-300, 0, -1, 2])
def test_a_crop_that_no_model_has_is_refused(tmp_path, crop):
    (tmp_path / "a").write_bytes(own(crop=crop))
    assert "crop of its config" in sentence(tmp_path / "a")


def test_pixels_that_few_weights_claim_are_refused(tmp_path):
    sizes = dict(side=12_000, patch=100, hidden=1, tokens=1, channels=1, depth=1, classes=2)
    arrays = numpy_mixers.random_state("openmmlab", **sizes)
    (tmp_path / "a").write_bytes(save({k: torch.from_numpy(v).half() for k, v in arrays.items()}))
    assert (tmp_path / "a").stat().st_size < 300_000
    assert "12,000 x 12,000 pixels" in sentence(tmp_path / "a")


def test_foreign_words_are_printable_and_short(tmp_path):
    evil = "a\x1b[31m\n\u202e\udc80" + "x" * 10_000
    names = [evil, *(f"class {i}" for i in range(9))]
    (tmp_path / "a").write_bytes(own(name=evil, source=evil, class_names=names))
    config = ml.load_checkpoint(tmp_path / "a").config
    for text in (config.name, config.source, config.class_names[0]):
        assert text.isprintable() and len(text) < 300
    assert config.class_names[1:] == tuple(names[1:])
    many = {f"{evil[:30]}{i}": torch.zeros(1) for i in range(100_000)}
    long = {f"{evil}{i}": torch.zeros(1) for i in range(1000)}
    where = tmp_path / "b\n\x1b[2J.pth"
    for content in (many, long, {**STATE, **long}):
        torch.save(content, where)
        with pytest.raises(ValueError) as error:
            ml.load_checkpoint(where)
        assert str(error.value).isprintable() and len(str(error.value)) < 10_000
