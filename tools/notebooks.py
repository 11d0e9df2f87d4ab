"""Run the course's notebooks from clean, without a network, and store their outputs.

    python tools/notebooks.py                 run and store all of them
    python tools/notebooks.py 01 03           only these
    python tools/notebooks.py --check         store nothing; say where code and outputs disagree
    python tools/notebooks.py --cifar10 07    with all of CIFAR-10, which must be in the cache
    python tools/notebooks.py --states 01     store only what explorers and sliders show
    python tools/notebooks.py --pictures      only take the explorers' pictures; nothing is run

What a lesson's explorers and sliders show is kept in docs/states/, a file a cell, so that they are
alive in the web book too. An explorer's output in the notebook is a picture of that, as a browser
shows it; where there is no browser, its figure.

A notebook with faults is reported and left as it was. What a cell tagged "varies" gives depends on
the machine, as a training does: it is stored, and not compared. Stored notebooks are normalised, so
that two runs differ only where the lesson does: cells counted from 1, no timings, no widget state,
little metadata. The course's limits are checked each time.
"""

from __future__ import annotations

import argparse
import base64
import copy
import hashlib
import io
import json
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import numpy as np
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from PIL import Image, ImageFilter

ROOT = Path(__file__).resolve().parent.parent
COURSE = ROOT / "notebooks"
STATES = ROOT / "docs" / "states"
OFFLINE = ROOT / "tools" / "offline"

MAX_BYTES, MAX_SECONDS = 600_000, 120
MAX_SECONDS_WITH_CIFAR10 = 600
MAX_LINES, MAX_MEDIAN_LINES = 30, 7
WORDS_PER_CODE_CELL = (60, 150)
# Releases of matplotlib set text and axes a pixel or two apart (3.9 against 3.11: up to 0.015 by
# the measure below); another picture, or one row of one matrix changed, gives 0.15 and more.
MAX_PICTURE_DIFFERENCE = 0.08

# The last two say which cells JupyterLab folds, and below which headings.
KEPT = ("tags", "jupyter", "jp-MarkdownHeadingCollapsed")
VARIES = "varies"
WIDGET = "application/vnd.jupyter.widget-view+json"
EXPLORER = "The picture of an explorer"  # begins the alt text of one
WIDTH = 960  # pixels of a cell's output
WIDGET_NOTE = "(Sliders appear here when the notebook runs.)"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def find(names: list[str]) -> list[Path]:
    """Paths of the course's notebooks, or of those whose names begin so (``01``)."""
    every = sorted(COURSE.glob("*.ipynb"))
    if not names:
        return every
    found = []
    for name in names:
        start = Path(name).stem
        match = [path for path in every if path.stem.startswith(start)]
        if not match:
            there = ", ".join(path.stem for path in every)
            raise SystemExit(f"No notebook's name begins with {start!r}; there are: {there}.")
        found += match
    return found


def read(path: Path) -> NotebookNode:
    """A notebook file, in the newest format."""
    return nbformat.read(path, as_version=4)


def _stripped(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.split("\n"))


def _code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """Code cells with something in them, counted from 1 as the kernel counts them."""
    cells = [c for c in notebook.cells if c.cell_type == "code" and c.source.strip()]
    yield from enumerate(cells, 1)


def _normalised_output(output: NotebookNode, count: int) -> NotebookNode:
    if output.output_type == "stream":
        return nbformat.v4.new_output("stream", name=output.name, text=_stripped(output.text))
    if output.output_type == "error":
        return output
    data = dict(output.data)
    if data.pop(WIDGET, None) and not any(kind.startswith("image/") for kind in data):
        data = {"text/plain": WIDGET_NOTE}
    if isinstance(data.get("text/plain"), str):
        data["text/plain"] = _stripped(data["text/plain"])
    alt = {kind: {"alt": m["alt"]} for kind, m in output.metadata.items() if "alt" in m}
    number = {"execution_count": count} if output.output_type == "execute_result" else {}
    return nbformat.v4.new_output(output.output_type, data=data, metadata=alt, **number)


def normalise(notebook: NotebookNode) -> NotebookNode:
    """The same notebook without what depends on the run, the machine or the editor."""
    new = nbformat.v4.new_notebook(metadata=copy.deepcopy(METADATA))
    seen: set[str] = set()
    for old in notebook.cells:
        cell = copy.deepcopy(old)
        cell.source = _stripped(cell.source).strip("\n")
        kept = {k: v for k, v in cell.metadata.items() if k in KEPT}
        cell.metadata = NotebookNode(kept)
        name = cell.get("id", "")
        while not name or name in seen:
            name = hashlib.sha256(f"{len(seen)} {name} {cell.source}".encode()).hexdigest()[:8]
        seen.add(name)
        cell.id = name
        if cell.cell_type == "code":
            cell.execution_count, outputs, cell.outputs = None, cell.outputs, []
        new.cells.append(cell)
        if cell.cell_type == "code" and cell.source:
            cell.execution_count = sum(c.cell_type == "code" and bool(c.source) for c in new.cells)
            cell.outputs = [_normalised_output(o, cell.execution_count) for o in outputs]
    return new


def alone(empty: str | Path, cifar10: bool = False) -> dict[str, str]:
    """Environment variables with which a process has no network and none of the user's caches.

    ``empty`` is a folder in their place; with ``cifar10`` the cache of CIFAR-10 stays.
    """
    paths = [str(OFFLINE), os.environ.get("PYTHONPATH", "")]
    switches = {"HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    switches["npm_config_offline"] = "true"  # npm is no Python, so nothing else would stop it
    switches["HF_HOME"] = str(empty)  # weights in the user's cache would give other outputs
    if not cifar10:
        switches["MIXER_LITE_CACHE"] = switches["npm_config_cache"] = str(empty)
    return switches


def execute(
    notebook: NotebookNode,
    folder: Path = COURSE,
    cifar10: bool = False,
    states: dict[str, dict] | None = None,
) -> NotebookNode:
    """Run a copy from clean with the network blocked, and normalise it.

    An error ends the run; it is then the last output. With ``cifar10`` the user's cache of it is
    there, else only what comes with the project. ``states`` receives, for the ids of cells, what
    their explorers and sliders show.
    """
    fresh = copy.deepcopy(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        fresh,
        kernel_name="python3",
        extra_arguments=["--log-level=ERROR"],
        timeout=600,
        record_timing=False,
        store_widget_state=True,  # interact() fails in nbclient without; normalise() drops it
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    with tempfile.TemporaryDirectory() as empty:
        if states is not None:
            fresh.cells.append(nbformat.v4.new_code_cell(_KEEP.format(str(ROOT / "tools"), empty)))
        try:
            client.execute(env={**os.environ, **alone(empty, cifar10)})
        except CellExecutionError:
            pass  # faults() reports the error that the notebook now holds
        if states is not None:
            fresh.cells.pop()
            states |= _kept(fresh, Path(empty))
    return normalise(fresh)


_KEEP = """\
import sys, pathlib
sys.path.insert(0, {0!r})
import states
states.keep(pathlib.Path({1!r}))"""


def _kept(notebook: NotebookNode, folder: Path) -> dict[str, dict]:
    # By cells, what states.keep() has written by widgets.
    found = {}
    for _, cell in _code_cells(notebook):
        for output in cell.outputs:
            shown = output.get("data", {}).get(WIDGET, {}).get("model_id", "")
            if (path := folder / f"{shown}.json").is_file():
                found[cell.id] = json.loads(path.read_text(encoding="utf-8"))
    return found


def store_states(stem: str, notebook: NotebookNode, states: dict[str, dict]) -> None:
    """Keep in ``docs/states`` what a lesson's explorers and sliders show, and nothing older."""
    STATES.mkdir(exist_ok=True)
    for path in STATES.glob(f"{stem}-*.json"):
        path.unlink()
    for cell in notebook.cells:
        # What varies belongs to a training that is over: its picture says more.
        if cell.id in states and VARIES not in cell.metadata.get("tags", []):
            text = json.dumps(states[cell.id], separators=(",", ":"))
            path = STATES / f"{stem}-{cell.id}.json"
            path.write_text(text + "\n", encoding="utf-8", newline="\n")


def stored_states(stem: str) -> dict[str, dict]:
    """What a lesson keeps in ``docs/states``, by the ids of its cells."""
    paths = STATES.glob(f"{stem}-*.json")
    return {
        path.stem.removeprefix(f"{stem}-"): json.loads(path.read_text(encoding="utf-8"))
        for path in paths
    }


def take_pictures(notebook: NotebookNode, states: dict[str, dict]) -> None:
    """Give explorers' outputs pictures of their states, as a browser shows them."""
    found = [(_explorer_of(cell), states.get(cell.id)) for cell in notebook.cells]
    shown = [(output, state) for output, state in found if output and state]
    if not shown:
        return
    sys.path.append(str(ROOT / "tools"))
    import pictures

    if pictures.browser.find() is None:
        print("    Explorers keep their pictures: there is no browser to take new ones.")
        return
    with pictures.opened(WIDTH, 1200) as page:
        for output, state in shown:
            (alt,) = {known["alt"] for known in output.metadata.values()}
            picture = base64.b64encode(pictures.of_explorer(page, state)).decode()
            output.data = {"text/plain": output.data["text/plain"], "image/png": picture}
            output.metadata = {"image/png": {"alt": alt}}


def _with_explorers(stored: NotebookNode, fresh: NotebookNode) -> NotebookNode:
    # Explorers' outputs of another run, all else as it was.
    for old, new in zip(stored.cells, fresh.cells, strict=True):
        if _explorer_of(new) and VARIES not in old.metadata.get("tags", []):
            old.outputs = new.outputs
    return stored


def _explorer_of(cell: NotebookNode) -> NotebookNode | None:
    # The output of a cell that is an explorer's picture.
    told = ((o, o.get("data", {}).get("text/plain", "")) for o in cell.get("outputs", []))
    return next((output for output, text in told if text.startswith(f"[{EXPLORER}")), None)


def faults(notebook: NotebookNode) -> list[str]:
    """What breaks the course's rules in a notebook with outputs: one sentence each."""
    found = []
    sizes, words = [], 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            words += len(cell.source.split())
    for number, cell in _code_cells(notebook):
        lines = sum(bool(line.strip()) for line in cell.source.split("\n"))
        sizes.append(lines)
        if lines > MAX_LINES:
            found.append(f"Code cell {number} has {lines} lines, more than {MAX_LINES}.")
        if cell.execution_count != number:
            found.append(f"Code cell {number} is counted {cell.execution_count}: run from clean.")
        for output in cell.outputs:
            text = str(output.get("text", output.get("data", {}).get("text/plain", "")))
            if output.output_type == "error":
                found.append(f"Code cell {number} raises {output.ename}: {output.evalue}")
            elif output.get("name") == "stderr":
                found.append(f"Code cell {number} writes to stderr: {text.strip()}")
            elif re.search(r"\b0x[0-9a-fA-F]{6,}", text):
                found.append(f"Code cell {number} prints a memory address: {text.strip()}")
            if any(k.startswith("image/") for k in output.get("data", {})) and not any(
                m.get("alt") for m in output.metadata.values()
            ):
                found.append(f"Code cell {number} shows a picture without alt text.")
    if "widgets" in notebook.metadata:
        found.append("The notebook stores widget state.")
    if not sizes:
        return [*found, "The notebook has no code."]
    if statistics.median(sizes) > MAX_MEDIAN_LINES:
        median = statistics.median(sizes)
        found.append(f"Half of the code cells have {median:g} lines or more, over the limit.")
    low, high = WORDS_PER_CODE_CELL
    if not low <= words / len(sizes) <= high:
        found.append(f"{words / len(sizes):.0f} words per code cell, not {low} to {high}.")
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        found.append(f"The file has {size / 1000:.0f} KB, more than {MAX_BYTES / 1000:.0f}.")
    return found


def _picture(output: NotebookNode) -> Image.Image | None:
    for kind in ("image/png", "image/jpeg"):
        if kind in output.get("data", {}):
            data = base64.b64decode(output.data[kind])
            return Image.open(io.BytesIO(data)).convert("RGB")
    return None


def picture_difference(one: Image.Image, other: Image.Image) -> float:
    """How far two pictures of one size differ to the eye, in levels of 255.

    Every pixel should have its like within 3 pixels in the other picture; what it lies outside
    the range found there, less 16 levels that compression may cost, is averaged.
    """
    if one.size != other.size:
        return 255.0
    excess = []
    for picture, around in ((one, other), (other, one)):
        low, high = around.filter(ImageFilter.MinFilter(7)), around.filter(ImageFilter.MaxFilter(7))
        value, low, high = (np.asarray(p, int) for p in (picture, low, high))
        excess.append(np.maximum(np.maximum(low - value, value - high) - 16, 0).mean())
    return float(max(excess))


def differences(
    stored: NotebookNode, fresh: NotebookNode, compare_pictures: bool = True
) -> list[str]:
    """Where the outputs of two runs of one notebook disagree: one sentence each.

    Text must be equal; pictures must look alike if they are to be compared. Cells tagged "varies"
    are passed over, and explorers' pictures, which a browser took: their alt text is compared.
    """
    found = []
    pairs = zip(_code_cells(stored), _code_cells(fresh), strict=True)
    for (number, old), (_, new) in pairs:
        where = f"Code cell {number}"
        if VARIES in old.metadata.get("tags", []):
            continue
        if len(old.outputs) != len(new.outputs):
            found.append(f"{where} stores {len(old.outputs)} outputs, gives {len(new.outputs)}.")
            continue
        for a, b in zip(old.outputs, new.outputs, strict=True):
            if a.output_type != b.output_type:
                found.append(f"{where} stores a {a.output_type}, gives a {b.output_type}.")
                continue
            pictures = _picture(a), _picture(b)
            if all(pictures) and compare_pictures and not _explorer_of(old):
                gap = picture_difference(*pictures)
                if gap > MAX_PICTURE_DIFFERENCE:
                    found.append(f"{where} stores another picture (they differ by {gap:.2f}).")
            elif any(pictures) and not all(pictures):
                found.append(f"{where} gives a picture only one of two times.")
            pair = [o.text if "text" in o else o.get("data", {}).get("text/plain") for o in (a, b)]
            if pair[0] != pair[1]:
                found.append(f"{where} stores {pair[0]!r}, gives {pair[1]!r}.")
    return found


def _write(path: Path, notebook: NotebookNode) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        nbformat.write(notebook, file)


def main(arguments: list[str] | None = None) -> int:
    """The command; 0 when every notebook is in order."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", help="first letters of names, as 01; all by default")
    parser.add_argument("--check", action="store_true", help="store nothing, only compare")
    parser.add_argument("--states", action="store_true", help="store only docs/states")
    parser.add_argument("--pictures", action="store_true", help="only explorers' pictures; no run")
    parser.add_argument("--cifar10", action="store_true", help="let them find CIFAR-10's cache")
    options = parser.parse_args(arguments)
    longest = MAX_SECONDS_WITH_CIFAR10 if options.cifar10 else MAX_SECONDS
    bad = False
    for path in find(options.names):
        stored = read(path)
        if options.pictures:
            take_pictures(stored, stored_states(path.stem))
            _write(path, stored)
            print(f"{path.stem:32} {path.stat().st_size / 1000:6.0f} KB")
            continue
        start = time.perf_counter()
        states: dict[str, dict] = {}
        fresh = execute(stored, cifar10=options.cifar10, states=states)
        seconds = time.perf_counter() - start
        found = faults(fresh)
        if seconds > longest and not options.states:
            found.append(f"It runs for {seconds:.0f} s, more than {longest}.")
        if options.check:
            found += faults(stored) + differences(stored, fresh)
        elif not found:
            store_states(path.stem, fresh, states)
            kept = _with_explorers(stored, fresh) if options.states else fresh
            take_pictures(kept, stored_states(path.stem) if options.states else states)
            _write(path, kept)
        size = path.stat().st_size / 1000
        print(f"{path.stem:32} {seconds:6.1f} s {size:6.0f} KB  {'FAULTS' if found else 'fine'}")
        for sentence in dict.fromkeys(found):
            print(f"    {sentence}")
        bad = bad or bool(found)
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
