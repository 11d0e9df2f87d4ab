"""Running one submission through nbgrader, its kernel in a box."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat import NotebookNode
from nbgrader.api import Gradebook
from nbgrader.converters import Autograde, GenerateFeedback
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

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
OFFLINE = ROOT / "tools" / "offline"
WALLS = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--pid", "--fork",
         "--kill-child", "--mount-proc", "sh", str(HERE / "box.sh")]  # fmt: skip
ORPHANS_DIE = ["setpriv", "--pdeathsig", "KILL", "--"]

MIME = "application/x-mixer-lite-mark"  # as in kernel.py, which is imported in the box alone
MAY_CALL = re.compile(r"^# The answer may call (.+?)\.?$", re.M)
RESTARTS = 3  # a submission that kills its kernel is run again without the cell that did
PROCESSES = 256


@dataclass(frozen=True)
class Limits:
    """What a submission may use: seconds for a cell and in all, megabytes."""

    cell: int = 60
    total: int = 600
    memory: int = 3000


@dataclass
class Box:
    """A folder that a submission's kernel works in.

    Attributes:
        folder: writable for the kernel; ``work`` in it is where the kernel starts.
        hidden: folders that look empty to the kernel.
        walls: whether this system can put up walls: see box.sh.
        limits: of the submission.
        events: sentences about what happened.
    """

    folder: Path
    hidden: list[Path]
    walls: bool
    limits: Limits
    events: list[str] = field(default_factory=list)

    def command(self) -> list[str]:
        """The command before the command."""
        if not self.walls:
            return []
        dies = ORPHANS_DIE if shutil.which(ORPHANS_DIE[0]) else []
        return [*dies, *WALLS, str(self.folder), *map(str, self.hidden), "--"]

    def install(self) -> None:
        """Make this process start its kernels in the box; once for a process."""
        work, kernels = self.folder / "work", self.folder / "kernels" / "python3"
        for path in (work, kernels, self.folder / "runtime", self.folder / "home"):
            path.mkdir(parents=True, exist_ok=True)
        home = str(self.folder / "home")
        paths = [str(ROOT), *([] if self.walls else [str(OFFLINE)])]
        env = {
            "HOME": home, "IPYTHONDIR": home, "MPLCONFIGDIR": home, "TMPDIR": home,
            "TORCH_HOME": home, "HF_HOME": home, "XDG_CACHE_HOME": home, "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths),
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        }  # fmt: skip
        command = [*self.command(), sys.executable, str(HERE / "kernel.py")]
        spec = {
            "argv": [*command, "-f", "{connection_file}", "--log-level=ERROR"],
            "display_name": "Python 3", "language": "python", "env": env,
        }  # fmt: skip
        (kernels / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        os.environ["JUPYTER_PATH"] = str(self.folder)
        os.environ["JUPYTER_RUNTIME_DIR"] = str(self.folder / "runtime")


def walls_stand(folder: Path) -> bool:
    """Whether a command in a box runs on this system.

    Args:
        folder: a new or empty one, for trying.
    """
    if not shutil.which(WALLS[0]) or sys.platform != "linux":
        return False
    (folder / "work").mkdir(parents=True, exist_ok=True)
    command = Box(folder, [], True, Limits()).command()
    tried = [*command, sys.executable, "-c", "import ipykernel, os; assert os.getpid() == 1"]
    return subprocess.run(tried, capture_output=True, check=False).returncode == 0


class BoxedExecute(Execute):
    """nbgrader's execution with our kernel: marks need the kernel's token, and deaths are survived.

    ``box`` is set before use.
    """

    box: Box

    def preprocess(self, nb: NotebookNode, resources: Any, **kwargs: Any) -> Any:
        """Run the notebook; afterwards each grade cell without a token holds an error."""
        limits, self.killers = self.box.limits, {}
        self.deadline = time.monotonic() + limits.total
        self.iopub_timeout = limits.cell
        self.timeout_func = lambda cell: max(1, min(limits.cell, int(self._left())))
        resources.setdefault("metadata", {})["path"] = str(self.box.folder / "work")
        tokens = {_key(c): secrets.token_hex(16) for c in nb.cells if _is_test(c)}
        may_call = {
            _key(c): [name for names in MAY_CALL.findall(c.source) for name in names.split(", ")]
            for c in nb.cells
        }
        for attempt in range(RESTARTS + 1):
            self._send(tokens, may_call)
            self.at = 0
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
        for cell in nb.cells:
            if cell.cell_type == "code":
                self._judge(cell, tokens)
        return nb, resources

    def _left(self) -> float:
        return self.deadline - time.monotonic()

    def _send(self, tokens: dict[str, str], may_call: dict[str, list[str]]) -> None:
        envelope = {
            "tokens": tokens, "may_call": may_call, "memory": self.box.limits.memory,
            "processes": PROCESSES if self.box.walls else 0,
        }  # fmt: skip
        path = self.box.folder / "work" / f".{secrets.token_hex(8)}"
        path.write_text(json.dumps(envelope), encoding="utf-8")
        os.environ["MIXER_LITE_ENVELOPE"] = str(path)

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
        done = super().preprocess_cell(cell, resources, index)
        if any(o.get("ename") == "CellTimeoutError" for o in cell.get("outputs", ())):
            seconds = self.box.limits.cell
            self.box.events.append(f"{_name(cell, index)} was stopped after {seconds} s")
        return done

    def _judge(self, cell: NotebookNode, tokens: dict[str, str]) -> None:
        marks, kept = [], []
        for output in cell.outputs:
            mark = output.get("data", {}).get(MIME)
            if mark is None:
                kept.append(output)
            elif _is_test(cell):
                try:
                    marks.append(json.loads(mark))
                except ValueError:
                    continue
        cell.outputs = kept
        if not _is_test(cell):
            return
        name = cell.metadata.nbgrader.grade_id
        for mark in marks:
            for note in mark.get("notes", ()):
                self.box.events.append(f"{name}: {str(note)[:1000]}")
        failed = any(output.output_type == "error" for output in cell.outputs)
        vouched = any(mark.get("token") == tokens[_key(cell)] for mark in marks)
        passed = vouched and not failed
        for output in cell.outputs:
            if output.output_type == "execute_result":  # nbgrader would read marks off it
                output.output_type = "display_data"
                output.pop("execution_count", None)
            if output.output_type == "stream" and passed:
                output.name = "stdout"  # a warning on stderr would cost all marks
        if not passed and not failed:
            cell.outputs.append(_error("NotGraded", "This test did not come to a result."))


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
    """Grade a submission in a course folder of its own, and write its feedback there."""
    box.install()
    BoxedExecute.box = box
    if box.walls:  # the box has no network, not even its own
        for manager in ("KernelManager", "AsyncKernelManager"):
            config[manager].transport = "ipc"
            config[manager].connection_file = str(box.folder / "runtime" / "kernel.json")
    config.Autograde.autograde_preprocessors = [
        BoxedExecute, IgnorePattern, ClearMetadataPreprocessor, LimitOutput, SaveAutoGrades,
        AssignLatePenalties, CheckCellMetadata,
    ]  # fmt: skip
    for kind in (Autograde, GenerateFeedback):
        run_converter(kind, config, assignment, student)
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
