"""Make the student versions of the assignments, and grade what comes back.

    python tools/grading/grade.py release  student versions into release/
    python tools/grading/grade.py grade SUBMISSIONS       marks, feedback, gradebook into graded/
    python tools/grading/grade.py grade SUBMISSIONS --preview    only who was found, from what
    python tools/grading/grade.py feedback  feedback and marks again, after grading by hand

SUBMISSIONS is what a learning platform gives, a folder or its zip: a folder for each student with
the notebooks in it, at any depth, ``alice/A1/A1.ipynb`` or ``A1/alice/A1.ipynb``; files named
``alice_A1.ipynb``; or what Moodle, Canvas, Blackboard, Brightspace and Google Classroom make of
such names. ``--names "{assignment}/{student}_{id}"`` says how it is where none of these fits.
``graded/`` is a course folder of nbgrader's: its formgrader opens it.

nbgrader does the work. What is ours is around it: each submission has a copy of the gradebook, a
process tree and a folder of its own, limits of time and memory and no network; whatever becomes
of one, the others go on. A second run grades only what changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbgrader.converters import GenerateFeedback
from traitlets.config import Config

import mixer_lite
from boxed import autograde, run_converter
from course import (
    ROOT,
    SOURCE,
    WRITTEN,
    Outcome,
    assignments,
    config_of,
    digest_of,
    export,
    generate,
    gradebook,
    inside,
    load_state,
    mark_alike,
    release,
    save_state,
    take,
)
from frame import repair
from intake import EXTRA_BYTES, Intake, Submission, find
from layouts import PLATFORMS
from limits import limit
from pages import PICTURE_FILES, one_line
from reading import NOTEBOOK_BYTES, Refused, decoded, load, read
from suspicions import fingerprint, suspicions
from trees import delete
from walls import Box, Exposed, Limits, View, nursery, view, walls_stand

# Where answers could be read: a submission's process is not shown these folders.
SECRET = [
    ROOT / "notebooks", ROOT / "tests", ROOT / ".git",
    Path(mixer_lite.__file__).parent / "_book",
]  # fmt: skip
MOST_NOTES = 40
HELPER_BYTES = 1_000_000  # of a Python file are looked at
GRACE = 60  # seconds that nbgrader itself may take for a submission, beyond the submission's own
STANDARD = Limits()
WALLS = (
    "Each submission runs without a network, and sees Python, its packages and its own files alone."
)
NO_WALLS = (
    "This system has no walls for processes (unshare): a submission could read other files of "
    "yours. The network is blocked for Python alone."
)


# One submission


@dataclass(frozen=True)
class Job:
    """What the process of one submission is told."""

    submission: Submission
    pristine: Path  # a course folder without students
    folder: Path  # for this submission alone
    view: View | None  # None: no walls
    limits: Limits
    nursery: socket.socket | None = None  # None: each kernel loads its libraries itself


def _grade_one(job: Job) -> None:
    # In its own process. Leaves outcome.json in the folder, and a course folder beside it.
    them, name = job.submission.student, job.submission.assignment
    outcome = Outcome(them, name)
    # What a submission prints is kept here. What the program holds that forked this process is not
    # the submission's.
    held = getattr(psutil.Process().memory_info(), "data", 0)
    limit(job.limits.memory + held // 2**20)
    try:
        released = nbformat.read(job.pristine / "release" / name / f"{name}.ipynb", as_version=4)
        called = one_line(job.submission.called.split("/")[-1])
        notebook, told = read(job.submission.notebook, called, NOTEBOOK_BYTES)
        for sentence in told:
            outcome.note(sentence)
        notebook = repair(notebook, released, outcome.note)
        if called != f"{name}.ipynb":
            outcome.note(f"the file was called {called}")
        course, given = job.folder / "course", job.folder / "given"
        submitted = course / "submitted" / "student" / name
        submitted.mkdir(parents=True)
        given.mkdir()
        helpers = _take_files(job, given, submitted, outcome)
        for sentence in [*job.submission.notes, *suspicions(notebook, them, helpers)]:
            outcome.note(sentence)
        outcome.fingerprint = fingerprint(notebook, released)
        nbformat.write(notebook, submitted / f"{name}.ipynb")
        shutil.copy(job.pristine / "gradebook.db", course)
        marks = autograde(
            course, config_of(course), name, "student",
            Box(job.folder, job.view, job.limits, nursery=job.nursery),
        )  # fmt: skip
        outcome.cells, outcome.comments = marks.cells, marks.comments
        for sentence in marks.events:
            outcome.note(sentence)
        _leave(job, outcome)  # what happens from here on changes no mark
        _give_feedback(config_of(course), outcome)
    except Refused as error:
        outcome.status = str(error)
    except Exception as error:
        why = str(error).split("\n")[0] or type(error).__name__
        outcome.status = one_line(f"The grading stopped: {why}")
    _leave(job, outcome)


def _leave(job: Job, outcome: Outcome) -> None:
    outcome.notes = [one_line(note, 1000) for note in outcome.notes[:MOST_NOTES]]
    path = job.folder / "outcome.new"
    path.write_text(json.dumps(asdict(outcome)), encoding="utf-8")
    path.replace(job.folder / "outcome.json")


def _give_feedback(config: Config, outcome: Outcome, student: str = "student") -> None:
    try:
        run_converter(GenerateFeedback, config, outcome.assignment, student)
    except Exception as error:
        why = one_line(str(error).split("\n")[0], 200)
        outcome.note(f"the page of feedback holds the marks alone, because {why}")


def _take_files(job: Job, given: Path, submitted: Path, outcome: Outcome) -> list[str]:
    # What a notebook may read, and the pictures that it may show; the text of Python files.
    helpers = []
    sources = inside(job.pristine / "source" / job.submission.assignment)
    ours = [(name, path) for name, path in sources if path.suffix != ".ipynb"]
    for name, path in [*job.submission.extra, *ours]:  # the assignment's own files win
        theirs = (name, path) not in ours
        try:
            content = load(path, EXTRA_BYTES, name)
        except Refused as error:
            outcome.note(f"a file was left out: {error}")
            continue
        if theirs and name.endswith(".py"):
            with contextlib.suppress(UnicodeError):
                content = decoded(content)[0].encode()
            helpers.append(content[:HELPER_BYTES].decode("utf-8", "replace"))
        places = [given]
        if not theirs or name.lower().endswith(PICTURE_FILES):
            places.append(submitted)
        try:
            for place in places:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(content)
        except OSError as error:
            outcome.note(f"the file {one_line(name, 60)} was left out: {error.strerror}")
    return helpers


def _run_all(
    jobs: list[Job], room: Box, workers: int, done: Callable[[Job, Outcome], None]
) -> None:
    # Jobs, with one process in a room of its own that loads for all what one loads for itself.
    alone = len(jobs) < 2
    if not alone:  # compiles the patterns that every page of feedback needs
        words = nbformat.v4.new_markdown_cell("*x* $y$"), nbformat.v4.new_code_cell("x = 1")
        HTMLExporter().from_notebook_node(nbformat.v4.new_notebook(cells=list(words)))
    with contextlib.nullcontext() if alone else nursery(room) as line:
        _run_jobs([replace(job, nursery=line) for job in jobs], workers, done)


def _run_jobs(jobs: list[Job], workers: int, done: Callable[[Job, Outcome], None]) -> None:
    # Each job in its own process, so many at once; `done` is called here as they end.
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
            with contextlib.suppress(OSError):
                delete(job.folder)


def _outcome(job: Job, late: bool) -> Outcome:
    path = job.folder / "outcome.json"
    if path.exists():
        return Outcome(**json.loads(path.read_text(encoding="utf-8")))
    seconds = job.limits.total + GRACE
    why = f"was stopped after {seconds} seconds" if late else "ended before its time"
    told = f"The submission took the grading down with it: the process {why}."
    return Outcome(job.submission.student, job.submission.assignment, status=told)


# The class


def _prepare(out: Path, source: Path) -> tuple[Path, dict[str, NotebookNode]]:
    # The course folder; one without students in it, to be copied for each, and the releases.
    pristine = out / ".assignments"
    generate(pristine, source)
    if not (out / "gradebook.db").exists():
        shutil.copytree(pristine, out, dirs_exist_ok=True)
    generate(out, source)
    if not (out / "nbgrader_config.py").exists():
        (out / "nbgrader_config.py").write_text("c = get_config()\n", encoding="utf-8")
    return pristine, {
        name: nbformat.read(pristine / "release" / name / f"{name}.ipynb", as_version=4)
        for name in assignments(source)
    }


def _view(walls: bool | None, root: Path, secret: list[Path]) -> View | None:
    if walls or (walls is None and walls_stand(root / "try")):
        try:
            return view([root, *secret, *SECRET])
        except Exposed as error:
            raise Refused(str(error)) from error
    return None


def _digests(found: list[Submission], source: Path, limits: Limits) -> dict[Submission, str]:
    stamp = digest_of(inside(Path(__file__).parent), repr(limits))
    sources = {n: digest_of(inside(source / n)) for n in assignments(source)}
    return {
        one: digest_of(
            [(one.called, one.notebook), *one.extra], stamp, sources[one.assignment], *one.notes
        )
        for one in found
    }


def look(
    folder: Path, out: Path, temporary: Path, names: str = "", source: Path = SOURCE
) -> tuple[Path, Intake]:
    """Who handed in what, and the course folder without students.

    Args:
        folder, out, names, source: as for :func:`grade`.
        temporary: a folder, for what archives hold.

    Raises:
        Refused: there is nothing, or the pattern is none.
    """
    if not folder.exists():
        raise Refused(f"There is no folder {folder}: SUBMISSIONS names the students' folder.")
    pristine, releases = _prepare(out, source)
    taken = find(folder, releases, temporary / "unpacked", names)
    if not taken.submissions and not taken.named:
        raise Refused(f"There is no notebook in {folder}.")
    return pristine, taken


def grade(
    folder: Path,
    out: Path,
    *,
    source: Path = SOURCE,
    limits: Limits = STANDARD,
    workers: int = 0,
    again: bool = False,
    walls: bool | None = None,
    names: str = "",
    say: Callable[[str], Any] = print,
) -> list[Outcome]:
    """Grade a folder of submissions into a course folder of nbgrader's.

    Args:
        folder: the submissions: a folder, or a zip of one.
        out: the course folder: new, or of an earlier run.
        source: the assignments.
        limits: of each submission.
        workers: submissions at once; 0: one for each core.
        again: grade also what did not change since the earlier run.
        walls: whether to put up walls (see box.py); ``None``: where the system can.
        names: how students' names stand in paths (see layouts.py); empty: in one of the usual ways.
        say: shows a line of progress.

    Returns:
        One outcome for each submission, also those of earlier runs.

    Raises:
        Refused: there is nothing to grade, or something secret could not be hidden.
    """
    folder, out = folder.resolve(), out.resolve()
    with tempfile.TemporaryDirectory(prefix="mg") as temporary:
        root = Path(temporary).resolve()
        pristine, taken = look(folder, out, root, names, source)
        taken.preview(say)
        shown = _view(walls, root, [folder, source.resolve(), *(out / name for name in WRITTEN)])
        say(WALLS if shown else NO_WALLS)
        named = [Outcome(*student, status=why) for *student, why in taken.named]
        digests = _digests(taken.submissions, source, limits)
        state = load_state(out)
        stale = _stale(digests, state, again)
        jobs = [Job(one, pristine, root / f"{n:05d}", shown, limits) for n, one in enumerate(stale)]
        say(f"{len(jobs)} to grade, {len(digests) - len(jobs)} unchanged since they were graded.")

        def done(job: Job, outcome: Outcome) -> None:
            outcome.digest = digests[job.submission]
            _keep(out, job, outcome)
            state[outcome.student, outcome.assignment] = outcome
            save_state(out, state)
            marks = sum(mark or 0 for mark, _ in outcome.cells.values())
            say(f"{outcome.student:24} {outcome.assignment:6} {marks:5g}  {outcome.status}")

        room = Box(root / "n", shown, limits)
        _run_all(jobs, room, workers or os.cpu_count() or 1, done)
        _write_files(out, taken, state)
    outcomes = [*state.values(), *named]
    mark_alike(outcomes)
    export(out, outcomes)
    return outcomes


def _keep(out: Path, job: Job, outcome: Outcome) -> None:
    made, collected = job.folder / "course", job.submission.notebook.is_relative_to(out)
    try:
        take(out, outcome, made, job.submission.stamp, collected)
    except Exception as error:  # whatever it is, the others go on, and the marks stand
        outcome.digest = ""
        outcome.note(f"the gradebook could not be written: {one_line(error)}")


def _write_files(out: Path, taken: Intake, state: dict[tuple[str, str], Outcome]) -> None:
    for one in taken.submissions:
        status = state[one.student, one.assignment].status
        if status != "graded":
            taken.files[one.called] = (one.student, one.assignment, f"not graded: {status}")
    taken.write(out / "files.csv")


def _stale(
    found: dict[Submission, str], state: dict[tuple[str, str], Outcome], again: bool
) -> list[Submission]:
    # What was not graded yet, or changed since then: what became of it then counts no more.
    earlier = {key: one.digest for key, one in state.items()}
    stale = [
        one for one, digest in found.items()
        if again or earlier.get((one.student, one.assignment)) != digest
    ]  # fmt: skip
    for one in stale:
        state.pop((one.student, one.assignment), None)
    return stale


def feedback(out: Path) -> int:
    """Write feedback and tables again from the gradebook: after marks were given by hand.

    Returns:
        The number of submissions in which somebody marked or commented something.

    Raises:
        Refused: there is no earlier run.
    """
    out = out.resolve()
    state = load_state(out)
    if not state:
        raise Refused(f"Nothing has been graded into {out} yet.")
    touched = []
    with gradebook(out) as book:
        for (student, name), outcome in state.items():
            (notebook,) = book.find_submission(name, student).notebooks
            marked = any(row.manual_score is not None for row in notebook.grades)
            if outcome.cells and (marked or any(row.manual_comment for row in notebook.comments)):
                touched.append((student, name))
    for student, name in touched:
        _give_feedback(config_of(out), state[student, name], student)
    mark_alike(list(state.values()))
    export(out, list(state.values()))
    return len(touched)


def _summary(outcomes: list[Outcome], out: Path) -> None:
    # Found is graded and named: nobody is missing.
    named = [one for one in outcomes if one.status != "graded"]
    graded = len(outcomes) - len(named)
    rest = f"{graded} graded, {len(named)} not, which are" if named else "all graded."
    print(f"{len(outcomes)} submissions: {rest}")
    for one in named:
        print(f"  {one.student:30} {one.assignment:4} {one.status}")
    print(f"{out / 'marks.csv'} has a row for each, {out / 'files.csv'} one for each file.")


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    made = commands.add_parser("release", help="write the student versions")
    graded = commands.add_parser("grade", help="grade a folder of submissions")
    again = commands.add_parser("feedback", help="feedback and marks again, after grading by hand")
    made.add_argument("--out", type=Path, default=Path("release"))
    for command in (graded, again):
        command.add_argument("--out", type=Path, default=Path("graded"))
    graded.add_argument("submissions", type=Path, help="a folder, or a zip of one")
    graded.add_argument("--names", default="", help='as "{assignment}/{student}_{id}/{file}", or '
                        f"one of: {', '.join(PLATFORMS)}")  # fmt: skip
    graded.add_argument("--preview", action="store_true", help="only show who was found")
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
        elif options.preview:
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder)
                _, taken = look(options.submissions.resolve(), place / "out", place, options.names)
                taken.preview(print)
        else:
            limits = Limits(options.cell, options.total, options.memory)
            outcomes = grade(
                options.submissions, options.out,
                limits=limits, workers=options.workers, again=options.again, names=options.names,
            )  # fmt: skip
            hand = sum(any(m is None for m, _ in o.cells.values()) for o in outcomes)
            _summary(outcomes, options.out)
            print(f"{hand} of them hold answers to be marked by hand (nbgrader's formgrader).")
    except Refused as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
