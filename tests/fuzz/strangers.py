"""Files of strangers without end: python tests/fuzz/strangers.py --minutes 30

Each file is taken in by a child process as a user's would be, and must become what it is or one
sentence: soon, in memory of its own order, with nothing run, opened for writing or connected to.
What does not is kept in a folder, with the reason. The seed says which files they are.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import random
import re
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
import zlib
from collections import Counter
from pathlib import Path

# What a file may take: seconds, bytes beside fifty times its own, bytes of a picture's pixels.
SECONDS, ROOM, PIXELS = 20, 60_000_000, 8 * 89_478_485
FORBIDDEN = ("exec", "os.", "subprocess.", "socket.", "shutil.", "ctypes.", "pickle.", "import")
# Code that a pickle may want to run, each beside what real files hold.
NAMES = [
    "os system", "builtins eval", "builtins getattr", "posix system", "subprocess Popen",
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage",
    "torch._utils _rebuild_parameter", "torch Size", "collections Counter", "builtins set",
    "torch.storage UntypedStorage", "torch.storage _load_from_bytes", "numpy ndarray",
    "argparse Namespace", "torch._utils _rebuild_sparse_tensor", "torch.serialization load",
]  # fmt: skip
PIECES = [  # instructions that need no argument
    b"(", b".", b"0", b"1", b"2", b"N", b"]", b"}", b")", b"a", b"e", b"s", b"u", b"t", b"l",
    b"d", b"R", b"b", b"Q", b"o", b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x89", b"\x8f",
    b"\x90", b"\x91", b"\x92", b"\x93", b"\x94", b"\x95" + bytes(8), b"\x97", b"\x98",
]  # fmt: skip


def pickled(rng: random.Random) -> bytes:
    """A pickle that nobody wrote."""
    out = [b"\x80\x02", rng.choice([b"", b"}(", b"]("])]
    for _ in range(rng.randrange(1, rng.choice([8, 40, 400]))):
        kind = rng.random()
        if kind < 0.2:
            out.append(b"c" + rng.choice(NAMES).replace(" ", "\n").encode() + b"\n")
        elif kind < 0.4:
            text = rng.choice(["a", "storage", "0", "cpu", "head.weight", "state_dict", "\ud800x"])
            data = text.encode("utf-8", "surrogatepass")
            out.append(b"X" + struct.pack("<I", len(data)) + data)
        elif kind < 0.55:
            out.append(b"K" + bytes([rng.randrange(256)]))
        elif kind < 0.65:
            out.append(rng.choice([b"q", b"h"]) + bytes([rng.randrange(4)]))
        elif kind < 0.7:
            out.append(b"\x8a\x09" + rng.randbytes(9))
        else:
            out.append(rng.choice(PIECES))
        if rng.random() < 0.05:
            out.append(out[-1] * rng.randrange(1, 3000))
    return b"".join(out) + b"."


def damaged(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """The same bytes with some of them changed, moved, repeated, or taken from another file."""
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        size = max(1, len(data))
        at = rng.choice([rng.randrange(size), rng.randrange(min(size, 700)),
                         size - 1 - rng.randrange(min(size, 400))])  # fmt: skip
        kind = rng.randrange(8)
        if kind == 0 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            data[at : at + 1] = rng.randbytes(rng.randrange(1, 9))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 60)]
        elif kind == 3:
            data[at:at] = data[at : at + rng.randrange(1, 400)]
        elif kind == 4 and rng.random() < 0.3:
            del data[at:]
        elif kind == 5:
            begin = rng.randrange(max(1, len(other)))
            data[at : at + rng.randrange(100)] = other[begin : begin + rng.randrange(400)]
        elif kind == 6:
            number = rng.choice([0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**62, 2**63 - 1])
            width, order = rng.choice([2, 4, 8]), rng.choice(["little", "big"])
            data[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, order)
        elif kind == 7:  # a number written in digits, as in headers of JSON and NumPy
            digits = list(re.finditer(rb"\d+", bytes(data[: 1 << 14])))
            if digits:
                span = rng.choice(digits)
                number = rng.choice([b"0", b"-1", b"1e9", b"999999999999", b"9" * 30, b"7"])
                data[span.start() : span.end()] = number
    return bytes(data)


def rezipped(rng: random.Random, data: bytes, other: bytes) -> bytes:
    """An archive whose members are sound and hold something else."""
    out, ways = io.BytesIO(), [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(out, "w", rng.choice(ways)) as new,
    ):
        names = old.namelist()
        changed = rng.choice(names)
        for name in names:
            inside = old.read(name)
            if name == changed:
                if name.endswith(".pkl") and rng.random() < 0.6:
                    inside = pickled(rng)
                elif rng.random() < 0.1:
                    inside = bytes(rng.choice([10**5, 10**7]))
                else:
                    inside = damaged(rng, inside, other)
            new.writestr(name if rng.random() < 0.98 else name + "x", inside)
    return out.getvalue()


def rechunked(rng: random.Random, data: bytes) -> bytes:
    """A PNG with a chunk more whose checksum is right, or whose pixels are packed otherwise."""
    kind = rng.choice([b"zTXt", b"iCCP", b"iTXt", b"tEXt", b"tRNS", b"PLTE", b"eXIf", b"acTL",
                       b"fcTL", b"fdAT", b"IHDR", b"IDAT", b"gAMA", b"cHRM", b"sRGB"])  # fmt: skip
    inside = rng.choice([
        rng.randbytes(rng.randrange(40)),
        b"name\0\0" + zlib.compress(bytes(rng.choice([10, 10**5, 10**7]))),
        struct.pack(">IIBBBBB", rng.choice([1, 40, 2**20, 2**31 - 1]), 40, 8, 2, 0, 0, 0),
    ])  # fmt: skip
    check = zlib.crc32(kind + inside) if rng.random() < 0.9 else 0
    at = data.index(rng.choice([b"IDAT", b"IEND"])) - 4
    return data[:at] + struct.pack(">I", len(inside)) + kind + inside + struct.pack(
        ">I", check
    ) + data[at:]  # fmt: skip


def sound() -> dict[str, bytes]:
    """A sound file of each kind, small; its name begins with how it is taken in."""
    import numpy as np
    import torch
    from PIL import Image
    from safetensors.torch import save

    import mixer_lite as ml
    from mixer_lite.model import ModelConfig

    torch.manual_seed(0)
    model = ml.MlpMixer(image_size=4, patch_size=2, num_classes=2, num_blocks=1, hidden_dim=3,
                        tokens_mlp_dim=5, channels_mlp_dim=2)  # fmt: skip
    model.config = ModelConfig(name="own", image_size=4, class_names=("a", "b"))
    found: dict[str, bytes] = {}
    with tempfile.TemporaryDirectory() as folder:
        ml.save_checkpoint(model, f"{folder}/a")
        found["weights safetensors"] = Path(f"{folder}/a").read_bytes()
        ml.to_google_npz(model, f"{folder}/a.npz")
        found["weights npz"] = Path(f"{folder}/a.npz").read_bytes()
    state = ml.to_timm_state_dict(model)
    packed = io.BytesIO()
    np.savez_compressed(packed, **{k: v.numpy() for k, v in state.items()})
    found["weights packed npz"] = packed.getvalue()
    found["weights safetensors, timm"] = save(state)
    content = {"state_dict": state, "epoch": 3, "log": [{"loss": 0.5}], "step": 1}
    for kind in ("weights", "state"):
        for zipped in (True, False):
            file = io.BytesIO()
            torch.save(content, file, _use_new_zipfile_serialization=zipped)
            found[f"{kind} {'zip' if zipped else 'legacy'}"] = file.getvalue()
    found["weights plain pickle"] = pickle.dumps({k: v.numpy() for k, v in state.items()})
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            data = pickle.dumps({"labels": [1, 2], "data": "x" * 6144}, 2)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    found["archive tar.gz"] = archive.getvalue()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 30, 3), dtype=np.uint8)
    rgb = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words"
    for mode, kind, options in (
        ("RGB", "PNG", {}), ("P", "PNG", {"transparency": 3}), ("I;16", "PNG", {}),
        ("RGB", "JPEG", {"exif": exif}), ("CMYK", "JPEG", {}), ("L", "JPEG", {"progressive": True}),
        ("P", "GIF", {"save_all": True, "append_images": [rgb]}), ("RGB", "BMP", {}),
        ("RGB", "TIFF", {}), ("RGB", "TIFF", {"compression": "tiff_lzw"}), ("F", "TIFF", {}),
        ("RGB", "TIFF", {"compression": "jpeg"}), ("I;16", "TIFF", {}), ("RGBA", "WEBP", {}),
        ("RGB", "WEBP", {"lossless": True}), ("RGB", "PPM", {}), ("RGB", "JPEG2000", {}),
        ("RGB", "AVIF", {}), ("RGBA", "TGA", {"compression": "tga_rle"}),
    ):  # fmt: skip
        file = io.BytesIO()
        picture = rgb.convert(mode.replace("I;16", "L").replace("F", "L"))
        if mode in ("I;16", "F"):
            grey = np.asarray(picture)
            picture = Image.fromarray(
                grey.astype(np.float32) / 255 if mode == "F" else grey.astype(np.uint16) * 257
            )
        try:
            picture.save(file, kind, **options)
        except (KeyError, OSError):  # this Pillow does not write it
            continue
        found[f"image {kind} {mode} {' '.join(map(str, options.values()))}".strip()] = (
            file.getvalue()
        )
    return found


def made(rng: random.Random, files: dict[str, bytes]) -> tuple[str, bytes]:
    """The next file: its kind, and its bytes."""
    kind, other = rng.choice(sorted(files)), files[rng.choice(sorted(files))]
    data = files[kind]
    if data[:2] == b"PK" and rng.random() < 0.5:
        return kind, rezipped(rng, data, other)
    if "legacy" in kind and rng.random() < 0.4:
        head = b"".join(pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {}))
        return kind, head + pickled(rng) + pickle.dumps([], 2)
    if "PNG" in kind and rng.random() < 0.4:
        return kind, rechunked(rng, data)
    if "safetensors" in kind and rng.random() < 0.3:
        length = int.from_bytes(data[:8], "little")
        header = damaged(rng, data[8 : 8 + length], other)
        return kind, len(header).to_bytes(8, "little") + header + data[8 + length :]
    return kind, damaged(rng, data, other)


def taken(kind: str, path: Path) -> None:
    """What a user would do with such a file."""
    import mixer_lite as ml
    from mixer_lite.datasets import cifar10
    from mixer_lite.images import open_image, photo, prepare
    from mixer_lite.model import ModelConfig
    from mixer_lite.weights.pickles import Reader

    if kind.startswith("weights"):
        model = ml.load_checkpoint(path)
        if model.config and model.num_classes:
            ml.predict(model, photo("cat"))
    elif kind.startswith("state"):
        with Reader(path) as reader:
            reader.everything()
    elif kind.startswith("archive"):
        cifar10(file=path)
    else:
        prepare(open_image(path), ModelConfig("x", 32))


def most() -> int:
    """Largest memory since it was last asked, in bytes; 0 where nobody counts it."""
    try:
        peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
        Path("/proc/self/clear_refs").write_text("5")
        return int(peak[1]) * 1024 if peak else 0
    except OSError:
        return 0


def child(seed: int, seconds: float, found: Path) -> None:
    """Take in files for so many seconds, or until something happens that must not."""
    import warnings

    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    files, folder = sound(), Path(tempfile.mkdtemp())
    for kind, data in files.items():  # all that is imported is, before it is watched
        (folder / "x").write_bytes(data)
        try:
            taken(kind, folder / "x")
        except ValueError:
            assert kind.split()[0] in ("archive",) or "plain" in kind, kind
    "".encode("raw_unicode_escape")  # a codec that is imported when it is first used
    watching, seen = False, []

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        writes = event == "open" and isinstance(arguments[1], str) and arguments[1] != "r"
        writes = writes and not set(str(arguments[1])) <= set("rb")
        if watching and (writes or event.startswith(FORBIDDEN)):
            seen.append(f"{event} {arguments!r:.200}")

    def late(*_: object) -> None:
        raise TimeoutError(f"it takes more than {SECONDS} seconds")

    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, late)
    path, counts, until = folder / "file", Counter[str](), time.time() + seconds
    while time.time() < until:
        kind, data = made(random.Random(seed), files)
        path.write_bytes(data)
        (found / "now").write_text(str(seed))
        fault, before = "", most()
        before = most()
        signal.alarm(SECONDS)
        watching, said = True, ""
        try:
            taken(kind, path)
        except Exception as error:
            said = str(error)
            plain = isinstance(error, ValueError) or kind.startswith("state")
            if isinstance(error, TimeoutError | MemoryError) or not plain:
                fault = f"{type(error).__name__}: {error}"
            elif "\n" in said or (not said.isprintable() and not kind.startswith("state")):
                fault = f"no single line: {said!r}"
        watching = False
        signal.alarm(0)
        grown = most() - before
        if grown > 50 * len(data) + ROOM + PIXELS * kind.startswith("image"):
            fault = fault or f"{grown:,} bytes of memory for {len(data):,}: {said}"
        if seen:
            fault = f"forbidden: {seen[:3]}"
            seen.clear()
        counts[f"{kind.split()[0]}: {'refused' if said else 'taken'}"] += 1
        if fault:
            keep(found, seed, kind, data, fault)
        seed += 1
        if not seed % 100:
            (found / f"counts.{os.getpid()}").write_text(json.dumps(counts))
    (found / f"counts.{os.getpid()}").write_text(json.dumps(counts))


def keep(found: Path, seed: int, kind: str, data: bytes, fault: str) -> None:
    """A file that did what none may."""
    (found / f"{seed}.file").write_bytes(data)
    (found / f"{seed}.txt").write_text(f"{kind}\n{fault}\n", encoding="utf-8", errors="replace")
    print(f"seed {seed}, {kind}: {fault[:300]}", flush=True)


def main() -> int:
    """Children that take in files for some minutes; one that dies is followed by the next."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.child:
        child(args.seed, args.child, args.out)
        return 0
    until, seed = time.time() + 60 * args.minutes, args.seed
    while time.time() < until:
        command = [
            sys.executable,
            __file__,
            "--child",
            str(until - time.time()),
            "--out",
            str(args.out),
        ]
        status = subprocess.run([*command, "--seed", str(seed)], check=False).returncode
        at = int((args.out / "now").read_text())
        if status:
            files = sound()
            keep(args.out, at, *made(random.Random(at), files), f"the process ended: {status}")
        seed = at + 1
    total: Counter[str] = Counter()
    for path in args.out.glob("counts.*"):
        total.update(json.loads(path.read_text()))
    faults = len(list(args.out.glob("*.txt")))
    print(f"{total.total():,} files ({dict(sorted(total.items()))}), {faults} at fault", flush=True)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
