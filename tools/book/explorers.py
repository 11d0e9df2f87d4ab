"""Live explorers in the book: their code, their networks and their states, as scripts.

A page loads what its explorers need when they come into view. Scripts work from a disk too, where a
page may not fetch a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mixer_lite as ml
from mixer_lite.explorers import base, engine

MODELS = {"nano": "mixer_nano_cifar10", "grid16": "mixer_grid16_cifar10"}
PLACE = re.compile(r"^%explorer ([\w-]+)%$", re.MULTILINE)


@cache
def _model(short: str) -> Any:
    return ml.load_pretrained(MODELS[short])


def _made() -> dict[str, Callable[[], base.Explorer]]:
    # The explorers of the home page and of the pages to explore.
    names = sorted(ml.images.list_photos(), key=lambda name: name != "cat")  # the cat first
    photos = [ml.images.photo(name) for name in names]
    cat = photos[0]
    made: dict[str, Callable[[], base.Explorer]] = {
        "home": lambda: ml.explore_mixer(_model("nano"), photos, labels=names),
        "patches": lambda: ml.explore_patches(cat),
        "training": lambda: ml.explore_training(MODELS["nano"]),
    }
    for short in MODELS:
        made |= {
            f"mixer-{short}": lambda s=short: ml.explore_mixer(_model(s), photos, labels=names),
            f"predictions-{short}": lambda s=short: ml.explore_predictions(
                _model(s), photos, labels=names
            ),
            f"filters-{short}": lambda s=short: ml.explore_filters(_model(s), cat),
            f"influence-{short}": lambda s=short: ml.explore_influence(_model(s), cat),
        }
    return made


def write_all(folder: Path, states: Path) -> dict[str, str]:
    """Write every script and picture that explorers need.

    Returns:
        For the name of each explorer of the pages to explore, its place as HTML.
    """
    folder.mkdir(parents=True)
    places: dict[str, str] = {}
    shown: dict[str, base.Explorer] = {}  # one of each kind
    known = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(states.glob("*.json"))
    }
    for name, make in _made().items():
        explorer = make()
        known[name] = explorer.saved_state()
        shown[known[name]["kind"]] = explorer
        picture = explorer.figure()
        kind, data = picture.encode()
        still = f"{name}.{kind.split('/')[1]}"
        (folder / still).write_bytes(data)
        places[name] = place(name, still, picture.alt)
    alike: dict[str, str] = {}  # what several pages show is stored once
    for name, saved in known.items():
        text = json.dumps(saved)
        first = alike.setdefault(text, name)
        value = text if first == name else json.dumps(first)
        _script(folder / f"state-{name}.js", f"states[{json.dumps(name)}]", value)
    for kind, explorer in shown.items():
        (folder / f"kind-{kind}.js").write_text(_code(explorer), encoding="utf-8")
    for network in {saved.get("network") for saved in known.values()} - {None}:
        text = json.dumps(engine.packed(ml.load_pretrained(network)))
        _script(folder / f"network-{network}.js", f"networks[{json.dumps(network)}]", text)
    _script(folder / "worker.js", "worker", json.dumps(engine.worker_code()))
    return places


def place(name: str, still: str, alt: str) -> str:
    """Where an explorer will be: its picture until scripts run, and without them."""
    alt = alt.replace("&", "&amp;").replace('"', "&quot;")
    return (
        f'<div class="explorer wide" id="{name}" data-state="{name}">'
        f'<img alt="{alt}" loading="lazy" src="../_static/explorers/{still}"></div>'
    )


def fill(text: str, places: dict[str, str], up: str) -> str:
    """Markdown with ``%explorer name%`` replaced by the explorer's place."""
    return PLACE.sub(lambda match: places[match[1]].replace('src="../', f'src="{up}'), text)


def _script(path: Path, name: str, value: str) -> None:
    path.write_text(f"mixerBook.{name} = {value};\n", encoding="utf-8")


def _code(explorer: base.Explorer) -> str:
    # An explorer's own code, wrapped so that several can be on a page.
    asks = bool(explorer._answering)
    return f"""mixerBook.kinds.{explorer.saved_state()["kind"]} = (() => {{
{explorer.page_script(live=asks)}
return {{ css: {json.dumps(str(explorer._css))}, explorer, PageModel, readState, openPage,
  {"AnsweringModel, Engine" if asks else ""} }};
}})();
"""
