"""Damage of any kind to files of any kind: a model or one sentence, soon, in little memory.

FUZZ_EXAMPLES=20000 pytest tests/weights/test_checkpoint_fuzz.py tries more, other ones each time.
"""

import io
import json
import os
import re
import time
from pathlib import Path

import numpy as np
import numpy_mixers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

import mixer_lite as ml
from mixer_lite.specs import ModelConfig

SMALL = dict(side=4, patch=2, hidden=3, tokens=5, channels=2, depth=1, classes=2)  # S = 4
ARRAYS = {name: numpy_mixers.random_state(name, **SMALL) for name in numpy_mixers.FORWARD}
SHAPES = st.lists(st.integers(0, 6), max_size=4).map(tuple)
TYPES = [np.float32, np.float16, np.float64, np.int64, np.bool_]

settings.register_profile(
    "files",
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", 120)),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    deadline=None,  # the time is tested below, with room for a busy machine
    database=None,
)
fuzz = settings(settings.get_profile("files"))


def written(container, arrays):
    """Bytes of a file of these arrays."""
    tensors = {k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}
    file = io.BytesIO()
    if container == "safetensors":
        return save(tensors, {"gelu": "tanh", "config": '{"name": "x", "image_size": 4}'})
    if container == "npz":
        np.savez(file, **arrays)
    elif container == "packed npz":
        np.savez_compressed(file, **arrays)
    else:
        content = {"state_dict": tensors, "epoch": 3}
        torch.save(content, file, _use_new_zipfile_serialization=container == "zip")
    return file.getvalue()


CONTAINERS = ("safetensors", "npz", "packed npz", "zip", "legacy")
OWN = ml.MlpMixer(
    image_size=4, patch_size=2, num_classes=2, num_blocks=1, hidden_dim=3, tokens_mlp_dim=5,
    channels_mlp_dim=2,
)  # fmt: skip
OWN.config = ModelConfig(name="own", image_size=4, class_names=("a", "b"))
OWN_ARRAYS = {k: v.numpy() for k, v in OWN.state_dict().items()}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


def most():
    """Largest resident memory of this process so far, in bytes; 0 where nobody counts it."""
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) * 1024 if status.exists() else 0


def check(path, data):
    """Load such a file: a model that computes, or the one sentence."""
    path.write_bytes(data)
    before, start = most(), time.monotonic()
    try:
        model = ml.load_checkpoint(path)
    except ValueError as error:
        text = str(error)
        assert "\n" not in text and text.startswith(str(path)) and text.endswith("."), text
    else:
        assert all(bool(p.isfinite().all()) for p in model.parameters())
        x = torch.zeros(1, model.in_channels, *model.image_size)
        assert model(x).shape == (1, model.num_classes or model.hidden_dim)
    assert time.monotonic() - start < 10
    # A file of some kilobytes: nothing that it claims may become megabytes.
    assert most() - before < 32_000_000


@st.composite
def damage(draw, data):
    """The bytes with a few changed, left out, put in or repeated, and perhaps cut short."""
    changed = bytearray(data)
    # Half of the places near the ends, where headers and directories are.
    near = st.integers(0, min(600, len(data) - 1))
    place = st.one_of(near, near.map(lambda n: len(data) - 1 - n), st.integers(0, len(data) - 1))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(place) % max(1, len(changed))
        kind = draw(st.sampled_from(["flip", "set", "insert", "remove", "repeat", "cut", "number"]))
        if kind == "flip" and changed:
            changed[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set" and changed:
            changed[at] = draw(st.integers(0, 255))
        elif kind == "insert":
            changed[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == "remove":
            del changed[at : at + draw(st.integers(1, 40))]
        elif kind == "repeat":
            changed[at:at] = changed[at : at + draw(st.integers(1, 300))]
        elif kind == "cut":
            del changed[at:]
        elif kind == "number":  # sizes and offsets are such: make them large
            value = draw(st.sampled_from([2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1, 10**12]))
            width = draw(st.sampled_from([4, 8]))
            changed[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(changed)


@pytest.mark.parametrize("container", CONTAINERS)
def test_damaged_bytes(path, container):
    arrays = OWN_ARRAYS if container == "safetensors" else ARRAYS["google"]
    whole = written(container, arrays)
    assert ml.load_checkpoint(_put(path, whole)).num_classes == 2

    @fuzz
    @given(damage(whole))
    def run(data):
        check(path, data)

    run()


def _put(path, data):
    path.write_bytes(data)
    return path


def test_every_length_of_a_cut_file(path):
    for container in CONTAINERS:
        whole = written(container, ARRAYS["openmmlab"])
        for length in [*range(200), *range(200, len(whole), 97)]:
            path.write_bytes(whole[:length])
            with pytest.raises(ValueError) as error:
                ml.load_checkpoint(path)
            assert "\n" not in str(error.value)


@fuzz
@given(st.binary(max_size=300), st.sampled_from([b"", b"PK\x03\x04", b"\x80\x02", b"<!", b"{"]))
def test_bytes_of_any_kind(path, data, magic):
    check(path, magic + data)


@fuzz
@given(
    st.sampled_from(CONTAINERS),
    st.dictionaries(
        st.one_of(
            st.sampled_from(sorted({k for a in ARRAYS.values() for k in a} | set(OWN_ARRAYS))),
            st.text(min_size=1, max_size=12).filter(lambda s: s.isprintable() and "/" not in s),
            st.from_regex(
                r"(blocks|MixerBlock_|backbone\.layers)\.\d{1,12}\.\w{1,6}", fullmatch=True
            ),
        ),
        st.tuples(SHAPES, st.sampled_from(TYPES)),
        max_size=30,
    ),
)
def test_any_names_and_shapes(path, container, entries):
    check(path, written(container, {k: np.ones(s, t) for k, (s, t) in entries.items()}))


@fuzz
@given(st.sampled_from([*ARRAYS, "own"]), st.sampled_from(CONTAINERS), st.data())
def test_whole_models_with_some_entries_wrong(path, project, container, data):
    arrays = dict(OWN_ARRAYS if project == "own" else ARRAYS[project])
    for _ in range(data.draw(st.integers(0, 3))):
        name = data.draw(st.sampled_from(sorted(arrays)))
        kind = data.draw(st.sampled_from(["gone", "shape", "nan", "type", "renamed", "empty"]))
        value = arrays[name]
        if kind == "gone":
            del arrays[name]
        elif kind == "shape":
            arrays[name] = np.ones(data.draw(SHAPES), np.float32)
        elif kind == "nan":
            arrays[name] = np.full_like(value, np.nan)
        elif kind == "type":
            with np.errstate(invalid="ignore"):  # NaN becomes an integer
                arrays[name] = value.astype(data.draw(st.sampled_from(TYPES)))
        elif kind == "renamed":
            arrays[data.draw(st.sampled_from(["x", "8.weight", "module.a"]))] = arrays.pop(name)
        elif kind == "empty":
            arrays[name] = np.ones((*value.shape[:-1], 0), np.float32)
    check(path, written(container, arrays))


@fuzz
@given(
    st.dictionaries(
        st.sampled_from(["gelu", "norm_eps", "image_size", "patch_size", "config", "format"]),
        st.one_of(
            st.text(max_size=20),
            st.recursive(
                st.one_of(
                    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)
                ),
                lambda inner: st.one_of(
                    st.lists(inner, max_size=4),
                    st.dictionaries(
                        st.sampled_from([*ModelConfig.__dataclass_fields__, "x"]), inner, max_size=6
                    ),
                ),
                max_leaves=12,
            ).map(json.dumps),
        ),
    )
)
def test_any_metadata(path, metadata):
    check(path, save({k: torch.from_numpy(v) for k, v in OWN_ARRAYS.items()}, metadata))
