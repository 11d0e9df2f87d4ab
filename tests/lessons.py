"""What a lesson's run must give, wherever it runs: in a bare kernel or in JupyterLab."""

import copy
import importlib.util
import re
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parents[1]
_spec = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools" / "notebooks.py")
tool = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(tool)

COURSE = tool.find([])


def with_answers(path: Path) -> NotebookNode:
    """A lesson with the code of its folded answers in cells at the end."""
    lesson = copy.deepcopy(tool.read(path))
    texts = [cell.source for cell in lesson.cells if cell.cell_type == "markdown"]
    folded = re.findall(r"<details>.*?</details>", "\n".join(texts), re.DOTALL)
    answers = re.findall(r"```python\n(.*?)```", "\n".join(folded), re.DOTALL)
    assert len(answers) >= 2, "a lesson has two exercises with answers, or more"
    lesson.cells += [new_code_cell(code) for code in answers]
    return lesson


def check_run(path: Path, ran: NotebookNode, pictures: bool) -> None:
    """The stored lesson is in order, a run of it with its answers gives the same, answers work."""
    stored = tool.read(path)
    assert tool.faults(stored) == []
    assert nbformat.writes(tool.normalise(stored)) == nbformat.writes(stored), "not normalised"
    fresh = tool.normalise(ran)
    tried = fresh.cells[len(stored.cells) :]
    del fresh.cells[len(stored.cells) :]
    assert tool.faults(fresh) == []
    assert tool.differences(stored, fresh, pictures) == []
    assert all(cell.execution_count for cell in tried)
    assert [(c.source, o) for c in tried for o in c.outputs if o.output_type == "error"] == []
