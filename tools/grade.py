"""Make the student versions of the assignments, and grade what comes back.

    python tools/grade.py release                 student versions into release/
    python tools/grade.py grade SUBMISSIONS       marks, feedback and a gradebook into graded/
    python tools/grade.py feedback                feedback and marks anew, after grading by hand

SUBMISSIONS is a folder as nbgrader and learning platforms give it: a folder for each student with
the notebooks in it, at any depth, ``alice/A1/A1.ipynb`` or ``alice/A1.ipynb``; or files named
``alice_A1.ipynb``. ``graded/`` is a course folder of nbgrader's: its formgrader opens it.

nbgrader does the work. What is ours is around it: each submission has a copy of the gradebook, a
process tree and a folder of its own, limits of time and memory and no network; whatever becomes
of one, the others go on. A second run grades only what changed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import html
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import nbformat
from grading.boxed import Box, Limits, autograde, run_converter, walls_stand
from grading.limits import limit
from grading.submissions import Refused, Submission, find, fingerprint, read, repair, suspicions
from nbgrader.api import Gradebook
from nbgrader.converters import GenerateAssignment, GenerateFeedback
from nbgrader.coursedir import CourseDirectory
from nbgrader.plugins import CsvExportPlugin
from sqlalchemy.exc import SAWarning
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "notebooks" / "assignments" / "source"
# Where answers could be read: a submission's process sees these folders empty.
SECRET = [ROOT / "notebooks", ROOT / "tests", ROOT / ".git"]
GRACE = 60  # seconds that nbgrader itself may take for a submission, beyond the submission's own
STATE = "grade.json"
STANDARD = Limits()
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


# The assignments


def assignments(source: Path = SOURCE) -> list[str]:
    """Names of the assignments: each a folder with a notebook of the same name."""
    return sorted(p.stem for p in source.glob("*/*.ipynb") if p.stem == p.parent.name)


def _config(course: Path) -> Config:
    config = Config()
    config.CourseDirectory.root = str(course)
    config.ClearSolutions.code_stub = {"python": "# Your code here.\nraise NotImplementedError()"}
    config.ClearSolutions.text_stub = "*Your answer here.*"
    return config


def _copy(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))


def _digest(files: list[Path], *more: str) -> str:
    every = hashlib.sha256("\0".join(more).encode())
    for path in files:
        if path.is_file():
            every.update(path.name.encode() + b"\0" + path.read_bytes())
    return every.hexdigest()


def generate(course: Path, source: Path = SOURCE) -> None:
    """Put the assignments into a course folder: source, student version, gradebook.

    Those that are there already and did not change stay as they are.
    """
    course.mkdir(parents=True, exist_ok=True)
    state = course / "source.json"
    known = json.loads(state.read_text(encoding="utf-8")) if state.exists() else {}
    for name in assignments(source):
        digest = _digest(sorted((source / name).iterdir()))
        if known.get(name) != digest:
            _copy(source / name, course / "source" / name)
            run_converter(GenerateAssignment, _config(course), name)
            known[name] = digest
            state.write_text(json.dumps(known), encoding="utf-8")


def release(out: Path, source: Path = SOURCE) -> list[Path]:
    """Write the student versions, ``out/A1/A1.ipynb``, with the files that lie beside them."""
    with tempfile.TemporaryDirectory() as folder:
        course = Path(folder).resolve()
        generate(course, source)
        for name in assignments(source):
            _copy(course / "release" / name, out / name)
    return [out / name / f"{name}.ipynb" for name in assignments(source)]


# One submission


@dataclass(frozen=True)
class Job:
    """What the process of one submission is told."""

    submission: Submission
    pristine: Path  # a course folder without students
    folder: Path  # for this submission alone
    hidden: tuple[Path, ...]
    walls: bool
    limits: Limits


def _grade_one(job: Job) -> None:
    # In a process of its own. Leaves outcome.json in the folder, and a course folder beside it.
    them, name = job.submission.student, job.submission.assignment
    outcome = Outcome(them, name)
    limit(job.limits.memory)  # what a submission prints is kept here
    try:
        released = nbformat.read(job.pristine / "release" / name / f"{name}.ipynb", as_version=4)
        notebook = repair(read(job.submission.notebook), released, outcome.note)
        if job.submission.notebook.stem != name:
            outcome.note(f"the file was called {job.submission.notebook.name}")
        for sentence in suspicions(notebook, them):
            outcome.note(sentence)
        outcome.fingerprint = fingerprint(notebook, released)
        course, box = job.folder / "course", job.folder / "box"
        submitted = course / "submitted" / "student" / name
        submitted.mkdir(parents=True)
        (box / "work").mkdir(parents=True)
        nbformat.write(notebook, submitted / f"{name}.ipynb")
        shutil.copy(job.pristine / "gradebook.db", course)
        given = [p for p in (job.pristine / "source" / name).iterdir() if p.suffix != ".ipynb"]
        for path in [*job.submission.extra, *given]:  # the assignment's own files win
            if path.is_file() and not path.is_symlink():
                shutil.copy(path, box / "work")
                shutil.copy(path, submitted)
        marks = autograde(
            course, _config(course), name, "student",
            Box(box, list(job.hidden), job.walls, job.limits),
        )  # fmt: skip
        outcome.cells, outcome.comments = marks.cells, marks.comments
        for sentence in marks.events:
            outcome.note(sentence)
    except Refused as error:
        outcome.status = str(error)
    except Exception as error:
        outcome.status = f"The grading stopped: {error}".split("\n")[0]
        (job.folder / "log.txt").write_text(str(error), encoding="utf-8")
    text = json.dumps(asdict(outcome))
    (job.folder / "outcome.json").write_text(text, encoding="utf-8")


def _run_jobs(jobs: list[Job], workers: int, done: Callable[[Job, Outcome], None]) -> None:
    # Each job in a process of its own, so many at once; `done` is called here as they end.
    ways = multiprocessing.get_all_start_methods()
    start = multiprocessing.get_context("fork" if sys.platform == "linux" else ways[0])
    waiting, running = list(reversed(jobs)), {}
    while waiting or running:
        while waiting and len(running) < workers:
            job = waiting.pop()
            job.folder.mkdir(parents=True)
            process = start.Process(target=_grade_one, args=(job,))
            process.start()
            running[process.sentinel] = process, job, time.monotonic() + job.limits.total + GRACE
        wait(list(running), timeout=1)
        for sentinel, (process, job, deadline) in list(running.items()):
            late = time.monotonic() > deadline
            if process.is_alive() and not late:
                continue
            if process.is_alive():
                process.kill()
            process.join()
            del running[sentinel]
            done(job, _outcome(job, late))
            shutil.rmtree(job.folder, ignore_errors=True)


def _outcome(job: Job, late: bool) -> Outcome:
    path = job.folder / "outcome.json"
    if path.exists():
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    seconds = job.limits.total + GRACE
    why = f"was stopped after {seconds} seconds" if late else "ended before its time"
    told = f"The submission took the grading down with it: the process {why}."
    return Outcome(job.submission.student, job.submission.assignment, status=told)


# The class


def grade(
    folder: Path,
    out: Path,
    *,
    source: Path = SOURCE,
    limits: Limits = STANDARD,
    workers: int = 0,
    again: bool = False,
    walls: bool | None = None,
    say: Callable[[str], Any] = print,
) -> list[Outcome]:
    """Grade a folder of submissions into a course folder of nbgrader's.

    Args:
        folder: the submissions.
        out: the course folder: new, or of an earlier run.
        source: the assignments.
        limits: of each submission.
        workers: submissions at once; 0: one for each core.
        again: grade also what did not change since the earlier run.
        walls: whether to put up walls (see box.sh); ``None``: where the system can.
        say: shows a line of progress.

    Returns:
        One outcome for each submission, also those of earlier runs.

    Raises:
        Refused: there is nothing to grade.
    """
    folder, out = folder.resolve(), out.resolve()
    if not folder.is_dir():
        raise Refused(f"There is no folder {folder}: SUBMISSIONS names the students' folder.")
    with tempfile.TemporaryDirectory(prefix="mg") as temporary:
        root = Path(temporary).resolve()
        pristine = out / ".assignments"  # a gradebook without students, to be copied for each
        generate(pristine, source)
        if not (out / "gradebook.db").exists():
            shutil.copytree(pristine, out, dirs_exist_ok=True)
        generate(out, source)
        if not (out / "nbgrader_config.py").exists():
            (out / "nbgrader_config.py").write_text("c = get_config()\n", encoding="utf-8")
        releases = {
            name: nbformat.read(pristine / "release" / name / f"{name}.ipynb", as_version=4)
            for name in assignments(source)
        }
        found = find(folder, releases)
        if not found:
            raise Refused(f"There is no notebook in {folder}.")
        walls = walls_stand(root / "try") if walls is None else walls
        say(
            "Each submission runs without a network, in a folder of its own."
            if walls
            else "This system has no walls for processes (unshare): a submission could read other "
            "files of yours. The network is blocked for Python alone."
        )
        state = _load_state(out)
        stamp = _digest(sorted((ROOT / "tools" / "grading").iterdir()), repr(limits))
        jobs: list[Job] = []
        fresh: list[Outcome] = []
        digests: dict[Submission, str] = {}
        needed = [Path(p).resolve() for p in (sys.prefix, sys.base_prefix, ROOT / "mixer_lite")]
        secret = [root, out, folder, source.resolve(), *SECRET]
        hidden = tuple(p for p in secret if not any(n.is_relative_to(p) for n in needed))
        for number, one in enumerate(found):
            if not one.assignment:
                told = "This file could not be assigned to any assignment."
                fresh.append(Outcome(one.student, "", status=told))
                continue
            sources = _digest(sorted((source / one.assignment).iterdir()))
            digest = _digest([one.notebook, *one.extra], stamp, sources)
            old = state.get((one.student, one.assignment))
            if again or old is None or old.digest != digest:
                where = root / f"{number:05d}"
                jobs.append(Job(one, pristine, where, hidden, walls, limits))
                state.pop((one.student, one.assignment), None)
                digests[one] = digest
        kept = len(found) - len(jobs) - len(fresh)
        say(f"{len(jobs)} to grade, {kept} unchanged since they were graded.")

        def done(job: Job, outcome: Outcome) -> None:
            outcome.digest = digests[job.submission]
            _take(out, job, outcome)
            state[outcome.student, outcome.assignment] = outcome
            _save_state(out, state)
            marks = sum(mark or 0 for mark, _ in outcome.cells.values())
            say(f"{outcome.student:24} {outcome.assignment:6} {marks:5g}  {outcome.status}")

        _run_jobs(jobs, workers or os.cpu_count() or 1, done)
    outcomes = [*state.values(), *fresh]
    _alike(outcomes)
    export(out, outcomes)
    return outcomes


def _take(out: Path, job: Job, outcome: Outcome) -> None:
    # Into the course folder and its gradebook, where formgrader finds it.
    name, them = outcome.assignment, outcome.student
    steps = ["autograded", "feedback"]
    if not job.submission.notebook.is_relative_to(out):  # else it was collected by nbgrader
        steps.append("submitted")
    for step in steps:
        made = job.folder / "course" / step / "student" / name
        if (out / step / them / name).exists():
            shutil.rmtree(out / step / them / name)
        if made.exists() and (outcome.cells or step == "submitted"):
            _copy(made, out / step / them / name)
    if not outcome.cells:
        page = out / "feedback" / them / name / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(_refusal(outcome), encoding="utf-8")
    with _gradebook(out) as book:
        book.update_or_create_student(them)
        when = CourseDirectory().get_existing_timestamp(str(job.submission.notebook.parent))
        submission = book.update_or_create_submission(name, them, timestamp=when)
        (notebook,) = submission.notebooks
        for row in notebook.grades:
            row.auto_score, _ = outcome.cells.get(row.name, (0.0, row.max_score))
            marked = row.manual_score is not None
            row.needs_manual_grade = bool(outcome.cells) and (marked or row.auto_score is None)
        for row in notebook.comments:
            row.auto_comment = outcome.comments.get(row.name)
        book.db.commit()


def _gradebook(out: Path) -> Gradebook:
    return Gradebook(f"sqlite:///{out / 'gradebook.db'}")


def _refusal(outcome: Outcome) -> str:
    title = html.escape(f"{outcome.assignment}: no marks yet")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f"<h1>{title}</h1><p>{html.escape(outcome.status)}</p></html>\n"
    )


def _load_state(out: Path) -> dict[tuple[str, str], Outcome]:
    path = out / STATE
    if not path.exists():
        return {}
    rows = [Outcome(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    return {(row.student, row.assignment): row for row in rows}


def _save_state(out: Path, state: dict[tuple[str, str], Outcome]) -> None:
    text = json.dumps([asdict(outcome) for outcome in state.values()])
    fresh = out / f"{STATE}.new"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(out / STATE)


def _alike(outcomes: list[Outcome]) -> None:
    # Answers that agree but for comments and layout; the same short answer may be chance.
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
        _gradebook(out) as book,
        (out / "marks.csv").open("w", encoding="utf-8-sig", newline="") as file,
    ):
        writer = csv.writer(file)
        writer.writerow([*columns, "cells"])
        for one in sorted(outcomes, key=lambda o: (o.student, o.assignment)):
            if not one.assignment:
                writer.writerow([one.student, "", 0, "", 0, one.status, "", ""])
                continue
            submission = book.find_submission(one.assignment, one.student)
            (notebook,) = submission.notebooks
            rows = sorted(notebook.grades, key=lambda g: g.name)
            hand = sum(g.max_score for g in rows if g.needs_manual_grade)
            cells = "; ".join(f"{g.name} {g.score:g}/{g.max_score:g}" for g in rows)
            values = [one.student, one.assignment, f"{submission.score:g}"]
            values += [f"{submission.max_score:g}", f"{hand:g}", one.status, "; ".join(one.notes)]
            writer.writerow([*values, cells])
        plugin = CsvExportPlugin()
        plugin.to = str(out / "grades.csv")
        plugin.export(book)


def feedback(out: Path) -> int:
    """Write feedback and tables anew from the gradebook: after marks were given by hand.

    Returns:
        The number of submissions in which somebody marked or commented something.

    Raises:
        Refused: there is no earlier run.
    """
    out = out.resolve()
    state = _load_state(out)
    if not state:
        raise Refused(f"Nothing has been graded into {out} yet.")
    touched = []
    with _gradebook(out) as book:
        for (student, name), outcome in state.items():
            (notebook,) = book.find_submission(name, student).notebooks
            marked = any(row.manual_score is not None for row in notebook.grades)
            if outcome.cells and (marked or any(row.manual_comment for row in notebook.comments)):
                touched.append((student, name))
    for student, name in touched:
        run_converter(GenerateFeedback, _config(out), name, student)
    _alike(list(state.values()))
    export(out, list(state.values()))
    return len(touched)


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("release", help="write the student versions")
    graded = commands.add_parser("grade", help="grade a folder of submissions")
    again = commands.add_parser("feedback", help="feedback and marks anew, after grading by hand")
    made.add_argument("--out", type=Path, default=Path("release"))
    for command in (graded, again):
        command.add_argument("--out", type=Path, default=Path("graded"))
    graded.add_argument("submissions", type=Path)
    graded.add_argument("--workers", type=int, default=0, help="at once; one for each core")
    graded.add_argument("--again", action="store_true", help="also what did not change")
    for name, unit in (("cell", "seconds for a cell"), ("total", "seconds"), ("memory", "MB")):
        standard = getattr(STANDARD, name)
        graded.add_argument(f"--{name}", type=int, default=standard, help=f"{unit} ({standard})")
    options = parser.parse_args(arguments)
    try:
        if options.command == "release":
            for path in release(options.out):
                print(path)
        elif options.command == "feedback":
            print(f"{feedback(options.out)} submissions with marks or comments by hand.")
        else:
            limits = Limits(options.cell, options.total, options.memory)
            outcomes = grade(
                options.submissions, options.out,
                limits=limits, workers=options.workers, again=options.again,
            )  # fmt: skip
            hand = sum(any(m is None for m, _ in o.cells.values()) for o in outcomes)
            print(f"{len(outcomes)} submissions: {options.out / 'marks.csv'}; feedback beside it.")
            print(f"{hand} of them hold answers to be marked by hand (nbgrader's formgrader).")
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
