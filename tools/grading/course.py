"""A course folder of nbgrader's: what goes into it, and the tables that come out of it."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import html
import json
import os
import shutil
import tempfile
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.converters import GenerateAssignment
from nbgrader.plugins import CsvExportPlugin
from nbgrader.utils import parse_utc
from sqlalchemy.exc import SAWarning
from traitlets.config import Config

from boxed import run_converter
from pages import clean_html, defuse_table, no_formula
from reading import NOTEBOOK_BYTES, Refused, load
from trees import delete

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "notebooks" / "assignments" / "source"
STATE = "grade.json"
# What is written into a course folder.
WRITTEN = ("source", "release", "submitted", "autograded", "feedback", ".assignments")
# What nbgrader's exchange lays beside a submission, and looks for beside its feedback.
SLIPS = ("timestamp.txt", "submission_secret.txt")
warnings.simplefilter("ignore", SAWarning)  # nbgrader's, of no consequence


@dataclass
class Outcome:
    """What became of one submission.

    Attributes:
        student, assignment: whose, of what.
        status: ``"graded"``, or why there are no marks, in one sentence.
        notes: for the teacher: what was noticed, and put right.
        cells: name of a cell -> (mark, or ``None`` where a person is to mark it; out of).
        comments: name of a cell -> nbgrader's comment.
        digest: of all that the marks depend on.
        fingerprint: of the answers.
    """

    student: str
    assignment: str
    status: str = "graded"
    notes: list[str] = field(default_factory=list)
    cells: dict[str, tuple[float | None, float]] = field(default_factory=dict)
    comments: dict[str, str | None] = field(default_factory=dict)
    digest: str = ""
    fingerprint: str = ""

    def note(self, sentence: str) -> None:
        """Add a sentence for the teacher, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)


def assignments(source: Path = SOURCE) -> list[str]:
    """Names of the assignments: each a folder with a notebook of the same name."""
    return sorted(p.stem for p in source.glob("*/*.ipynb") if p.stem == p.parent.name)


def config_of(course: Path) -> Config:
    """nbgrader's settings for a course folder."""
    config = Config()
    config.CourseDirectory.root = str(course)
    config.HTMLExporter.sanitize_html = True  # a second time: what is stored is clean
    config.HTMLExporter.filters = {"clean_html": clean_html}
    config.ClearSolutions.code_stub = {"python": "# Your code here.\nraise NotImplementedError()"}
    config.ClearSolutions.text_stub = "*Your answer here.*"
    return config


def copy(source: Path, target: Path) -> None:
    """Put a copy of a folder in the place of another."""
    delete(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))


def digest_of(files: list[tuple[str, Path]], *more: str) -> str:
    """A hash of files and their names; of those that are not read, of size and date."""
    every = hashlib.sha256("\0".join(more).encode("utf-8", "surrogateescape"))
    for name, path in files:
        every.update(os.fsencode(name) + b"\0")
        try:
            every.update(load(path, NOTEBOOK_BYTES))
        except Refused as error:
            told = os.lstat(path)
            every.update(f"{error}{told.st_size}{told.st_mtime_ns}".encode("utf-8", "replace"))
    return every.hexdigest()


def inside(folder: Path) -> list[tuple[str, Path]]:
    """The files in a folder of ours, with their names."""
    return [(path.name, path) for path in sorted(folder.iterdir()) if not path.is_dir()]


def generate(course: Path, source: Path = SOURCE) -> None:
    """Put the assignments into a course folder: source, student version, gradebook.

    Those that are there already and did not change stay as they are.
    """
    course.mkdir(parents=True, exist_ok=True)
    state = course / "source.json"
    known = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    for name in assignments(source):
        digest = digest_of(inside(source / name))
        if known.get(name) != digest:
            copy(source / name, course / "source" / name)
            run_converter(GenerateAssignment, config_of(course), name)
            known[name] = digest
            state.write_text(json.dumps(known), encoding="utf-8")


def release(out: Path, source: Path = SOURCE) -> list[Path]:
    """Write the student versions, ``out/A1/A1.ipynb``, with the files that lie beside them."""
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder).resolve()
        generate(course, source)
        for name in assignments(source):
            copy(course / "release" / name, out / name)
    return [out / name / f"{name}.ipynb" for name in assignments(source)]


def take(out: Path, outcome: Outcome, made: Path, stamp: Path | None, collected: bool) -> None:
    """Put a graded submission into the course folder and its gradebook, for formgrader.

    Marks come first: whatever fails afterwards is noted, and changes none.

    Args:
        out: the course folder.
        outcome: what became of the submission.
        made: the course folder in which it was graded, as that of ``student``.
        stamp: a file with the time of handing in.
        collected: whether the submission lies in this course folder already.
    """
    name, them = outcome.assignment, outcome.student
    _enter_marks(out, outcome, stamp)
    try:
        for step in ("autograded", "feedback", *(() if collected else ("submitted",))):
            graded = made / step / "student" / name
            delete(out / step / them / name)
            if graded.exists() and (outcome.cells or step == "submitted"):
                copy(graded, out / step / them / name)
        page = out / "feedback" / them / name / f"{name}.html"
        if not page.exists():
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(_plain_page(outcome), encoding="utf-8")
        for slip in SLIPS:
            with contextlib.suppress(Refused):
                content = load(out / "submitted" / them / name / slip, 1000)
                for step in ("autograded", "feedback"):
                    if (folder := out / step / them / name).is_dir():
                        (folder / slip).write_bytes(content)
    except OSError as error:
        outcome.note(f"the pages could not be written ({error.strerror}): the marks stand")


def _enter_marks(out: Path, outcome: Outcome, stamp: Path | None) -> None:
    with gradebook(out) as book:
        book.update_or_create_student(outcome.student)
        when = None
        with contextlib.suppress(Refused, ValueError, OverflowError):
            when = parse_utc(load(stamp, 1000).decode().strip()) if stamp else None
        submission = book.update_or_create_submission(
            outcome.assignment, outcome.student, timestamp=when
        )
        (marked,) = submission.notebooks
        for row in marked.grades:
            row.auto_score, _ = outcome.cells.get(row.name, (0.0, row.max_score))
            given = row.manual_score is not None
            row.needs_manual_grade = bool(outcome.cells) and (given or row.auto_score is None)
        for row in marked.comments:
            row.auto_comment = outcome.comments.get(row.name)
        book.db.commit()


def gradebook(out: Path) -> Gradebook:
    """The gradebook of a course folder; it closes itself as a context."""
    return Gradebook(f"sqlite:///{out / 'gradebook.db'}")


def _plain_page(outcome: Outcome) -> str:
    # Where nbgrader made no page: why there are no marks, or the marks alone.
    title = html.escape(f"{outcome.assignment}: {'marks' if outcome.cells else 'no marks yet'}")
    rows = "".join(
        f"<li>{html.escape(name)}: {'to be marked' if mark is None else f'{mark:g}'} of {most:g}"
        for name, (mark, most) in outcome.cells.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>{html.escape(outcome.status)}</p><ul>{rows}</ul></html>\n"
    )


def load_state(out: Path) -> dict[tuple[str, str], Outcome]:
    """What became of each submission in earlier runs, by student and assignment."""
    path = out / STATE
    if not path.exists():
        return {}
    rows = [Outcome(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    return {(row.student, row.assignment): row for row in rows}


def save_state(out: Path, state: dict[tuple[str, str], Outcome]) -> None:
    """Write what became of each submission, for the next run."""
    text = json.dumps([asdict(outcome) for outcome in state.values()])
    fresh = out / f"{STATE}.new"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(out / STATE)


def mark_alike(outcomes: list[Outcome]) -> None:
    """Note answers that agree but for comments and layout; the same short answer may be chance."""
    groups: dict[tuple[str, str], list[Outcome]] = {}
    for outcome in outcomes:
        outcome.notes = [n for n in outcome.notes if not n.startswith("the same code as ")]
        if outcome.fingerprint:
            groups.setdefault((outcome.assignment, outcome.fingerprint), []).append(outcome)
    for group in groups.values():
        for outcome in group:
            others = ", ".join(o.student for o in group if o is not outcome)
            if others:
                outcome.note(f"the same code as {others}")


def export(out: Path, outcomes: list[Outcome]) -> None:
    """Write ``marks.csv``, a row for each submission, and nbgrader's own ``grades.csv``."""
    columns = ["student", "assignment", "marks", "out_of", "to_mark_by_hand", "status", "notes"]
    with (
        gradebook(out) as book,
        (out / "marks.csv").open("w", encoding="utf-8-sig", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([*columns, "cells"])
        for one in sorted(outcomes, key=lambda o: (o.student, o.assignment)):
            submission = None
            with contextlib.suppress(MissingEntry):
                if one.cells or one.digest:
                    submission = book.find_submission(one.assignment, one.student)
            if submission is None:
                marks = sum(mark or 0 for mark, _ in one.cells.values())
                most = sum(most for _, most in one.cells.values()) or ""
                row = [one.student, one.assignment, f"{marks:g}", most, 0, one.status]
                writer.writerow(map(no_formula, [*row, "; ".join(one.notes), ""]))
                continue
            (notebook,) = submission.notebooks
            rows = sorted(notebook.grades, key=lambda g: g.name)
            hand = sum(g.max_score for g in rows if g.needs_manual_grade)
            cells = "; ".join(f"{g.name} {g.score:g}/{g.max_score:g}" for g in rows)
            values = [one.student, one.assignment, f"{submission.score:g}"]
            values += [f"{submission.max_score:g}", f"{hand:g}", one.status, "; ".join(one.notes)]
            writer.writerow(map(no_formula, [*values, cells]))
        plugin = CsvExportPlugin()
        plugin.to = str(out / "grades.csv")
        plugin.export(book)
    defuse_table(out / "grades.csv")
