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

from mixer_lite._support.files import replaced
from mixer_lite.explorers import engine
from mixer_lite.figures.drawing import MAGNITUDE, SIGNED

if TYPE_CHECKING:
    from mixer_lite.figures.drawing import Picture
    from mixer_lite.model import MlpMixer

HERE = Path(__file__).parent
# Traits that are the widget's and not the explorer's.
OWN = ("_esm", "_css", "_anywidget_id", "_turn", "_answered", "layout", "tooltip", "tabbable")
STILL = "The picture of an explorer: run the cell in JupyterLab to move its parts."


def page_code(name: str, *parts: str) -> str:
    """The JavaScript module of one explorer: the shared helpers, its parts, then its own page."""
    return _read(
        "common.js", "export.js", *(f"{name}/{part}.js" for part in parts), f"{name}/page.js"
    )


def page_style(name: str) -> str:
    """The style sheet of one explorer: the shared one, then its own where it has one."""
    return _read("common.css", f"{name}/page.css")


def answering_code(name: str) -> str:
    """What answers an explorer in the page itself: the engine's side, then its own."""
    return _read("engine/live.js", f"{name}/answers.js")


def notebook_code(page: str, answering: str) -> str:
    """The module for a notebook of an explorer whose network may answer in the page."""
    return _importable(page + _read("saved.js") + answering) + _read("notebook.js")


def _read(*names: str) -> str:
    files = (HERE / name for name in names)
    return "\n".join(file.read_text(encoding="utf-8") for file in files if file.exists())


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


def quantized_maps(maps: Tensor) -> dict[str, Any]:
    """Many maps ``(n, gh, gw)`` as :func:`quantized` has them, their scales as bytes, too."""
    entry = quantized(maps)
    return {**entry, "scale": packed(np.asarray(entry["scale"]))}


def in_range(proposal: Any, count: int) -> Any:
    """A number proposed for a trait, if it is one of so many from 0; or ``None``.

    Raises:
        TraitError: it is not.
    """
    value = proposal.value
    if value is not None and not 0 <= value < count:
        name = proposal.trait.name
        raise traitlets.TraitError(f"{name} must be from 0 to {count - 1}, not {value}.")
    return value


def _lut(name: str, count: int) -> bytes:
    # Colours of a matplotlib map as RGBA bytes, so that page and figures agree.
    return matplotlib.colormaps[name](np.linspace(0, 1, count), bytes=True).tobytes()


class Explorer(anywidget.AnyWidget):
    """Base of the explorers.

    A subclass names its code (``_page = _esm = page_code("patches")``), declares its traits with
    ``.tag(sync=True)`` and says in :meth:`figure` what stands where no kernel runs. One that asks
    a network names also the code that answers in the page (``_answering``; its ``_esm`` is then
    ``notebook_code(_page, _answering)``), and the network.
    """

    _css = (HERE / "common.css").read_text(encoding="utf-8")
    _page = _esm = ""
    title = "Explorer"
    page_width = "80rem"  # of a saved page, at most
    _answering = ""
    _told: tuple[str, ...] = ("message",)  # public traits that a reader does not choose

    # Maps for -127..127 and 0..255, RGBA bytes.
    _signed = traitlets.Bytes(_lut(SIGNED, 255)).tag(sync=True)
    _magnitude = traitlets.Bytes(_lut(MAGNITUDE, 256)).tag(sync=True)

    # Of what a notebook's page asks, and up to which of it all is answered.
    _turn = traitlets.Int(0).tag(sync=True)
    _answered = traitlets.Int(0).tag(sync=True)

    def __init__(self, **state: Any):
        super().__init__(**state)
        self.on_msg(self._send_network)

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

    def _live_network(self) -> MlpMixer | None:
        # The network that a page without Python would ask.
        return None

    def _send_network(self, _: Any, content: dict[str, Any], __: Any) -> None:
        # A notebook's page asks once, after its first drawing.
        asked = self._live_network() if content.get("ask") == "network" else None
        if asked is not None and not engine.why_not(asked):
            network, parts = engine.parts(asked)
            self.send(dict(network=network, worker=engine.worker_code()), parts)

    def set_state(self, sync_data: dict[str, Any]) -> None:
        """Take what the page chose, answer, and then say up to which turn all is answered."""
        try:
            super().set_state(sync_data)
        finally:
            if "_turn" in sync_data:
                self._answered = sync_data["_turn"]  # after all answers

    def saved_state(self, *, live: bool = True) -> dict[str, Any]:
        """What a page without Python must know to show this explorer, beside its code.

        Returns:
            What may stand in JSON: ``kind`` (the folder of its code), ``state``, ``view`` (the
            names that a reader chooses) and ``network``, the name of what it asks, or ``None``.
        """
        state = {
            name: getattr(self, name)
            for name in self.traits(sync=True)
            if name not in OWN and not name.startswith(("_model", "_view", "_dom"))
        }
        asked = self._live_network()
        state["_still"] = engine.why_not(asked) if live and asked else ""
        alive = live and asked is not None and not state["_still"] and asked.config
        return dict(
            kind=type(self).__module__.split(".")[-2],
            state=_plain(state),
            view=[name for name in state if not name.startswith("_") and name not in self._told],
            network=alive.name if alive else None,
        )

    @classmethod
    def page_script(cls, *, live: bool) -> str:
        """Its code for a page without Python, with what answers it there if it is ``live``."""
        return _importable(cls._page + _read("saved.js") + (cls._answering if live else ""))

    @classmethod
    def page(cls, saved: dict[str, Any], network: MlpMixer | None = None) -> str:
        """The page of what :meth:`saved_state` gave, with the network that answers in it."""
        return _read("saved.html").format(
            title=html.escape(cls.title),
            css=page_style(saved["kind"]),
            width=cls.page_width,
            state=_json(saved["state"]),
            network=_json(engine.packed(network) if network else None),
            worker=engine.worker_code() if network else "",
            view=json.dumps(saved["view"]),
            code=cls.page_script(live=network is not None),
            model='new AnsweringModel(state, new Engine(text("worker"), network))'
            if network
            else "new PageModel(state)",
        )

    def save_html(self, path: str | Path, *, live: bool = True) -> Path:
        """Write one page that works from a file, without Python or a network connection.

        A Mixer of up to three million parameters goes into the page, its weights in half
        precision, so that everything in it can be tried. Of a larger one, what needs the network
        stands still, and the page says so. What a reader chooses stands in the page's address, so
        that a view can be sent.

        Args:
            path: the file to write.
            live: ``False`` leaves the network out: a smaller page, in which what needs it stands
                still.

        Returns:
            The path written to; the file is replaced whole or not at all.
        """
        path, saved = Path(path), self.saved_state(live=live)
        asked = self._live_network()
        alive = live and asked is not None and not saved["state"]["_still"]
        text = self.page(saved, asked if alive else None)
        with replaced(path) as file:
            file.write(text.encode())
        return path


def _json(value: Any) -> str:
    # JSON that may stand in a script element.
    return json.dumps(value).replace("<", "\\u003c")


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
