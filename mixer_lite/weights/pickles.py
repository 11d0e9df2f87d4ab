"""Read PyTorch's files, by an interpreter of pickles that cannot build or call anything.

A pickle is a program for a small machine. This one knows the instructions that ``torch.save``
writes and builds dicts, lists, tuples, plain values and places of tensors out of them; of all that
a pickle can ask to be called it knows ``_rebuild_tensor`` and ``OrderedDict``. A file is
read by this one parser alone, and what it builds stays in proportion to what it holds: the number
of instructions, of tensors and of keys that are not text is bounded before any is carried out.
"""

from __future__ import annotations

import io
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from mixer_lite._support.words import foreign

TORCH_ZIP, TORCH_LEGACY = b"PK\x03\x04", b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

# Trained float32 weights shrink by a tenth when packed, half-precision ones stored as float32 by
# half. A file that unpacks to more than ten times its size was not made from weights.
MAX_EXPANSION = 10

# All that a state dict of plain tensors asks of pickle, and what trainings leave beside it: counts
# of schedulers, timm's arguments. Of the latter no more than the name is read.
_KNOWN = re.compile(
    r"collections (OrderedDict|Counter)|torch._utils _rebuild_(tensor_v2|tensor_v3|parameter)|"
    r"torch(\.storage)? \w+Storage|torch (Size|device|b?float\w*|double|half|u?int\d+|bool)|"
    r"(builtins|__builtin__) set|argparse Namespace"
)
_KINDS = {
    "_rebuild_sparse_tensor": "holds sparse tensors: save to_dense() of them",
    "_rebuild_qtensor": "holds quantized tensors: save dequantize() of them",
    "_rebuild_meta_tensor_no_storage": "holds tensors of the meta device, which have no values",
    "_rebuild_nested_tensor": "holds nested tensors, which no Mixer has",
}
# A tensor's name, sizes and place take more bytes than this in a pickle.
_BYTES_A_TENSOR = 40
_OTHER_KEYS = 10_000  # that are not text: an optimizer counts its parameters
_DEPTH = 60


class Refused(ValueError):
    """Why a file is not read: the end of a sentence that the file's name begins."""


@dataclass(frozen=True)
class Named:
    """Something that a pickle names, and that stays a name: a class, a type, an object of one."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A storage of numbers: its key, their type (``None``: plain bytes) and count."""

    key: str
    dtype: torch.dtype | None
    numel: int


@dataclass(frozen=True)
class Place:
    """A tensor that is not read yet: which part of a storage it is."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that its elements take once each."""
        return _product(self.size) * self.dtype.itemsize


def _product(sizes: tuple[int, ...]) -> int:
    total = 1
    for n in sizes:
        total *= n
    return total


def _named(argument: str) -> Named:
    if not _KNOWN.fullmatch(argument):
        name = ".".join(argument.split(" "))
        if kind := _KINDS.get(name.split(".")[-1]):
            raise Refused(kind)
        raise Refused(
            f"holds more than tensors ({foreign(name)}) and was not "
            f"opened, because reading it could run code: save its state_dict() alone, best as "
            f".safetensors"
        )
    return Named(argument.split(" ")[1])


_MARK = object()
# Instructions that put their argument on the stack, that put something new there, and others.
_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT UNICODE BINUNICODE STRING "
    "BINSTRING SHORT_BINUNICODE SHORT_BINSTRING BINBYTES SHORT_BINBYTES".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Whole:
    # A file of pickles whose reads are held to what it has: a length that is only claimed, of
    # gigabytes, makes no room for them.

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size
        self.readline, self.tell = file.readline, file.tell

    def read(self, count: int) -> bytes:
        if count > self.size - self.tell():
            raise ValueError("the file ends before its pickle does")
        return self.file.read(count)


class _Machine:
    # Carries out a pickle's instructions; `size` is of the file, to which the budgets belong.

    def __init__(self, size: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.steps = 2 * size // 3 + 1000  # weights take more bytes for one
        self.tensors, self.keys = size // _BYTES_A_TENSOR + 16, _OTHER_KEYS
        self.storages: dict[str, Storage] = {}

    def run(self, file: Any) -> Any:
        """The object that the pickle at a file's position makes; the file is left behind it."""
        self.stack, self.memo = [], {}
        for opcode, argument, _ in pickletools.genops(file):
            self.steps -= 1
            if self.steps < 0:
                raise Refused("asks for more objects than a file of its size can hold weights")
            if opcode.name == "STOP":
                break
            self.step(opcode.name, argument)
        (made,) = self.stack
        return made

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            count = _TUPLES[name]
            stack[-count:] = [tuple(self.top(count))]
        elif name in ("BINPUT", "LONG_BINPUT", "PUT"):
            self.memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self.memo[argument])
        elif name == "GLOBAL":
            stack.append(_named(str(argument)))
        elif (do := getattr(self, f"do_{name.lower()}", None)) is not None:
            do()
        elif name not in ("PROTO", "FRAME"):
            raise Refused(
                "is pickled by another protocol than torch.save's own and was not opened: save "
                "its state_dict() without pickle_protocol, best as .safetensors"
            )

    def top(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the pickle takes more than it has")
        return self.stack[-count:]

    def since_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - next(i for i, x in enumerate(reversed(self.stack)) if x is _MARK)
        taken = self.stack[at + 1 :]
        del self.stack[at:]
        return taken

    def do_mark(self) -> None:
        self.stack.append(_MARK)

    def do_pop(self) -> None:
        self.stack.pop()

    def do_empty_dict(self) -> None:
        self.stack.append({})

    def do_empty_list(self) -> None:
        self.stack.append([])

    def do_tuple(self) -> None:
        self.stack.append(tuple(self.since_mark()))

    def do_list(self) -> None:
        self.stack.append(self.since_mark())

    def do_append(self) -> None:
        self.extend([self.stack.pop()])

    def do_appends(self) -> None:
        self.extend(self.since_mark())

    def do_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update([key, value])

    def do_setitems(self) -> None:
        self.update(self.since_mark())

    def do_dict(self) -> None:
        items = self.since_mark()
        self.stack.append({})
        self.update(items)

    def extend(self, items: list[Any]) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def update(self, items: list[Any], into: Any = None) -> None:
        into = self.stack[-1] if into is None else into
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str:
                self.keys -= 1
                if self.keys < 0 or not (isinstance(key, int) and abs(key) < 2**48):
                    raise Refused("has keys that are no names, more than an optimizer has")
            if isinstance(into, dict):
                into[key] = value

    def do_build(self) -> None:
        self.stack.pop()  # attributes: of the weights' dict, versions alone

    def do_newobj(self) -> None:
        self.do_reduce()

    def do_binpersid(self) -> None:
        kind, storage, key, _, numel, *view = self.stack.pop()
        if kind != "storage" or not isinstance(storage, Named) or any(v is not None for v in view):
            raise Refused("holds views of tensors in an old format: save it again")
        if type(key) is not str or type(numel) is not int or numel < 0:
            raise ValueError("a tensor's place is no place")
        named = storage.name.removesuffix("Storage").lstrip("_").lower()
        made = Storage(key, None if named == "untyped" else _dtype(named), numel)
        if self.storages.setdefault(key, made) != made:
            raise ValueError("one storage is said to be two")
        self.stack.append(made)

    def do_reduce(self) -> None:
        arguments, called = self.stack.pop(), self.stack.pop()
        if not isinstance(called, Named) or not isinstance(arguments, tuple):
            raise ValueError("the pickle calls what cannot be called")
        if called.name == "OrderedDict" and (not arguments or isinstance(arguments[0], list)):
            made: Any = self.ordered(*arguments)
        elif called.name == "_rebuild_parameter":
            made = arguments[0]
        elif called.name.startswith("_rebuild_tensor"):
            made = self.place(*arguments[:4], *arguments[6:7])
        else:
            made = Named(called.name)
        self.stack.append(made)

    def ordered(self, pairs: Sequence[Any] = ()) -> dict[Any, Any]:
        # Python 2 wrote an OrderedDict as a list of pairs. A list may be named many times: what is
        # made of it counts as instructions.
        self.steps -= len(pairs)
        if self.steps < 0:
            raise Refused("asks for more objects than a file of its size can hold weights")
        if any(not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs):
            raise ValueError("a dict of no pairs")
        made: dict[Any, Any] = {}
        self.update([part for pair in pairs for part in pair], made)
        return made

    def place(self, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None) -> Place:
        self.tensors -= 1
        if self.tensors < 0:
            raise Refused("names more tensors than a file of its size can hold")
        if not isinstance(storage, Storage):
            raise ValueError("a tensor without a place")
        numbers = (offset, *size, *stride)
        if len(size) != len(stride) or len(size) > 16:
            raise ValueError("a tensor's sizes do not fit together")
        if any(type(n) is not int or not 0 <= n < 2**62 for n in numbers):
            raise ValueError("a tensor's sizes are no sizes")
        kind = _dtype(dtype.name) if isinstance(dtype, Named) else storage.dtype
        if kind is None:
            raise ValueError("a tensor without a type")
        return Place(storage, kind, offset, tuple(size), tuple(stride))


def _dtype(name: str) -> torch.dtype:
    # A storage is called LongStorage, a type torch.int64.
    dtype = getattr(torch, {"char": "int8", "byte": "uint8"}.get(name, name), None)
    if not isinstance(dtype, torch.dtype) or dtype.is_complex:
        raise Refused(f"holds numbers of a kind ({foreign(name)}) that weights are not")
    if name in ("quint8", "qint8", "qint32", "quint4x2", "quint2x4"):
        raise Refused(_KINDS["_rebuild_qtensor"])
    return dtype


def check_zip(archive: zipfile.ZipFile, size: int) -> int:
    """The bytes to which an archive unpacks.

    Raises:
        Refused: they are more than weights make of its size, or it is a program.
    """
    members = archive.infolist()
    unpacked = sum(m.file_size for m in members)
    if unpacked > MAX_EXPANSION * size:
        raise Refused(
            f"would unpack to {unpacked:,} bytes from {size:,}, more than {MAX_EXPANSION} "
            f"times as many, which no weights do: it was not opened, because it could fill "
            f"the memory"
        )
    if any(m.filename.endswith("/constants.pkl") for m in members):
        raise Refused(
            "is a TorchScript program and was not opened, because it runs code: save "
            "its state_dict() alone, best as .safetensors"
        )
    return unpacked


class Reader:
    """A PyTorch file's content: with places where tensors are, which it reads when asked to.

    Args:
        path: of the file.

    Raises:
        Refused: it asks for more than plain tensors, or for more than it can hold.
        Exception: it is damaged.
    """

    content: Any

    def __init__(self, path: Path) -> None:
        self.size = self.unpacked = path.stat().st_size
        self.machine = _Machine(self.size)
        self.storages: dict[str, Tensor] = {}
        self.file = path.open("rb")
        try:
            if self.file.read(4) == TORCH_ZIP:
                self._open_zip()
            else:
                self._open_legacy()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def _open_zip(self) -> None:
        self.archive: zipfile.ZipFile | None = zipfile.ZipFile(self.file)
        self.unpacked = check_zip(self.archive, self.size)
        names = [m.filename for m in self.archive.infolist()]
        if len(set(names)) < len(names):
            raise Refused("holds two members of one name: save it again")
        (pickle,) = [n for n in names if n.endswith("/data.pkl")]
        self.prefix = pickle.removesuffix("data.pkl")
        order = f"{self.prefix}byteorder"
        self.swapped = order in names and self.archive.read(order) == b"big"
        self.content = self.machine.run(io.BytesIO(self.archive.read(pickle)))

    def _open_legacy(self) -> None:
        self.archive, self.swapped = None, False
        self.file.seek(0)
        run, file = self.machine.run, _Whole(self.file, self.size)
        _magic, _version, _system = run(file), run(file), run(file)
        self.content, keys = run(file), run(file)
        # Behind the pickles each storage: 8 bytes of length, in elements, and its bytes.
        self.at: dict[str, int] = {}
        for key in keys:
            storage, at = self.machine.storages[key], self.file.tell()
            if int.from_bytes(self.file.read(8), "little") != storage.numel:
                raise ValueError("a storage has another length than its tensors say")
            self.at[key] = at + 8
            self.file.seek(at + 8 + storage.numel * _itemsize(storage))
        if self.file.tell() > self.size:
            raise ValueError("the file ends before its tensors do")

    def tensor(self, place: Place) -> Tensor:
        """The tensor that is in a place; several may share their memory, as they did.

        Raises:
            Refused: see above.
        """
        steps = zip(place.size, place.stride, strict=True)
        last = place.offset + sum((n - 1) * stride for n, stride in steps)
        numel = place.storage.numel
        if place.storage.dtype is None:
            numel //= place.dtype.itemsize
        if 0 not in place.size and last >= numel:
            raise ValueError("a tensor reaches beyond its storage")
        raw = self._raw(place.storage, place.dtype)
        return torch.empty(0, dtype=place.dtype).set_(
            raw.untyped_storage(), place.offset, place.size, place.stride
        )

    def _raw(self, storage: Storage, dtype: torch.dtype) -> Tensor:
        if storage.key in self.storages:
            return self.storages[storage.key]
        size = storage.numel * _itemsize(storage)
        raw = torch.empty(0, dtype=torch.uint8)
        if self.archive is not None:
            member = self.archive.getinfo(f"{self.prefix}data/{storage.key}")
            if member.file_size != size:
                raise ValueError(f"a tensor of {member.file_size:,} bytes is said to have {size:,}")
            raw = torch.empty(size, dtype=torch.uint8)
            with self.archive.open(member) as source:
                _fill(source, raw)
        else:
            if not 0 <= size <= self.size:
                raise ValueError("a storage larger than the file")
            raw = torch.empty(size, dtype=torch.uint8)
            self.file.seek(self.at[storage.key])
            _fill(self.file, raw)
        if self.swapped:
            raw.untyped_storage().byteswap(dtype)
        self.storages[storage.key] = raw
        return raw

    def everything(self) -> Any:
        """The content with its tensors in place.

        Raises:
            Refused: see above, or its tensors would take more memory than the file has bytes.
        """
        claimed = sum({id(p): p.nbytes for p in _places(self.content)}.values())
        if claimed > 4 * self.unpacked:  # two models of a run may be one
            raise Refused(f"holds {self.unpacked:,} bytes, and its tensors claim {claimed:,}")
        return self._filled(self.content, {}, 0)

    def _filled(self, value: Any, seen: dict[int, Any], depth: int) -> Any:
        if depth > _DEPTH:
            raise Refused("holds lists in lists deeper than any training writes")
        if id(value) in seen:
            return seen[id(value)]
        made: Any = value
        if isinstance(value, Place):
            made = self.tensor(value)
        elif isinstance(value, dict):
            seen[id(value)] = made = {}
            made.update((k, self._filled(v, seen, depth + 1)) for k, v in value.items())
        elif isinstance(value, list):
            seen[id(value)] = made = []
            made.extend(self._filled(v, seen, depth + 1) for v in value)
        elif isinstance(value, tuple):
            made = tuple(self._filled(v, seen, depth + 1) for v in value)
        seen[id(value)] = made
        return made


def _fill(source: IO[bytes], into: Tensor) -> None:
    view, at = memoryview(into.numpy().data), 0
    while at < len(view):
        count = source.readinto(view[at : at + (1 << 18)])  # type: ignore[attr-defined]
        if not count:
            raise ValueError("the file ends before its tensors do")
        at += count
    if isinstance(source, zipfile.ZipExtFile):
        source.read(1)  # the end of a member: its checksum is looked at


def _itemsize(storage: Storage) -> int:
    return 1 if storage.dtype is None else storage.dtype.itemsize


def _walk(content: Any) -> list[Any]:
    # Every object that a content holds, each once, without recursion.
    seen: set[int] = set()
    found, waiting = [], [content]
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        found.append(value)
        if isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
    return found


def _places(content: Any) -> list[Place]:
    return [value for value in _walk(content) if isinstance(value, Place)]
