"""Files of weights to named tensors, without running any code in them.

The kind of a file is read off its first bytes, never off its name. Whatever is inside, a reader
gives tensors or a ``ValueError`` of one sentence, and takes no more memory than a small multiple
of the file: every size that a file declares is compared with the bytes it has before any is used.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mixer_lite._support.words import foreign, listed, reason
from mixer_lite.weights.pickles import (
    TORCH_LEGACY,
    TORCH_ZIP,
    Named,
    Place,
    Reader,
    Refused,
    check_zip,
)

# Training scripts wrap the weights, those at the head of this list inside those further down;
# averaged weights are the ones meant for use. OpenMMLab's hook swaps the two: its state_dict
# holds the average.
_WRAPPERS = (
    "state_dict_ema", "model_ema", "ema", "state_dict", "model", "module", "ema_state_dict",
)  # fmt: skip
# Parts of a name that wrappers of a model put in: DataParallel, torch.compile, transformers.
_WRAPPED = {
    "module", "_orig_mod", "timm_model", "_fsdp_wrapped_module", "_checkpoint_wrapped_module",
}  # fmt: skip

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


def read_file(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors and text metadata of a safetensors, PyTorch or NumPy ``.npz`` file.

    Of a training checkpoint the weights are taken, averaged ones before others; prefixes of
    DataParallel, ``torch.compile`` and transformers are removed from names. PyTorch files, the
    older kind too, are read by :mod:`~mixer_lite.weights.pickles` and ``.npz`` with
    ``allow_pickle=False``: no code in the file is ever run. All tensors are dense, on the CPU and
    not mapped from the file, so that it may be replaced while they are in use.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged or of another kind, could run code, unpacks to more than
            ten times its size, or holds more than dense tensors.
    """
    path, name = Path(path), foreign(path, 300)
    try:
        if path.is_dir():
            raise ValueError(f"{name} is a folder: give the file of weights in it.")
        if not path.is_file():
            raise FileNotFoundError(f"There is no checkpoint file {name}.")
        with path.open("rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(f"{name} cannot be read: {error.strerror}.") from error
    reader = _reader(head)
    if isinstance(reader, str):
        raise ValueError(f"{name} {reader}.")
    try:
        return reader(path)
    except Refused as error:
        raise ValueError(f"{name} {error}.") from error
    except MemoryError as error:
        raise ValueError(f"{name} takes more memory than there is.") from error
    except Exception as error:  # the parsers raise a dozen kinds on damaged bytes
        raise ValueError(
            f"{name} is damaged or cut short, download or copy it again "
            f"({type(error).__name__}: {reason(error, 200)})."
        ) from error


def _reader(head: bytes) -> Any:
    # The function that reads a file with this beginning, or a sentence on what the file is.
    if not head:
        return "is empty (0 bytes): download or copy it again"
    # A safetensors file: 8 bytes of length, which are never all printable, then the header.
    if head[8:9] == b"{" and not head[:8].decode("latin-1").isprintable():
        return _read_safetensors
    if head.startswith(TORCH_ZIP):
        return _read_zip
    if TORCH_LEGACY in head[:32]:
        return _read_torch
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


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            names, metadata = list(file.keys()), file.metadata() or {}
        state: dict[str, Tensor] = {}
        while len(state) < len(names):
            # Copies, because a mapped file must not change while it is in use. The map's pages
            # count as memory until it is closed, so it is opened again after every 4 MiB.
            with safe_open(path, framework="pt") as file:
                room = 1 << 22
                while room > 0 and len(state) < len(names):
                    name = names[len(state)]
                    state[name] = file.get_tensor(name).clone()
                    room -= state[name].nbytes
    except SafetensorError as error:
        raise Refused(
            f"is not a whole safetensors file, download or copy it again ({reason(error)})"
        ) from error
    return _state_dict(state, path.stat().st_size), metadata


def _read_zip(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        unpacked = check_zip(archive, path.stat().st_size)
        if any(m.filename.endswith("/data.pkl") for m in members):
            return _read_torch(path)
        if members and all(m.filename.endswith(".npy") for m in members):
            arrays = dict(_read_npy(archive, m) for m in members)
            return _state_dict(arrays, unpacked), {}
        names = listed(repr(m.filename) for m in members[:3]) or "nothing"
        raise Refused(f"is a zip file of another kind, not weights: it holds {names}")


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    with Reader(path) as reader:
        state = _state_dict(reader.content, reader.unpacked, reader.tensor)
    return state, {}


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
        raise Refused(
            f"holds Python objects ({foreign(name)!r}), which could run code, and was not opened: "
            f"save arrays of numbers alone"
        )
    if declared != member.file_size:
        raise Refused(
            f"is damaged: the header of {foreign(name)!r} names {declared:,} bytes where the file "
            f"has {member.file_size:,}; download or copy it again"
        )
    with archive.open(member) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
    if dtype == np.dtype("V2"):  # how NumPy writes JAX's bfloat16
        return name, torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        raise Refused(
            f"holds {foreign(name)!r} of type {dtype}: weights are floating-point numbers"
        )
    return name, torch.from_numpy(array.astype(dtype.newbyteorder("="), copy=False))


def _state_dict(
    content: Any, size: int, read: Callable[[Place], Tensor] | None = None
) -> dict[str, Tensor]:
    # The weights in a file, checked: no larger than the file. Those given as places in the file
    # are read last; nothing else of it is read.
    for _ in range(4):  # wrappers may be nested
        for key in _WRAPPERS:
            inner = content.get(key) if isinstance(content, Mapping) else None
            if isinstance(inner, Mapping) and inner:
                content = inner
                break
    weights = Tensor | Place
    if not isinstance(content, Mapping) or not any(
        isinstance(v, weights) for v in content.values()
    ):
        raise Refused("holds no state dict, names with tensors: save model.state_dict()")
    state: dict[str, Any] = {}
    for name, tensor in _renamed(content):
        if not isinstance(tensor, weights):
            kind = tensor.name if isinstance(tensor, Named) else type(tensor).__name__
            raise Refused(
                f"holds {foreign(name)} of type {foreign(kind)} among the weights: save the "
                f"state_dict() alone"
            )
        if name in state:
            raise Refused(f"holds {foreign(name)} twice, with and without a wrapper's prefix")
        state[name] = tensor
    claimed = sum(t.nbytes for t in state.values())
    if claimed > size:
        raise Refused(
            f"holds {size:,} bytes, and its tensors claim {claimed:,}: several share the same "
            f"values, which a Mixer's never do"
        )
    return state if read is None else {name: read(place) for name, place in state.items()}


def _renamed(content: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    if any(not isinstance(name, str) for name in content):
        raise Refused("holds no state dict: its entries have numbers in place of names")
    names = [".".join(p for p in name.split(".") if p not in _WRAPPED) for name in content]
    if all(name.startswith("model.") for name in names):  # Lightning
        names = [name.removeprefix("model.") for name in names]
    yield from zip(names, content.values(), strict=True)
