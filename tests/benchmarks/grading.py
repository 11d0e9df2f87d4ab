"""Time to grade a class: python tests/benchmarks/grading.py [STUDENTS] [WORKERS] [BROKEN].

By default 100 submissions of A1 by two workers: of ten, seven are right, one is half right, one
was never filled in, and one ends its own program twice, so that it runs three times. With BROKEN,
so many (ten at most) are broken besides, each in a way of its own, and a table says what became of
them. Prints the wall-clock time, the processor time of all processes, and what nbgrader alone needs
to make the student version. Close other programs first.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools" / "grading")]

grade = importlib.import_module("grade")
made = importlib.import_module("tests.assignments.submissions")


def _broken() -> dict[str, Callable[[Path, str], None]]:
    # Ways in which a submission may be broken: each is given its folder and a right notebook.
    def put(name: str, content: bytes) -> Callable[[Path, str], None]:
        return lambda folder, text: (folder / name).write_bytes(content) and None

    def cut(folder: Path, text: str) -> None:
        (folder / "A1.ipynb").write_text(text[: len(text) // 2], encoding="utf-8")

    def link(folder: Path, text: str) -> None:
        (folder / "A1.ipynb").symlink_to(folder.parent / "student000" / "A1" / "A1.ipynb")

    def code(source: str) -> Callable[[Path, str], None]:
        def write(folder: Path, text: str) -> None:
            notebook = nbformat.reads(text, as_version=4)
            at = next(i for i, c in enumerate(notebook.cells) if c.source.startswith("STUDENT"))
            notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(source))
            nbformat.write(notebook, folder / "A1.ipynb")

        return write

    return {
        "cut off": cut,
        "empty file": lambda folder, text: (folder / "A1.ipynb").touch(),
        "PDF alone": put("A1.pdf", b"%PDF-1.7"),
        "web page": put("A1.ipynb", b"<!DOCTYPE html><html></html>"),
        "broken zip": put("A1.zip", b"PK\x03\x04 and no more"),
        "link": link,
        "empty folder": lambda folder, text: None,
        "endless": code("while True:\n    pass"),
        "all memory": code(made.MEMORY),
        "kills its process": code("import os\nos.kill(os.getpid(), 9)"),
    }


def _table(outcomes: list[Any]) -> None:
    for one in outcomes:
        if one.student.startswith("broken"):
            marks = sum(mark or 0 for mark, _ in one.cells.values())
            print(f"{one.student:22} {marks:4g}  {one.status}  {'; '.join(one.notes)[:150]}")


def main(students: int = 100, workers: int = 2, broken: int = 0) -> None:
    """Make the submissions, grade them, print."""
    right = made.solutions("A1")
    kinds = [right] * 7 + [right | made.HALF, {}, right | made.CRASH]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        start = time.perf_counter()
        (path,) = [p for p in grade.release(root / "release") if p.stem == "A1"]
        print(f"student versions of all assignments: {time.perf_counter() - start:.1f} s")
        released = nbformat.read(path, as_version=4)
        for number in range(students):
            name = f"student{number:03d}"
            target = root / "submissions" / name / "A1" / "A1.ipynb"
            made.submit(target, name, released, kinds[number % len(kinds)])
        text = target.parent.parent.parent.joinpath("student000/A1/A1.ipynb").read_text("utf-8")
        for name, spoil in list(_broken().items())[:broken]:
            (root / "submissions" / f"broken {name}").mkdir()
            spoil(root / "submissions" / f"broken {name}", text)
        before, start = os.times(), time.perf_counter()
        outcomes = grade.grade(
            root / "submissions", root / "graded", workers=workers, say=lambda line: None
        )
        wall, after = time.perf_counter() - start, os.times()
        spent = sum(after[i] - before[i] for i in range(4))
    marks = sorted(sum(mark or 0 for mark, _ in o.cells.values()) for o in outcomes)
    print(f"{len(outcomes)} submissions, {workers} workers, load {os.getloadavg()[0]:.1f}")
    print(f"{wall:.0f} s in all, {wall / len(outcomes):.1f} s each; processor time {spent:.0f} s")
    print(f"marks from {marks[0]:g} to {marks[-1]:g}, the middle one {marks[len(marks) // 2]:g}")
    _table(outcomes)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
