"""Files that strangers hand in: looked at without following links, limited in size, and decoded."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from pages import one_line

# Of any file; of a notebook that is graded, in a process with limits: most of it may be outputs.
MAX_BYTES, NOTEBOOK_BYTES = 50_000_000, 250_000_000
# Longer marks first: that of UTF-32 begins with that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16",
}  # fmt: skip
# How files begin that are no text, and get other names on the way.
OTHERS = {b"PK\x03\x04": "a zip archive", b"\x1f\x8b": "a gzip archive", b"%PDF": "a PDF",
          b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive"}  # fmt: skip
KINDS = ("code", "markdown", "raw")
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MARKERS = re.compile(r"^(<{7}|>{7})( |$)", re.M)


class Refused(Exception):
    """A submission cannot be graded at all; the message says why, in one sentence."""


def load(path: Path, most: int, name: str = "") -> bytes:
    """A file's content, if it is a regular file of no more than so many bytes, and no link.

    Args:
        path: where it lies.
        most: bytes.
        name: what it was called, if not as its path says.

    Raises:
        Refused: it is something else, or cannot be read.
    """
    name = one_line(name or path.name)
    flags = [getattr(os, f"O_{flag}", 0) for flag in ("NOFOLLOW", "NONBLOCK", "BINARY", "CLOEXEC")]
    try:
        if path.is_symlink():
            raise Refused(f"{name} is a link to another place: hand in the file itself.")
        with os.fdopen(os.open(path, os.O_RDONLY | sum(flags)), "rb") as file:
            told = os.fstat(file.fileno())
            if not stat.S_ISREG(told.st_mode):
                raise Refused(f"{name} is no file.")
            if told.st_size > most:
                raise Refused(f"{name} has {told.st_size:,} bytes; at most {most:,} are looked at.")
            return file.read(most)
    except OSError as error:
        raise Refused(f"{name} cannot be read ({error.strerror}).") from error


def decoded(content: bytes) -> tuple[str, str]:
    """Text, in whatever encoding a program of Windows saved it, and that encoding's name.

    Raises:
        UnicodeError: it is no text.
    """
    for mark, encoding in MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding), encoding.removesuffix("-sig")
    if b"\0" in content[:2]:  # a notebook's first character is a brace
        encoding = "utf-16-le" if content[1:2] == b"\0" else "utf-16-be"
        return content.decode(encoding), encoding
    try:
        return content.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return content.decode("cp1252"), "Windows-1252"


def read(path: Path, name: str = "", most: int = MAX_BYTES) -> tuple[NotebookNode, list[str]]:
    """A submitted notebook, and a sentence on each thing that had to be put right to read it.

    What its cells showed is left out: it is not looked at.

    Raises:
        Refused: it cannot be read, or has more than ``most`` bytes.
    """
    content, name = load(path, most, name), one_line(name or path.name)
    if not content:
        raise Refused(f"{name} is an empty file.")
    for start, what in OTHERS.items():
        if content.startswith(start):
            raise Refused(f"{name} is {what} under another name: hand in the .ipynb file itself.")
    notes: list[str] = []
    try:
        text, encoding = decoded(content)
        start = text[:500].lstrip().lower()
        if start.startswith(("<!doctype html", "<html")):
            raise Refused(f"{name} is a web page, not a notebook: hand in the .ipynb file itself.")
        if encoding == "Windows-1252":
            notes.append("the file is not in UTF-8: it was read as Windows-1252")
        if MARKERS.search(text):
            return _settled(text, name)
        return _parsed(text, notes), notes
    except Refused:
        raise
    except Exception as error:
        kind = one_line(str(error).strip().split("\n")[0] or type(error).__name__, 100)
        raise Refused(f"{name} is not a readable notebook ({kind}).") from error


def _parsed(text: str, notes: list[str]) -> NotebookNode:
    text = text.strip("\0 \t\r\n")
    told, end = json.JSONDecoder().raw_decode(text)
    if end < len(text):
        notes.append("the file went on behind the notebook's end: that was left out")
    if not isinstance(told, dict):
        raise ValueError("it holds no cells")
    if not isinstance(told.get("cells"), list):
        told = nbformat.reads(json.dumps(told), as_version=4)  # of an older format
    notebook = nbformat.from_dict(_tidy(told))
    for cell in notebook.cells:
        cell.source = cell.source.replace("\r\n", "\n").replace("\r", "\n")
        cell.source.encode()  # half a surrogate pair could not be written again
    return notebook


def _tidy(told: dict[str, Any]) -> dict[str, Any]:
    # A notebook of format 4 in which all is there that nbformat needs, whatever a program left out.
    cells, ids = [], set()
    for number, cell in enumerate(told["cells"]):
        if not isinstance(cell, dict):
            continue
        kind = cell.get("cell_type")
        kind = kind if kind in KINDS else "raw"
        source = cell.get("source")
        lines = source if isinstance(source, list) else [source]
        name = cell.get("id")
        if not isinstance(name, str) or not ID.fullmatch(name) or name in ids:
            name = f"handed-in-{number}"
        ids.add(name)
        new = {
            "cell_type": kind, "metadata": _dict(cell.get("metadata")), "id": name,
            "source": "".join(line for line in lines if isinstance(line, str)),
        }  # fmt: skip
        if "nbgrader" in new["metadata"]:
            new["metadata"]["nbgrader"] = _dict(new["metadata"]["nbgrader"])
        if kind == "code":
            new |= {"outputs": [], "execution_count": None}
        elif "attachments" in cell:
            new["attachments"] = _dict(cell["attachments"])
        cells.append(new)
    metadata = _dict(told.get("metadata"))
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": cells}


def _dict(told: Any) -> dict[str, Any]:
    return told if isinstance(told, dict) else {}


def _settled(text: str, name: str) -> tuple[NotebookNode, list[str]]:
    # Git writes both sides of a conflict into the file, which is then no JSON: the first side that
    # makes a notebook.
    sides: dict[int, list[str]] = {1: [], 2: []}
    begins = {"<<<<<<<": 1, "|||||||": 3, "=======": 2, ">>>>>>>": 0}
    at = 0
    for line in text.splitlines(keepends=True):
        if line[:7] in begins and (at or line[0] == "<"):
            at = begins[line[:7]]
            continue
        for side, lines in sides.items():
            if at in (0, side):
                lines.append(line)
    for side, which in ((1, "first"), (2, "second")):
        try:
            notes: list[str] = []
            notebook = _parsed("".join(sides[side]), notes)
        except Exception:
            continue
        said = f"the file holds merge-conflict markers: the {which} side was graded"
        return notebook, [said, *notes]
    raise Refused(f"{name} holds merge-conflict markers: settle the merge and hand it in again.")


def is_notebook(path: Path, name: str) -> bool:
    """Whether a file is called a notebook, or is one by its text, whatever it is called."""
    lower = name.lower()
    if lower.endswith(".ipynb"):
        return True
    if not re.search(r"\.ipynb|\.json$|\.txt$|^[^.]+$", lower) or lower.endswith(".html"):
        return False
    try:
        text, _ = decoded(load(path, MAX_BYTES))
    except (Refused, UnicodeError):
        return False
    return text.lstrip()[:1] == "{" and '"cells"' in text and '"nbformat"' in text
