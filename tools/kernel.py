"""Build the page's kernel, explorers/engine/kernel.wasm, from kernel.c: python tools/kernel.py.

The compiler comes from pip: the extra "kernel". Where a built kernel comes from is written into
it, so that a test can tell whether it is that of the source beside it.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[1] / "mixer_lite" / "explorers" / "engine"
FLAGS = (
    "-target", "wasm32-freestanding", "-O3", "-msimd128", "-nostdlib", "-fvisibility=hidden",
    "-Wl,--no-entry", "-Wl,--export-dynamic", "-Wl,--export=__heap_base", "-Wl,--strip-all",
)  # fmt: skip


def source_mark(source: Path) -> bytes:
    """A custom section of WebAssembly, named "source", that holds the source's SHA-256."""
    body = b"\x06source" + hashlib.sha256(source.read_bytes()).hexdigest().encode()
    return bytes([0, len(body)]) + body  # section 0: custom; shorter than 128 bytes


def build(target: Path) -> None:
    """Compile kernel.c into ``target``."""
    source = ENGINE / "kernel.c"
    command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(target), str(source)]
    subprocess.run(command, check=True)
    target.write_bytes(target.read_bytes() + source_mark(source))


if __name__ == "__main__":
    build(ENGINE / "kernel.wasm")
    print(f"kernel.wasm: {(ENGINE / 'kernel.wasm').stat().st_size} bytes")
