"""Files of weights to named tensors, without running what a stranger put into them.

The kind of a file is read off its first bytes, never off its name. Whatever is inside, a reader
gives tensors or a ``ValueError`` of one sentence, and takes no more memory than a small multiple
of the file: every size that a file declares is compared with the bytes it has before any is used.
"""

from __future__ import annotations

import argparse
import math
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

# Trained float32 weights shrink by a tenth when packed, half-precision ones stored as float32 by
# half. A file that unpacks to more than ten times its size was not made from weights.
MAX_EXPANSION = 10

# Training scripts wrap the weights, those at the head of this list inside those further down;
# averaged weights are the ones meant for use. OpenMMLab's hook swaps the two: its state_dict
# holds the average.
_WRAPPERS = (
    "state_dict_ema", "model_ema", "ema", "state_dict", "model", "module", "ema_state_dict",
)  # fmt: skip
# Parts of a name that wrappers of a model put in: DataParallel, torch.compile, transformers.
_WRAPPED = {"module", "_orig_mod", "timm_model"}

_TORCH_ZIP, _TORCH_LEGACY = b"PK\x03\x04", b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

# First bytes of files that are often taken for weights, and what to tell of them.
_NOT_WEIGHTS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights themselves: fetch those "
     "with git lfs pull, or download the file from the site's own link"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes: take the .npz, .pth or .safetensors of these "
     "weights"),
    (b"\x93NUMPY", "is one NumPy array, not named weights: save them all with numpy.savez"),
    (b"\x1f\x8b", "is compressed with gzip: unpack it first"),
    (b"{", "is a JSON text, an index or a configuration, not the weights: open the file beside it"),
    (b"\x80", "is a plain Python pickle, which could run code and was not opened: save the "
     "model's state_dict() with torch.save, best as .safetensors"),
)  # fmt: skip

# All that a state dict of plain tensors asks of pickle, and what trainings leave beside it: counts
# of schedulers, timm's arguments, which are a bag of the same plain values.
# torch.load's own list is longer: it lets a file of 40 bytes ask for a bytearray of gigabytes.
_PICKLED = re.compile(
    r"collections (OrderedDict|Counter)|torch._utils _rebuild_(tensor_v2|tensor_v3|parameter)|"
    r"torch(\.storage)? \w+Storage|torch (Size|device|b?float\w*|double|half|u?int\d+|bool)|"
    r"(builtins|__builtin__) set|argparse Namespace"
)
_PICKLED_KINDS = {
    "_rebuild_sparse_tensor": "holds sparse tensors: save to_dense() of them",
    "_rebuild_qtensor": "holds quantized tensors: save dequantize() of them",
    "_rebuild_meta_tensor_no_storage": "holds tensors of the meta device, which have no values",
    "_rebuild_nested_tensor": "holds nested tensors, which no Mixer has",
}


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors and text metadata of a safetensors, PyTorch or NumPy ``.npz`` file.

    Of a training checkpoint the weights are taken, averaged ones before others; prefixes of
    DataParallel, ``torch.compile`` and transformers are removed from names. PyTorch files, the
    older kind too, are read with ``weights_only=True`` and ``.npz`` with ``allow_pickle=False``:
    no code in the file is ever run. All tensors are dense, on the CPU and not mapped from the
    file, so that it may be replaced while they are in use.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another kind, could run code, unpacks to more than
            ten times its size, or holds more than dense tensors.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder: give the file of weights in it.")
        if not path.is_file():
            raise FileNotFoundError(f"There is no checkpoint file {path}.")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    reader = _reader(head)
    if isinstance(reader, str):
        raise ValueError(f"{path} {reader}.")
    try:
        content, metadata, size = reader(path)
        return _state_dict(content, size), metadata
    except _Refused as error:
        raise ValueError(f"{path} {error}.") from error
    except Exception as error:  # the parsers raise a dozen kinds on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{path} is damaged or cut short, download or copy it again "
            f"({type(error).__name__}: {reason})."
        ) from error


class _Refused(ValueError):
    # The end of a sentence that the file's name begins.
    pass


def _reader(head: bytes) -> Any:
    # The function that reads a file beginning so, or what the file is instead.
    if not head:
        return "is empty (0 bytes): download or copy it again"
    # A safetensors file: 8 bytes of length, never all letters, then the header.
    if head[8:9] == b"{" and not head[:8].decode("latin-1").isprintable():
        return _read_safetensors
    if head.startswith(_TORCH_ZIP):
        return _read_zip
    if _TORCH_LEGACY in head[:32]:
        return _read_legacy
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!", b"<html", b"<?xml", b"<head", b"<error")):
        return (
            "is a web page or a server's error message, not weights: download the file again, "
            "from the link to the file itself"
        )
    for magic, words in _NOT_WEIGHTS:
        if head.startswith(magic):
            return words
    return (
        f"is of no kind that is known here (safetensors, PyTorch, NumPy .npz): it begins with "
        f"{head[:12]!r}"
    )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str], int]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
        state: dict[str, Tensor] = {}
        while len(state) < len(names):
            # Copies, because a mapped file must not change while it is in use. The map's pages
            # count as memory until it is closed, so it is opened anew after every 4 MiB.
            with safe_open(path, framework="pt") as file:
                room = 1 << 22
                while room > 0 and len(state) < len(names):
                    name = names[len(state)]
                    state[name] = file.get_tensor(name).clone()
                    room -= state[name].nbytes
    except SafetensorError as error:
        raise _Refused(
            f"is not a whole safetensors file, download or copy it again ({error})"
        ) from error
    return state, metadata, path.stat().st_size


def _read_zip(path: Path) -> tuple[Any, dict[str, str], int]:
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = sum(m.file_size for m in members)
        if unpacked > MAX_EXPANSION * size:
            raise _Refused(
                f"would unpack to {unpacked:,} bytes from {size:,}, more than {MAX_EXPANSION} "
                f"times as many, which no weights do: it was not opened, because it could fill "
                f"the memory"
            )
        if any(m.filename.endswith("/data.pkl") for m in members):
            if any(m.filename.endswith("/constants.pkl") for m in members):
                raise _Refused(
                    "is a TorchScript program and was not opened, because it runs code: save "
                    "its state_dict() alone, best as .safetensors"
                )
            for member in members:
                if member.filename.endswith("/data.pkl"):
                    with archive.open(member) as file:
                        _check_pickle(file)
        elif members and all(m.filename.endswith(".npy") for m in members):
            return {k: v for m in members for k, v in [_read_npy(archive, m)]}, {}, unpacked
        else:
            names = ", ".join(repr(m.filename) for m in members[:3]) or "nothing"
            raise _Refused(f"is a zip file of another kind, not weights: it holds {names}")
    return _torch_load(path), {}, unpacked


def _read_npy(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> tuple[str, Tensor]:
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read_header(file)
        # NumPy makes the array that the header names before it reads a byte of it.
        declared = file.tell() + math.prod(int(n) for n in shape) * dtype.itemsize
    if dtype.hasobject:
        raise _Refused(
            f"holds Python objects ({name!r}), which could run code, and was not opened: save "
            f"arrays of numbers alone"
        )
    if declared != member.file_size:
        raise _Refused(
            f"is damaged: the header of {name!r} names {declared:,} bytes where the file has "
            f"{member.file_size:,}; download or copy it again"
        )
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if dtype == np.dtype("V2"):  # how NumPy writes JAX's bfloat16
        return name, torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise _Refused(f"holds {name!r} of type {dtype}: weights are floating-point numbers")
    return name, torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=False))


def _read_legacy(path: Path) -> tuple[Any, dict[str, str], int]:
    with path.open("rb") as file:
        for _ in range(5):  # magic number, version, system, the object, keys of its storages
            _check_pickle(file)
    return _torch_load(path), {}, path.stat().st_size


def _torch_load(path: Path) -> Any:
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_pickle(file: IO[bytes]) -> None:
    # Refuses a pickle that names more than tensors are made of, without carrying it out.
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "STACK_GLOBAL":
            raise _Refused(
                "is pickled by another protocol than torch.save's own and was not opened: save "
                "its state_dict() without pickle_protocol, best as .safetensors"
            )
        if opcode.name not in ("GLOBAL", "INST") or _PICKLED.fullmatch(str(argument)):
            continue
        name = ".".join(str(argument).split(" "))
        if kind := _PICKLED_KINDS.get(name.split(".")[-1]):
            raise _Refused(kind)
        raise _Refused(
            f"holds more than tensors ({name if name.isprintable() else repr(name)}) and was not "
            f"opened, because reading it could run code: save its state_dict() alone, best as "
            f".safetensors"
        )


def _state_dict(content: Any, size: int) -> dict[str, Tensor]:
    # The weights among what a file holds, checked: dense, and no larger than the file.
    for _ in range(4):  # wrappers may lie in each other
        for key in _WRAPPERS:
            inner = content.get(key) if isinstance(content, Mapping) else None
            if isinstance(inner, Mapping) and inner:
                content = inner
                break
    if not isinstance(content, Mapping) or not any(isinstance(v, Tensor) for v in content.values()):
        raise _Refused("holds no state dict, names with tensors: save model.state_dict()")
    state: dict[str, Tensor] = {}
    for name, tensor in _renamed(content):
        if not isinstance(tensor, Tensor):
            raise _Refused(
                f"holds {name} of type {type(tensor).__name__} among the weights: save the "
                f"state_dict() alone"
            )
        kind = (
            "sparse" if tensor.layout != torch.strided
            else "quantized" if tensor.is_quantized
            else "without values" if tensor.device.type != "cpu"
            else ""
        )  # fmt: skip
        if kind:
            raise _Refused(f"holds {name}, a tensor that is {kind}: save dense ones")
        if name in state:
            raise _Refused(f"holds {name} twice, with and without a wrapper's prefix")
        state[name] = tensor.detach()
    claimed = sum(t.nbytes for t in state.values())
    if claimed > size:
        raise _Refused(
            f"holds {size:,} bytes, and its tensors claim {claimed:,}: several share the same "
            f"values, which a Mixer's never do"
        )
    return state


def _renamed(content: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    if any(not isinstance(name, str) for name in content):
        raise _Refused("holds no state dict: its entries have numbers in place of names")
    names = [".".join(p for p in name.split(".") if p not in _WRAPPED) for name in content]
    if all(name.startswith("model.") for name in names):  # Lightning
        names = [name.removeprefix("model.") for name in names]
    yield from zip(names, content.values(), strict=True)
