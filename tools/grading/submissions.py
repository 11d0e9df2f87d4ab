"""Submitted notebooks: finding them, reading them, putting them into the assignment's frame."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.utils import is_grade, is_locked, is_solution

MAX_BYTES = 50_000_000
STUDENT = re.compile(r"""^STUDENT *= *["'](.*?)["']""", re.M)

# What in the source of an answer is worth a teacher's look, and the words for it.
_INTERPRETER = (
    "get_ipython", "_getframe", "f_back", "tb_frame", "gi_frame", "__code__", "__closure__",
    "__globals__", r"\bgc\.", "ctypes", "settrace", "setprofile", r"sys\.modules", "getsource",
    "__torch_function__", "input_transformers", r"\bexec\(", r"\beval\(", "__import__", "importlib",
)  # fmt: skip
NOTICED = {
    r"\b(ml|mixer_lite)\b.*\b(MlpBlock|MixerBlock|MlpMixer|patchify)\b": "names the course's own "
    "Mixer",
    r"\btimm\b": "names timm",
    "|".join(_INTERPRETER): "looks into the interpreter",
    r"gradebook|nbgrader|sqlite3|HIDDEN|\.ipynb": "looks for the grading",
    r"os\._exit|os\.kill|subprocess|\bfork\b|os\.system": "ends or starts processes",
    r"\bsocket\b|\brequests\b|urllib|https?://": "names the network",
    r"^[ \t]*(torch|np|numpy|nn|F|builtins|check|ml|mixer_lite|einops)(\.\w+)+ *= *[^=]": "assigns "
    "to a library's names",
}


class Refused(Exception):
    """A submission cannot be graded at all; the message says why, in one sentence."""


@dataclass(frozen=True)
class Submission:
    """One student's files for one assignment; ``notebook`` is the one to be graded."""

    student: str
    assignment: str
    notebook: Path
    extra: tuple[Path, ...] = ()


def _id(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def _ids(notebook: NotebookNode) -> set[str]:
    return {_id(cell) for cell in notebook.cells} - {""}


def read(path: Path) -> NotebookNode:
    """A submitted notebook.

    Raises:
        Refused: it cannot be read.
    """
    if path.stat().st_size == 0:
        raise Refused(f"{path.name} is an empty file.")
    if path.stat().st_size > MAX_BYTES:
        raise Refused(f"{path.name} has more than 50 MB: clear its outputs and submit it again.")
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        _ = [(c.cell_type, c.source, c.metadata.get("nbgrader", {}).get) for c in notebook.cells]
    except Exception as error:
        kind = str(error).strip().split("\n")[0][:100] or type(error).__name__
        raise Refused(f"{path.name} is not a readable notebook ({kind}).") from error
    return notebook


def find(folder: Path, releases: dict[str, NotebookNode]) -> list[Submission]:
    """The submissions in a folder, by student and assignment.

    Args:
        folder: see the top of this file.
        releases: the student version of each assignment, by name.
    """
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(folder.rglob("*.ipynb")):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts):
            continue
        if len(parts) == 1:
            student, _, rest = path.stem.rpartition("_")
            student, named = (student, [rest]) if rest in releases else (path.stem, [])
        else:
            student, named = parts[0], [p for p in parts[1:] if p in releases]
        assignment = named[0] if named else _recognised(path, releases)
        groups.setdefault((student, assignment), []).append(path)
    found = []
    for (student, assignment), paths in sorted(groups.items()):
        best = max(paths, key=lambda p: (p.stem == assignment, p.stat().st_mtime))
        beside = tuple(
            p for p in sorted(best.parent.iterdir())
            if p.is_file() and p.suffix != ".ipynb" and best.parent != folder
        )  # fmt: skip
        found.append(Submission(student, assignment, best, beside))
    return found


def _recognised(path: Path, releases: dict[str, NotebookNode]) -> str:
    if path.stem in releases:
        return path.stem
    with contextlib.suppress(Refused):
        ids = _ids(read(path))
        shared = {name: len(ids & _ids(notebook)) for name, notebook in releases.items()}
        if best := max(shared, key=lambda name: shared[name], default=""):
            return best if shared[best] else ""
    return next((name for name in releases if name.lower() in path.stem.lower()), "")


_MAKERS = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}


def repair(
    submitted: NotebookNode, released: NotebookNode, note: Callable[[str], None]
) -> NotebookNode:
    """The submission in the student version's frame.

    Cells that carry marks or tests stand once each, in their order, with their own metadata; of
    the student's are the answers, and cells of their own, each behind the cell it stood behind.

    Args:
        submitted, released: the two notebooks.
        note: called with a sentence about each thing that was put right.

    Raises:
        Refused: no cell of the assignment is in the submission.
    """
    masters = {_id(cell): cell for cell in released.cells if _id(cell)}
    printed = {c.source.strip() for c in released.cells if c.cell_type == "markdown"}
    given: dict[str, list[str]] = {}  # what stands under each of the assignment's names
    own: dict[str, list[NotebookNode]] = {}
    last = ""
    for cell in submitted.cells:
        text = cell.source.strip()
        if _id(cell) in masters:
            last = _id(cell)
            given.setdefault(last, []).append(cell.source)
        elif text and text not in printed:
            make = _MAKERS.get(cell.cell_type, nbformat.v4.new_raw_cell)
            own.setdefault(last, []).append(make(cell.source))
    if not given:
        raise Refused("No cell of this assignment is in the notebook: it seems to be another one.")
    cells = own.get("", [])
    for master in released.cells:
        name, cell = _id(master), nbformat.from_dict(master)
        texts = given.get(name, [])
        changed = [text for text in texts if text.strip() != master.source.strip()]
        if name and not texts:
            note(f"the cell {name} was deleted: it was put back")
        if len(texts) > 1:
            note(f"the cell {name} was there {len(texts)} times")
        if is_solution(master) and changed:
            *before, cell.source = changed  # a cell that was split in two has one name twice
            cells += [_MAKERS[cell.cell_type](text) for text in before]
        elif changed:
            note(f"the locked cell {name} was edited: its own text was put back")
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if name or cell.cell_type == "markdown":  # other code comes with the student's cells
            cells.append(cell)
        cells += own.get(name, []) if name else []
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.from_dict(released.metadata))


def answers(notebook: NotebookNode) -> Iterator[str]:
    """The code that is the student's own."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and not (is_grade(cell) or is_locked(cell)):
            yield cell.source


def suspicions(notebook: NotebookNode, student: str) -> Iterator[str]:
    """What in a submission is worth a teacher's look: one short sentence each.

    Nothing here costs marks: honest code may do some of these things.
    """
    code = "\n".join(answers(notebook))
    for pattern, words in NOTICED.items():
        if found := re.search(pattern, code, re.M):
            line = code[: found.start()].count("\n")
            yield f"the code {words}: {code.splitlines()[line].strip()[:80]}"
    named = STUDENT.search(code)
    if named and named[1].strip().lower() != student.lower():
        yield f'STUDENT is "{named[1][:40]}" in the notebook of {student}'


def fingerprint(notebook: NotebookNode, released: NotebookNode) -> str:
    """The code of the answers without comments and layout; empty where nothing was written."""
    texts = []
    for code in (answers(notebook), answers(released)):
        source = re.sub(STUDENT, "", "\n".join(code))
        try:
            texts.append(ast.dump(ast.parse(source)))
        except (SyntaxError, ValueError, RecursionError):
            texts.append(source)
    return "" if texts[0] == texts[1] else hashlib.sha256(texts[0].encode()).hexdigest()
