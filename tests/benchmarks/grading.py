"""Time to grade a class: python tests/benchmarks/grading.py [STUDENTS] [WORKERS].

By default 100 submissions of A1 by two workers: of ten, seven are right, one is half right, one
was never filled in, and one ends its own program twice, so that it runs three times. Prints the
wall-clock time, the processor time of all processes, and what nbgrader alone needs to make the
student version. Close other programs first.
"""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

grade = importlib.import_module("grade")
made = importlib.import_module("tests.assignments.submissions")


def main(students: int = 100, workers: int = 2) -> None:
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
        before, start = os.times(), time.perf_counter()
        outcomes = grade.grade(
            root / "submissions", root / "graded", workers=workers, say=lambda line: None
        )
        wall, after = time.perf_counter() - start, os.times()
        spent = sum(after[i] - before[i] for i in range(4))
    marks = sorted(sum(mark or 0 for mark, _ in o.cells.values()) for o in outcomes)
    print(f"{len(outcomes)} submissions, {workers} workers, load {os.getloadavg()[0]:.1f}")
    print(f"{wall:.0f} s in all, {wall / students:.1f} s each; processor time {spent:.0f} s")
    print(f"marks from {marks[0]:g} to {marks[-1]:g}, the middle one {marks[len(marks) // 2]:g}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
