"""The engine of saved pages alone in a page from a file, to ask it what Python is asked too."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np

from mixer_lite.explorers import engine
from mixer_lite.explorers.base import HERE

PAGE = """<!doctype html>
<meta charset="utf-8">
<script type="text/plain" id="worker">{worker}</script>
<script>
{code}
let made;
function start(network, workers) {{
  const worker = document.getElementById("worker").textContent;
  made = Array.from({{ length: workers }}, () => new Engine(worker, network));
  return Promise.all(made.map((one) => one.ready));
}}
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
// Arrays as lists, for Python.
const plainly = (answer) => answer && Object.fromEntries(Object.entries(answer).map(
  ([name, value]) => [name, ArrayBuffer.isView(value) ? Array.from(value) : value]));
async function ask(kind, question, which = 0) {{
  if (question.picture) question.picture.pixels = bytes(question.picture.pixels);
  const parts = [];
  const answer = await made[which].ask(kind, question, (part) => parts.push(plainly(part)));
  return {{ ...plainly(answer), parts }};
}}
// The logits of many pictures, by all workers at once.
async function logitsOf(pixels, size) {{
  const all = bytes(pixels), count = all.length / size, found = [];
  await Promise.all(made.map(async (one, first) => {{
    for (let n = first; n < count; n += made.length) {{
      const picture = {{ pixels: all.slice(n * size, (n + 1) * size) }};
      found[n] = Array.from((await one.ask("logits", {{ picture }})).logits);
    }}
  }}));
  return found;
}}
</script>
"""


def text(pixels: np.ndarray) -> str:
    """Bytes on their way into the page."""
    return base64.b64encode(np.ascontiguousarray(pixels, np.uint8).tobytes()).decode()


class Engine:
    """The engine in a page; ``simd=False`` gives it no kernel, so that plain JavaScript works."""

    def __init__(self, page, folder: Path, model, *, simd: bool, workers: int = 1):
        code = "\n".join((HERE / name).read_text() for name in ("saved.js", "engine/live.js"))
        path = folder / "engine.html"
        path.write_text(PAGE.format(worker=engine.worker_code(), code=code), encoding="utf-8")
        page.goto(path.as_uri())
        network = engine.packed(model)
        if not simd:
            network["kernel"] = base64.b64encode(b"no kernel").decode()
        self.page, self.simd = page, simd
        told = page.evaluate("([network, n]) => start(network, n)", [network, workers])
        assert {one["arithmetic"] for one in told} == {"WebAssembly" if simd else "JavaScript"}

    def ask(self, kind: str, pixels: np.ndarray | None = None, /, **question: Any) -> dict:
        """An answer, its arrays as numpy's; parts that came before it under ``parts``."""
        if pixels is not None:
            picture = {n: question.pop(n) for n in ("covered", "shuffle") if n in question}
            question["picture"] = {"pixels": text(pixels), **picture}
        asked = json.loads(json.dumps(question))
        answer = self.page.evaluate("([kind, question]) => ask(kind, question)", [kind, asked])
        return {k: np.array(v) if k != "parts" else v for k, v in answer.items()}

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """``(n, h, w, 3)`` -> ``(n, K)``."""
        size = int(np.prod(pixels.shape[1:]))
        return np.array(
            self.page.evaluate("([all, size]) => logitsOf(all, size)", [text(pixels), size])
        )
