"""Submitted notebooks put into the assignment's frame."""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Callable
from urllib.parse import quote

import nbformat
from nbformat import NotebookNode
from nbgrader.utils import is_solution

from pages import BASE64, KINDS, clean_markdown
from reading import MARKERS, Refused

STUDENT = re.compile(r"""^STUDENT *= *["'](.*?)["']""", re.M)
# As word processors write it; Python takes none of these for quotes.
CURLY = re.compile(r"^STUDENT *= *[\"'“”„‟«‘’‚‹](.*?)[\"'“”‟»‘’›] *$", re.M)
HARD = re.compile(r"^[ \t]*\u00a0[ \t\u00a0]*", re.M)  # non-breaking blanks as indentation
MANY_CELLS = 2000  # to compare the order of more takes too long
PICTURE_BYTES = 10_000_000  # of all pictures in a cell


def _id(cell: NotebookNode) -> str:
    told = cell.metadata.get("nbgrader", {})
    return str(told.get("grade_id", "")) if isinstance(told, dict) else ""


def _text(cell: NotebookNode) -> str:
    return re.sub(r"\s+", " ", cell.source).strip()


def _lines(cell: NotebookNode) -> str:
    # Blanks at the ends of lines, which some programs leave or take away, are no change.
    return "\n".join(line.rstrip() for line in cell.source.strip().split("\n"))


def _defined(source: str) -> set[str]:
    # The functions and classes that a cell defines.
    return set(re.findall(r"^(?:def|class) +(\w+)", source, re.M))


def match(submitted: NotebookNode, released: NotebookNode) -> tuple[list[str], bool]:
    """Which cell of the assignment each submitted cell is.

    Cells have names, in their metadata. Some platforms lose these; then a cell is known by its
    text, an answer by what it defines, or by the place where it stands.

    Returns:
        The name of each submitted cell, or an empty one, and whether names had been lost.
    """
    masters = {_id(cell): cell for cell in released.cells if _id(cell)}
    names = [_id(c) if _id(c) in masters else "" for c in submitted.cells]
    texts = {_text(cell) for cell in masters.values() if not is_solution(cell)}
    nameless = [_text(c) for c, name in zip(submitted.cells, names, strict=True) if not name]
    lost = len(set(names) - {""}) < len(masters) / 2 and bool(texts.intersection(nameless))
    kept = {getattr(cell, "id", ""): name for name, cell in masters.items()}
    if lost and len(kept) == len(masters):
        taken = set(names)
        for at, cell in enumerate(submitted.cells):
            name = kept.get(cell.get("id", ""), "")
            if not names[at] and name and name not in taken:
                names[at] = name
    for name, master in masters.items():
        if name not in names and is_solution(master):
            wanted = _defined(master.source)
            for at, cell in enumerate(submitted.cells):
                same = wanted and wanted <= _defined(cell.source) and cell.cell_type == "code"
                names[at] = name if same and not names[at] else names[at]
    if not lost or len(submitted.cells) > MANY_CELLS:
        return names, lost
    theirs = [names[at] or _text(cell) for at, cell in enumerate(submitted.cells)]
    known = set(names) - {""}
    ours = [_id(c) if _id(c) in known else _text(c) for c in released.cells]
    steps = difflib.SequenceMatcher(None, ours, theirs, autojunk=False).get_opcodes()
    for step, a, b, c, d in steps:
        if step == "equal":
            for master, at in zip(released.cells[a:b], range(c, d), strict=True):
                names[at] = names[at] or _id(master)
        elif step == "replace":
            _in_order(released.cells[a:b], submitted.cells, range(c, d), names)
    return names, True


def _in_order(
    masters: list[NotebookNode], cells: list[NotebookNode], places: range, names: list[str]
) -> None:
    # Between two cells that are known: the answers in their order; the last takes all that is left.
    for kind in ("code", "markdown"):
        open_ones = [_id(m) for m in masters
                     if is_solution(m) and m.cell_type == kind and _id(m) not in names]  # fmt: skip
        free = [at for at in places if cells[at].cell_type == kind and not names[at]]
        for number, at in enumerate(free if open_ones else ()):
            names[at] = open_ones[min(number, len(open_ones) - 1)]


def likeness(submitted: NotebookNode, released: NotebookNode) -> int:
    """How many of an assignment's cells are in a notebook, by name or by text."""
    ids = {_id(cell) for cell in submitted.cells} & {_id(cell) for cell in released.cells} - {""}
    texts = {_text(c) for c in submitted.cells} & {_text(c) for c in released.cells if _text(c)}
    return max(len(ids), len(texts) if len(texts) >= len(released.cells) / 3 else 0)


def answered(submitted: NotebookNode, released: NotebookNode) -> int:
    """How many of an assignment's answers were written."""
    names, _ = match(submitted, released)
    masters = {_id(cell): cell for cell in released.cells if is_solution(cell)}
    written = {
        name for name, cell in zip(names, submitted.cells, strict=True)
        if name in masters and _text(cell) not in ("", _text(masters[name]))
    }  # fmt: skip
    return len(written)


def _make(kind: str, given: NotebookNode) -> NotebookNode:
    # A cell of a student's own; a raw one would stand in a page as it is.
    if kind == "code":
        return nbformat.v4.new_code_cell(given.source)
    text, pictures = _pictures(given)
    cell = nbformat.v4.new_markdown_cell(clean_markdown(text))
    if pictures:
        cell.attachments = pictures
    return cell


def _pictures(given: NotebookNode) -> tuple[str, NotebookNode]:
    # Text and pictures of a cell: those attached by JupyterLab, and those that Colab writes into
    # the text, all as attachments with names of ours.
    pictures, room = NotebookNode(), PICTURE_BYTES

    def keep(kind: str, data: object) -> str:
        nonlocal room
        data = "".join(data) if isinstance(data, list) else data
        if kind not in KINDS or not isinstance(data, str) or not BASE64.fullmatch(data):
            return ""
        room -= len(data)
        try:
            head = base64.b64decode(data[:64])
        except ValueError:
            return ""
        if room < 0 or not head.startswith(KINDS[kind]):
            return ""
        name = f"picture-{len(pictures) + 1}.{kind.removeprefix('image/')}"
        pictures[name] = NotebookNode({kind: re.sub(r"\s", "", data)})
        return name

    text = re.sub(
        r"""<img\b[^>]*?\bsrc=["']?((?:attachment:|data:image/)[^"'> ]+)[^>]*>""", r"![](\1)",
        given.source, flags=re.I,
    )  # fmt: skip
    attached = given.get("attachments", {})
    for name, bundle in attached.items() if isinstance(attached, dict) else ():
        kinds = list(bundle.items()) if isinstance(bundle, dict) else []
        new = next(filter(None, (keep(kind, data) for kind, data in kinds)), "")
        for written in {name, quote(name), name.replace(" ", "%20")} if new else ():
            text = re.sub(
                rf"\(<?attachment:{re.escape(written)}>?(?=[) ])", f"(picture:{new}", text
            )

    def inline(found: re.Match[str]) -> str:
        new = keep(f"image/{found[1].lower()}", found[2])
        return f"(picture:{new})" if new else "(a picture that cannot be shown)"

    text = re.sub(r"\(<?data:image/(\w+);base64,([A-Za-z0-9+/=\s]*)>?\)", inline, text)
    text = re.sub(r"\(<?attachment:[^)]*\)", "(a picture that was not in the file)", text)
    return text.replace("(picture:", "(attachment:"), pictures


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
    printed = {_text(c) for c in released.cells if c.cell_type == "markdown"}
    names, lost = match(submitted, released)
    if not likeness(submitted, released):
        raise Refused("No cell of this assignment is in the notebook: it seems to be another one.")
    if lost:
        note("the cells had lost their names on the way: they were matched by their text and order")
    given: dict[str, list[NotebookNode]] = {}  # what stands under each of the assignment's names
    own: dict[str, list[NotebookNode]] = {}
    last = ""
    for name, cell in zip(names, submitted.cells, strict=True):
        _straighten(cell, note)
        if name:
            last = name
            given.setdefault(last, []).append(cell)
        elif _text(cell) and _text(cell) not in printed:
            own.setdefault(last, []).append(_make(cell.cell_type, cell))
    cells = own.get("", [])
    for master in released.cells:
        name = _id(master)
        cells += _framed(master, given.get(name, []), lost, note)
        cells += own.get(name, []) if name else []
    return nbformat.v4.new_notebook(cells=cells, metadata=nbformat.from_dict(released.metadata))


def _framed(
    master: NotebookNode, given: list[NotebookNode], lost: bool, note: Callable[[str], None]
) -> list[NotebookNode]:
    # A cell of the assignment, with the answer in it if it is for one.
    name, cell, cells = _id(master), nbformat.from_dict(master), []
    changed = [c for c in given if _lines(c) != _lines(master)]
    if name and not given:
        note(f"the cell {name} was deleted: it was put back")
    if len(given) > 1 and not lost:
        note(f"the cell {name} was there {len(given)} times")
    if is_solution(master) and changed:
        *before, answer = changed  # a cell that was split in two has one name twice
        cells = [_make(cell.cell_type, one) for one in before]
        made = _make(cell.cell_type, answer)
        cell.source = made.source
        if "attachments" in made:
            cell.attachments = made.attachments
    elif changed and not lost:
        note(f"the locked cell {name} was edited: its own text was put back")
    if cell.cell_type == "code":
        cell.outputs, cell.execution_count = [], None
    if name or cell.cell_type == "markdown":  # other code comes with the student's cells
        cells.append(cell)
    return cells


def _straighten(cell: NotebookNode, note: Callable[[str], None]) -> None:
    # What other programs did to a student's text.
    if MARKERS.search(cell.source):
        note("merge-conflict markers stand in a cell: the merge was never settled")
    if cell.cell_type != "code":
        return
    if HARD.search(cell.source):
        cell.source = HARD.sub(lambda m: m[0].replace("\u00a0", " "), cell.source)
        note("lines began with blanks of a web page or word processor: read as ordinary blanks")
    if not (found := CURLY.search(cell.source)):
        return
    if not STUDENT.search(cell.source):
        cell.source = CURLY.sub(lambda m: f"STUDENT = {m[1].strip()!r}", cell.source)
        note(f"STUDENT stood in quotes of a word processor: read as {found[1].strip()[:40]!r}")
