"""Running one submission through nbgrader, its kernel in a box."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import logging
import os
import re
import secrets
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    Execute,
    IgnorePattern,
    LimitOutput,
    SaveAutoGrades,
)
from nbgrader.preprocessors.execute import UnresponsiveKernelError
from nbgrader.utils import is_grade, is_solution
from traitlets.config import Config

from pages import clean_outputs
from walls import Box, BoxManager

MIME = "application/x-mixer-lite-mark"  # as in kernel.py, which is imported in the box alone
MAY_CALL = re.compile(r"^# The answer may call (.+?)\.?$", re.M)
RESTARTS = 3  # a submission that kills its kernel is run again without the cell that did


class BoxedExecute(Execute):
    """nbgrader's execution with our kernel: marks need the kernel's token, and deaths are survived.

    ``box`` is set before use.
    """

    box: Box

    def __init__(self, **settings: Any) -> None:
        super().__init__(kernel_manager_class=BoxManager, store_widget_state=False, **settings)

    def preprocess(self, nb: NotebookNode, resources: Any, **kwargs: Any) -> Any:
        """Run the notebook; afterwards each grade cell without its token holds an error."""
        limits, self.killers = self.box.limits, {}
        self.deadline = time.monotonic() + limits.total
        self.iopub_timeout = limits.cell
        self.timeout_func = lambda cell: max(1, min(limits.cell, int(self._left())))
        resources.setdefault("metadata", {})["path"] = str(self.box.work)
        self.box.envelope = {"may_call": {
            _key(c): [name for names in MAY_CALL.findall(c.source) for name in names.split(", ")]
            for c in nb.cells if _is_test(c)
        }}  # fmt: skip
        told = copy.deepcopy(nb.metadata)
        for attempt in range(RESTARTS + 1):
            self.at, self.tokens, self.doubts = 0, {}, {}
            try:
                super().preprocess(nb, resources, **kwargs)
                break
            except (DeadKernelError, CellTimeoutError, UnresponsiveKernelError, RuntimeError) as e:
                if self.at == 0 and not nb.cells[0].get("outputs") and attempt == RESTARTS:
                    raise
                where = _name(nb.cells[self.at], self.at)
                why = str(e).split("\n")[0]
                self.box.events.append(f"the program ended in {where}: {why}")
                self.killers[self.at] = "This cell ended the program, or was ended by a limit."
        self.box.hang_up()
        nb.metadata = told  # the kernel has a word in it
        for index, cell in enumerate(nb.cells):
            if cell.cell_type == "code":
                self._judge(index, cell)
        return nb, resources

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def preprocess_cell(self, cell: NotebookNode, resources: Any, index: int) -> Any:
        """Run a cell, unless it is one that killed the kernel, or no time is left."""
        self.at = index
        if cell.cell_type == "code":
            cell.outputs = []
        if index in self.killers:
            cell.outputs = [_error("Stopped", self.killers[index])]
            return cell, resources
        if cell.cell_type == "code" and self._left() <= 0:
            seconds = self.box.limits.total
            cell.outputs = [_error("OutOfTime", f"Not run: the notebook had {seconds} seconds.")]
            return cell, resources
        if _is_test(cell):
            self.tokens[index] = secrets.token_hex(16)
            self.box.tell((_key(cell), self.tokens[index]))
        done = super().preprocess_cell(cell, resources, index)
        if _is_test(cell) and (told := self.box.heard()):
            self.doubts[index] = told
        elif self.doubts and _is_test(cell):
            self.doubts[index] = next(iter(self.doubts.values()))
        if any(o.get("ename") == "CellTimeoutError" for o in cell.get("outputs", ())):
            seconds = self.box.limits.cell
            self.box.events.append(f"{_name(cell, index)} was stopped after {seconds} s")
        return done

    def _judge(self, index: int, cell: NotebookNode) -> None:
        marks, kept = [], []
        for output in cell.outputs:
            mark = output.get("data", {}).get(MIME)
            if mark is None:
                kept.append(output)
            elif _is_test(cell):
                with contextlib.suppress(ValueError, RecursionError):
                    marks.append(json.loads(mark))
        marks = [mark for mark in marks if isinstance(mark, dict)]
        cell.outputs = clean_outputs(kept, examined=_is_test(cell))
        if not _is_test(cell):
            return
        name = cell.metadata.nbgrader.grade_id
        for mark in marks[:3]:
            notes = mark.get("notes")
            for note in notes[:5] if isinstance(notes, list) else ():
                self.box.events.append(f"{name}: {str(note)[:1000]}")
        failed = any(output.output_type == "error" for output in cell.outputs)
        vouched = any(mark.get("token") == self.tokens.get(index, mark) for mark in marks)
        passed = vouched and not failed and index not in self.doubts
        for output in cell.outputs:
            if output.output_type == "execute_result":  # nbgrader would read marks off it
                output.output_type = "display_data"
                output.pop("execution_count", None)
            if output.output_type == "stream" and passed:
                output.name = "stdout"  # a warning on stderr would cost all marks
        if passed or failed:
            return
        why = "This test did not come to a result."
        if index in self.doubts:
            why = (
                f"The notebook looks into the interpreter ({self.doubts[index]}), so its tests "
                f"prove nothing from here on: a person has to look at it."
            )
            self.box.events.append(f"{name} does not count: {why}")
        cell.outputs.append(_error("NotGraded", why))


def _name(cell: NotebookNode, at: int) -> str:
    return (
        cell.metadata.get("nbgrader", {}).get("grade_id") or f"a cell of their own (cell {at + 1})"
    )


def _is_test(cell: NotebookNode) -> bool:
    return cell.cell_type == "code" and is_grade(cell) and not is_solution(cell)


def _key(cell: NotebookNode) -> str:
    return hashlib.sha256(cell.source.strip().encode()).hexdigest()


def _error(name: str, says: str) -> NotebookNode:
    return nbformat.v4.new_output("error", ename=name, evalue=says, traceback=[f"{name}: {says}"])


@dataclass
class Marks:
    """What nbgrader made of a submission: cell -> (mark or ``None``, out of); cell -> comment."""

    cells: dict[str, tuple[float | None, float]]
    comments: dict[str, str | None]
    events: list[str]


def autograde(course: Path, config: Config, assignment: str, student: str, box: Box) -> Marks:
    """Grade a submission in a course folder of its own."""
    BoxedExecute.box = BoxManager.box = box
    config.Autograde.autograde_preprocessors = [
        BoxedExecute, IgnorePattern, ClearMetadataPreprocessor, LimitOutput, SaveAutoGrades,
        AssignLatePenalties, CheckCellMetadata,
    ]  # fmt: skip
    run_converter(Autograde, config, assignment, student)
    with Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        submission = book.find_submission(assignment, student)
        (notebook,) = submission.notebooks
        cells = {g.name: (g.auto_score, g.max_score) for g in notebook.grades}
        comments = {c.name: c.auto_comment for c in notebook.comments}
    return Marks(cells, comments, box.events)


def run_converter(kind: Any, config: Config, assignment: str, student: str = "*") -> None:
    """One step of nbgrader on one assignment.

    Raises:
        RuntimeError: it failed; with nbgrader's log.
    """
    # nbgrader calls the command alembic, which lies beside Python where no environment is active.
    beside = str(Path(sys.executable).parent)
    if beside not in os.environ["PATH"].split(os.pathsep):
        os.environ["PATH"] = beside + os.pathsep + os.environ["PATH"]
    directory = CourseDirectory(config=config)
    directory.assignment_id, directory.student_id = assignment, student
    lines: list[str] = []
    log = logging.Logger("nbgrader")
    log.addHandler(_Lines(lines))
    converter = kind(coursedir=directory, config=config, log=log)
    converter.force = True
    try:
        converter.start()
    except (Exception, SystemExit) as error:
        told = "\n".join(lines[-20:])
        last = next((line for line in reversed(told.split("\n")) if "Error" in line), error)
        raise RuntimeError(f"nbgrader stopped: {last}\n{told}") from error


class _Lines(logging.Handler):
    def __init__(self, lines: list[str]):
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
