"""From a notebook of the course to the source of its page in the book."""

from __future__ import annotations

import base64
import copy
import html
import json
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode

STILL = "The picture of an explorer"
CODE = re.compile(r"(^```.*?^```|^~~~.*?^~~~)", re.MULTILINE | re.DOTALL)
NAME = re.compile(r"(?<![`\w])`(ml|check)((?:\.\w+)+)(\([^`\n<>]*\))?`(?!`)")
CHECKED = re.compile(r"^(?:print\()?(?:assert )?check\.(?!progress\(|hint\()\w+\(", re.MULTILINE)
# An exercise begins with its number in bold and ends with its folded answer.
EXERCISE = re.compile(
    r"^(\*\*(?:Exercise )?\d+[.·: ][^\n]*.*?^</details>)", re.MULTILINE | re.DOTALL
)
LINKS = {
    "../data/README.md": "../reference/data.md",
    "../README.md": "../start.md",
    "../data/": "../reference/",
    "assignments/README.md": "../teach.md",
}
PROMPTS = {
    "hide-output": "Predict what the check says, then look",
    "hide-input": "An answer, in code",
}


def page(notebook: NotebookNode, states: dict[str, Path], bar: str) -> NotebookNode:
    """The notebook as the book shows it.

    Args:
        notebook: with its stored outputs; it is left as it is.
        states: for the id of a cell, the file of its explorer's or its sliders' stored state.
        bar: the line under the title.
    """
    new = copy.deepcopy(notebook)
    for cell in new.cells:
        if cell.cell_type == "markdown":
            cell.source = prose(cell.source)
        elif cell.cell_type == "code":
            _code(cell, states)
    first, _, rest = new.cells[0].source.partition("\n")
    new.cells[0].source = f"{first}\n\n{bar}\n{rest}"
    return new


def prose(text: str) -> str:
    """Markdown with links that hold in the book, names linked to the reference, exercises boxed."""
    parts = CODE.split(text)
    for k in range(0, len(parts), 2):
        for old, target in LINKS.items():
            parts[k] = parts[k].replace(f"]({old}", f"]({target}")
        parts[k] = NAME.sub(_linked, parts[k])
    return EXERCISE.sub(r'<div class="exercise">\n\n\1\n\n</div>', "".join(parts))


def _linked(match: re.Match[str]) -> str:
    short, names, call = match.groups()
    inside = ".check" if short == "check" else ""
    return f"{{py:obj}}`{short}{names}{call or ''} <mixer_lite{inside}{names}>`"


def _code(cell: NotebookNode, states: dict[str, Path]) -> None:
    tags = set(cell.metadata.get("tags", []))
    reports = any("text/html" in output.get("data", {}) for output in cell.outputs)
    if CHECKED.search(cell.source) and reports and "hide-input" not in tags:
        tags |= {"exercise", "hide-output"}
        # What is under it says how to go on; see book.css.
        hint = nbformat.v4.new_output("display_data", data={"text/html": _RUN})
        cell.outputs = [*cell.outputs, hint]
    if cell.id in states:
        cell.outputs = [_live(states[cell.id], cell.outputs)]
    cell.metadata["tags"] = sorted(tags)
    for tag, prompt in PROMPTS.items():
        if tag in tags:
            look = {"code_prompt_show": prompt, "code_prompt_hide": "Fold it again"}
            cell.metadata["mystnb"] = look


_RUN = (
    '<p class="run">To repair it, run this lesson in JupyterLab: the check tries your code and '
    "names the next mistake.</p>"
)


def _live(state: Path, outputs: list[NotebookNode]) -> NotebookNode:
    # The place of an explorer or of sliders, with a picture until scripts run, and without them.
    source, alt = _still(outputs) or _first(state)
    still = f'<img alt="{html.escape(alt)}" src="{source}">'
    place = f'<div class="explorer" id="{state.stem}" data-state="{state.stem}">{still}</div>'
    return nbformat.v4.new_output("display_data", data={"text/html": place})


def _still(outputs: list[NotebookNode]) -> tuple[str, str] | None:
    # An explorer's stored picture and its description.
    for output in outputs:
        for kind, data in output.get("data", {}).items():
            if kind.startswith("image/"):
                alt = output.metadata.get(kind, {}).get("alt", "")
                text = base64.b64encode(base64.b64decode(data)).decode()
                return f"data:{kind};base64,{text}", re.sub(f"^{STILL}: [^.]*[.] ", "", alt)
    return None


def _first(state: Path) -> tuple[str, str]:
    # The figure of sliders where they begin, and its description.
    saved = json.loads(state.read_text(encoding="utf-8"))
    start = ",".join(str(slider["start"]) for slider in saved["sliders"])
    picture = saved["pictures"][start]
    return picture["src"], picture["alt"]


def write(notebook: NotebookNode, path: Path) -> None:
    """Store a page's source."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
