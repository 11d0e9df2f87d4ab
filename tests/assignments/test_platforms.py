"""What learning platforms and other programs make of names, folders and notebooks."""

from __future__ import annotations

import importlib
import json
import sys
import unicodedata

import nbformat
import pytest

from tests.assignments.submissions import (
    ROOT,
    graded,
    name_of,
    solutions,
    students,
    submit,
    zipped,
)

sys.path.insert(0, str(ROOT / "tools" / "grading"))
archives = importlib.import_module("archives")
frame = importlib.import_module("frame")
layouts = importlib.import_module("layouts")
reading = importlib.import_module("reading")

MOODLE = "assignsubmission_file"
PEOPLE = """---
submission_98111:
  :submitters:
  - :name: Jörg Müller
    :sid: '411'
    :email: joerg@example.org
  :created_at: 2026-11-20 14:33:21.000000000 Z
submission_98112:
  :submitters:
  - :name: Ann Lee
    :sid: '412'
  - :name: Ben Fox
    :sid: '413'
  :created_at: 2026-11-20 14:35:00.000000000 Z
"""


def test_gradescope_says_who_handed_in_what(found):
    folder = "assignment_4711_export"
    files = {f"{folder}/submission_9811{n}/A1.ipynb": "N" for n in (1, 2)}
    result = found({**files, f"{folder}/submission_metadata.yml": PEOPLE})
    assert students(result) == ["Ann Lee + Ben Fox", "Jörg Müller"]
    assert dict(result.sources) == {"gradescope": 2}
    broken = found({**files, f"{folder}/submission_metadata.yml": "a: [1"}, place="b")
    assert students(broken) == ["submission_98111", "submission_98112"]


def test_nobody_hands_in_as_somebody_else(found):
    mine = "x:\n  :submitters:\n  - :name: ben\n"
    result = found({
        "ben/A1.ipynb": "N", "ann/x/A1.ipynb": "N", "ann/submission_metadata.yml": mine,
    })  # fmt: skip
    assert graded(result) == {("ann", "A1"): "ann/x/A1.ipynb", ("ben", "A1"): "ben/A1.ipynb"}


def test_a_downloaded_zip_in_a_folder_is_the_class(found, texts):
    nameless = texts["right"].replace('= \\"right', '= \\"')
    assert nameless != texts["right"]
    names = ("Ann Lee - A1", "Jörg Müller - Copy of A1", "Ben Fox - A1 (1)")
    inside = {f"A1 Images/{name}.ipynb": nameless for name in names}
    result = found({"A1 Images-20261120T143321Z-001.zip": zipped(**inside)})
    assert students(result) == ["Ann Lee", "Ben Fox", "Jörg Müller"]


def test_umlauts_are_one_name_however_a_system_writes_them(found):
    names = [unicodedata.normalize(form, "Zoë Żak") for form in ("NFC", "NFD")]
    assert names[0] != names[1]
    for number, name in enumerate(names):
        result = found({f"{name}_4712_{MOODLE}_/A1.ipynb": "N"}, place=str(number))
        assert students(result) == [names[0]]


@pytest.mark.parametrize(
    "files",
    [
        {"{}/A1.ipynb": "N", "{}/A2.ipynb": "A2", "{}/helpers.py": "x = 1"},
        {"{}/A1/A1.ipynb": "N", "{}/A1/helpers.py": "x = 1", "{}/A2/A2.ipynb": "A2"},
        {"A1/{}/A1.ipynb": "N", "A1/{}/helpers.py": "x = 1", "A2/{}/A2.ipynb": "A2"},
    ],
)
def test_students_may_be_called_as_assignments_are(files, found, releases):
    second = nbformat.writes(releases["A2"])
    names = ("a1", "a2", "ann")
    result = found({
        path.format(name): second if what == "A2" else what
        for name in names for path, what in files.items()
    })  # fmt: skip
    assert sorted(graded(result)) == [(name, a) for name in names for a in ("A1", "A2")]
    for one in result.submissions:
        assert f"{one.student}/" in one.called and one.called.endswith(f"{one.assignment}.ipynb")
    helped = {one.student for one in result.submissions for name, _ in one.extra if "help" in name}
    assert helped == set(names)


def test_what_lies_in_another_assignments_folder_is_its_owners(found, releases):
    second = nbformat.writes(releases["A2"])
    result = found({"A1/ann/A2.ipynb": second, "A1/ben/A1.ipynb": "N", "A1/cem/A1.ipynb": "N"})
    assert sorted(graded(result)) == [("ann", "A2"), ("ben", "A1"), ("cem", "A1")]


def test_dates_are_nobody(found):
    result = found({"2026-11-20/ann_A1.ipynb": "N", "21.11.2026/ben_A1.ipynb": "N",
                    "20261122 section 2/cem/A1.ipynb": "N"})  # fmt: skip
    assert students(result) == ["ann", "ben", "cem"]


def test_what_is_hidden_is_named(found):
    result = found({"ann/.A1.ipynb": "N", "ben/A1.ipynb": "N"})
    assert result.named == [("ann", "A1", "No notebook: .A1.ipynb alone, which is not looked at.")]


# Notebooks that other programs wrote


def _colab(notebook):
    notebook["nbformat_minor"], notebook["metadata"] = 0, {"colab": {"provenance": []}}
    for number, cell in enumerate(notebook["cells"]):
        del cell["id"]
        cell["metadata"] |= {"id": f"Ab{number}", "outputId": "x", "colab": {"height": 3}}


def _vscode(notebook):
    notebook["nbformat_minor"] = 2
    for cell in notebook["cells"]:
        del cell["id"]
        cell["metadata"] = {"vscode": {"languageId": "python"}}


def _deepnote(notebook):
    notebook["metadata"] = {"deepnote_notebook_id": "x"}
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] = {"cell_id": f"{number:032x}", "deepnote_cell_type": "text-cell-p"}


def _cells(change):
    return lambda notebook: [change(cell) for cell in notebook["cells"]] and None


def _lines(change):
    return _cells(lambda cell: cell.update(source=[change(line) for line in cell["source"]]))


def _strange_cells(notebook):
    notebook["cells"][3:3] = [
        None, {"source": "x"}, {"cell_type": "sql", "metadata": None, "source": "select 1"},
        {"cell_type": "code", "metadata": {}}, {"cell_type": "markdown", "source": [None, 1]},
    ]  # fmt: skip


CHANGES = {
    "Colab": _colab,
    "VS Code": _vscode,
    "Deepnote": _deepnote,
    "format 4.0": lambda notebook: notebook.update(nbformat_minor=0),
    "a later format": lambda notebook: notebook.update(nbformat=5, nbformat_minor=0),
    "no format": lambda notebook: [notebook.pop("nbformat"), notebook.pop("nbformat_minor")],
    "no metadata": lambda notebook: notebook.pop("metadata"),
    "cells without metadata": _cells(lambda cell: cell.pop("metadata")),
    "metadata of null": _cells(lambda cell: cell.update(metadata=None)),
    "metadata of another kind": _cells(lambda cell: cell["metadata"].update(nbgrader=[1])),
    "no outputs": _cells(lambda cell: [cell.pop(k, 0) for k in ("outputs", "execution_count")]),
    "sources as one text": _cells(lambda cell: cell.update(source="".join(cell["source"]))),
    "one identity for all": _cells(lambda cell: cell.update(id="x")),
    "strange cells": _strange_cells,
    "lines of Windows": _lines(lambda line: line.replace("\n", "\r\n")),
    "lines of an old Mac": _lines(lambda line: line.replace("\n", "\r")),
    "blanks of a web page": _lines(lambda line: line.replace("    ", 4 * "\u00a0")),
    "blanks at the ends": _lines(lambda line: line.replace("\n", "  \n")),
}


def _answers(notebook):
    return {
        name_of(c): [line.rstrip() for line in c.source.strip().split("\n")]
        for c in notebook.cells if c.metadata.get("nbgrader", {}).get("solution")
    }  # fmt: skip


@pytest.mark.parametrize("name", [*CHANGES, "format 3"])
def test_a_notebook_is_read_whoever_wrote_it(name, tmp_path, releases):
    path, notes = tmp_path / "A1.ipynb", []
    submit(path, "ann", releases["A1"], solutions("A1"))
    wanted = _answers(nbformat.read(path, as_version=4))
    if name == "format 3":
        old = nbformat.convert(nbformat.read(path, as_version=4), 3)
        path.write_text(nbformat.writes(old, 3), encoding="utf-8")
    else:
        notebook = json.loads(path.read_text(encoding="utf-8"))
        CHANGES[name](notebook)
        path.write_text(json.dumps(notebook), encoding="utf-8")
    notebook, told = reading.read(path)
    whole = frame.repair(notebook, releases["A1"], notes.append)
    assert _answers(whole) == wanted
    nbformat.validate(whole)
    assert not any("edited" in note or "deleted" in note for note in [*told, *notes])


@pytest.mark.parametrize("rest, said", [("\n\0\0", 0), (" and more", 1), ("{}", 1)])
def test_what_stands_behind_the_end_is_left_out(rest, said, texts, tmp_path):
    path = tmp_path / "A1.ipynb"
    path.write_text(texts["right"] + rest, encoding="utf-8")
    notebook, told = reading.read(path)
    assert notebook.cells == reading.read(_put(tmp_path / "b.ipynb", texts["right"]))[0].cells
    assert len(told) == said


def _put(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "start, what",
    [(zipped(a="b"), "a zip archive"), (b"\x1f\x8b\x08", "a gzip archive"), (b"%PDF-1.7", "a PDF")],
)
def test_another_kind_of_file_is_called_so(start, what, tmp_path):
    (tmp_path / "A1.ipynb").write_bytes(start)
    with pytest.raises(reading.Refused, match=f"A1.ipynb is {what} under another name"):
        reading.read(tmp_path / "A1.ipynb")


def test_large_outputs_cost_no_marks(found, texts, tmp_path):
    notebook = json.loads(texts["right"])
    cell = next(c for c in notebook["cells"] if c["cell_type"] == "code")
    line = "x" * 999 + "\n"
    cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": [line] * 60_000}]
    large = json.dumps(notebook)
    assert len(large) > reading.MAX_BYTES
    result = found({"ann/A1.ipynb": large, "ben/A1.zip": zipped(**{"A1.ipynb": large})})
    assert students(result) == ["ann", "ben"]
    for one in result.submissions:
        read, told = reading.read(one.notebook, one.called, reading.NOTEBOOK_BYTES)
        assert [c.source for c in read.cells] == ["".join(c["source"]) for c in notebook["cells"]]
        assert told == [] and not any(c.get("outputs") for c in read.cells)
    with pytest.raises(reading.Refused, match="at most 50,000,000"):
        reading.read(result.submissions[0].notebook)
