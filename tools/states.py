"""Runs in a lesson's kernel: keep what its explorers and sliders show, for pages without Python.

``tools/notebooks.py`` runs ``keep(folder)`` after a lesson's last cell, where all that the lesson
displayed is still alive. Each explorer and each ``interact`` gives a file named by its widget's id.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
from pathlib import Path
from typing import Any

MOST = 100  # pictures of all combinations of sliders; of more, one slider is moved at a time


def keep(folder: Path) -> None:
    """Write the states of everything that was displayed."""
    from ipywidgets import interactive
    from ipywidgets.widgets.widget import _instances

    from mixer_lite.explorers.base import Explorer

    for name, widget in list(_instances.items()):
        if isinstance(widget, Explorer):
            state = widget.saved_state()
        elif isinstance(widget, interactive):
            state = sliders(widget)
        else:
            continue
        (folder / f"{name}.json").write_text(json.dumps(state), encoding="utf-8")


def sliders(widget: Any) -> dict[str, Any]:
    """An ``interact`` as pictures: of every combination of its values, or around its first view.

    Returns:
        ``kind`` "sliders"; ``sliders``: name, values as told and the place of the present one;
        ``pictures``: for the places of all sliders, as ``"0,2"``, a picture and its alt text.
    """
    moved = widget.kwargs_widgets
    values = [_values(slider) for slider in moved]
    start = [_place(slider, own) for slider, own in zip(moved, values, strict=True)]
    places = list(itertools.product(*(range(len(own)) for own in values)))
    single = len(places) > MOST
    if single:
        places = [
            (*start[:k], place, *start[k + 1 :])
            for k, own in enumerate(values)
            for place in range(len(own))
        ]
    pictures = {}
    for chosen in dict.fromkeys(map(tuple, places)):
        arguments = {
            slider._kwarg: own[place]
            for slider, own, place in zip(moved, values, chosen, strict=True)
        }
        picture = widget.f(**arguments)
        pictures[",".join(map(str, chosen))] = {"src": _webp(picture), "alt": picture.alt}
    told = [
        {"name": slider._kwarg, "values": [_told(v) for v in own], "start": place}
        for slider, own, place in zip(moved, values, start, strict=True)
    ]
    return {"kind": "sliders", "sliders": told, "single": single, "pictures": pictures}


def _values(slider: Any) -> list[Any]:
    if hasattr(slider, "options"):
        return [value for _, value in slider._options_full]
    count = round((slider.max - slider.min) / slider.step) + 1
    kind = type(slider.value)
    return [kind(round(slider.min + k * slider.step, 9)) for k in range(count)]


def _place(slider: Any, values: list[Any]) -> int:
    if hasattr(slider, "options"):
        return slider.index or 0
    return min(range(len(values)), key=lambda k: abs(values[k] - slider.value))


def _told(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _webp(picture: Any) -> str:
    from PIL import Image

    _, data = picture.encode()
    file = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(file, "webp", quality=45, method=6)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()
