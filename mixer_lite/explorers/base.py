"""What all explorers share: their page code, arrays on their way to it, and pages to send.

An explorer holds its state in validated traits and computes with the pure functions of
``filters``, ``explain`` and ``predict``; its JavaScript file draws on a canvas in the browser and
asks Python only for what needs the network's weights.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anywidget
import matplotlib
import numpy as np
import traitlets
from torch import Tensor

from mixer_lite.drawing import MAGNITUDE, SIGNED
from mixer_lite.resources import replace_file

if TYPE_CHECKING:
    from mixer_lite.drawing import Picture

HERE = Path(__file__).parent
STILL = "The picture of an explorer: run the cell in JupyterLab to move its parts."


def page_code(name: str) -> str:
    """The JavaScript module of one explorer: the shared helpers, then its own file."""
    shared, own = ((HERE / f"{n}.js").read_text(encoding="utf-8") for n in ("common", name))
    return shared + own


def packed(values: Tensor | np.ndarray) -> dict[str, Any]:
    """An array for the page, exact: float32, whole bytes as they are, other integers as int32.

    Returns:
        ``dtype``, ``shape``, ``scale`` 1 and the little-endian bytes as ``data``.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype not in (np.uint8, np.int8):
        array = array.astype("<i4" if array.dtype.kind in "iub" else "<f4")
    return dict(
        dtype=array.dtype.name, shape=list(array.shape), scale=1.0, data=array.tobytes()
    )  # fmt: skip


def quantized(values: Tensor, axis: int = 0) -> dict[str, Any]:
    """A signed array for the page in one byte a number, with its own scale along one axis.

    A value is ``scale[i] * q``, q from -127 to 127, so that each slice along ``axis`` is off by
    at most ``scale[i] / 2``: 0.4 % of the slice's largest magnitude.
    """
    other = [a for a in range(values.ndim) if a != axis]
    scale = values.detach().double().abs().amax(dim=other, keepdim=True) / 127
    q = (values.detach().double() / scale.clamp_min(1e-300)).round().to("cpu").numpy()
    return {**packed(q.astype(np.int8)), "scale": scale.flatten().tolist()}


def _lut(name: str, count: int) -> bytes:
    # Colours of a matplotlib map as RGBA bytes, so that page and figures agree.
    return matplotlib.colormaps[name](np.linspace(0, 1, count), bytes=True).tobytes()


class Explorer(anywidget.AnyWidget):
    """Base of the explorers.

    A subclass names its code (``_esm = page_code("filters")``), declares its traits with
    ``.tag(sync=True)`` and says in :meth:`figure` what stands where no kernel runs.
    """

    _css = (HERE / "common.css").read_text(encoding="utf-8")
    _esm = ""
    title = "Explorer"

    # Maps for -127..127 and 0..255, RGBA bytes.
    _signed = traitlets.Bytes(_lut(SIGNED, 255)).tag(sync=True)
    _magnitude = traitlets.Bytes(_lut(MAGNITUDE, 256)).tag(sync=True)

    def figure(self) -> Picture:
        """The picture of what is chosen now, for example to save it."""
        raise NotImplementedError

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        # Where no kernel runs, a reader sees the picture and one sentence.
        bundle, _ = cast("tuple[dict, dict]", super()._repr_mimebundle_(**kwargs))
        picture = self.figure()
        picture.alt = f"{STILL} {picture.alt}"
        still, metadata = picture._repr_mimebundle_()
        return {**bundle, **still}, metadata

    def save_html(self, path: str | Path) -> Path:
        """Write one page that works from a file, without Python or a network.

        What needs Python stands still in it, and says so.

        Returns:
            The path written to; the file is replaced whole or not at all.
        """
        path = Path(path)
        skip = {"_esm", "_css", "_anywidget_id", "layout", "tooltip", "tabbable"}
        state = {
            name: getattr(self, name)
            for name in self.traits(sync=True)
            if name not in skip and not name.startswith(("_model", "_view", "_dom"))
        }
        text = _PAGE.format(
            title=html.escape(self.title),
            css=self._css,
            state=json.dumps(_plain(state)).replace("<", "\\u003c"),
            code=_importable(str(self._esm)),
        )
        replace_file(path, text.encode())
        return path


def _plain(value: Any) -> Any:
    # JSON with bytes as {"$bytes": base64}.
    if isinstance(value, (bytes, memoryview)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return value


def _importable(code: str) -> str:
    # A script in the page cannot export: its default export is bound to a name instead.
    if code.count("export default") != 1:
        raise ValueError("An explorer's code must hold one 'export default'.")
    return code.replace("export default", "const explorer =").replace("</script", "<\\/script")


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 1rem auto; max-width: 62rem; padding: 0 1rem;
  background: light-dark(#fff, #111); color: light-dark(#222, #eee);
  font: 14px/1.4 system-ui, sans-serif; }}
{css}
</style>
</head>
<body>
<main id="explorer"></main>
<script type="application/json" id="state">{state}</script>
<script type="module">
{code}
const state = JSON.parse(document.getElementById("state").textContent, (key, value) => {{
  if (value === null || typeof value !== "object" || !("$bytes" in value)) return value;
  const text = atob(value.$bytes), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new DataView(bytes.buffer);
}});
explorer.render({{ model: new PageModel(state), el: document.getElementById("explorer") }});
</script>
</body>
</html>
"""
