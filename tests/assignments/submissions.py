"""Submissions of assignment A1, honest and otherwise, made from the student version."""

from __future__ import annotations

import copy
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "notebooks" / "assignments" / "source"


def name_of(cell: NotebookNode) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def solutions(assignment: str) -> dict[str, str]:
    """The answers in an assignment's source, by cell."""
    notebook = nbformat.read(SOURCE / assignment / f"{assignment}.ipynb", as_version=4)
    return {
        name_of(cell): re.sub(r".*### (BEGIN|END) SOLUTION\n?", "", cell.source)
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }


def grade_cells(assignment: str) -> dict[str, str]:
    """An assignment's grade cells of code, with the hidden tests, by cell."""
    notebook = nbformat.read(SOURCE / assignment / f"{assignment}.ipynb", as_version=4)
    return {
        name_of(cell): cell.source
        for cell in notebook.cells
        if cell.metadata.get("nbgrader", {}).get("grade") and cell.cell_type == "code"
    }


def submit(
    path: Path,
    student: str,
    released: NotebookNode,
    answers: dict[str, str],
    change: Callable[[NotebookNode], None] | None = None,
) -> None:
    """Write a submission with these answers in place of the cells to be filled in."""
    notebook = copy.deepcopy(released)
    for cell in notebook.cells:
        cell.source = answers.get(name_of(cell), cell.source)
        if cell.source == 'STUDENT = ""':
            cell.source = f'STUDENT = "{student}"'
    if change:
        change(notebook)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


# Answers that are wrong, or not the student's own, by question.

HALF = {
    "unpatchify": """
def unpatchify(patches, patch_size, grid):
    gh, gw = grid
    pattern = "b (gw gh) (c p1 p2) -> b c (gh p1) (gw p2)"
    return rearrange(patches, pattern, gh=gh, gw=gw, p1=patch_size, p2=patch_size)
""",
    "count": "num_tokens = 1\nnumbers_per_patch = 3 * patch_size**2\nembedding_parameters = 0.5",
    "embedding_kernel": """
def embedding_kernel(weight, patch_size):
    return rearrange(weight, "C (c p1 p2) -> C c p2 p1", p1=patch_size, p2=patch_size)
""",
    "explain": "*Your answer here.*",
}

CRASH = {
    "patchify": "import a_module_that_nobody_has",
    "unpatchify": "import os\n\nos._exit(3)",
    "embedding_kernel": """
def embedding_kernel(weight, patch_size):
    import os

    os._exit(0)
""",
}
MEMORY = "kept = []\nwhile True:\n    kept.append(torch.ones(50_000_000))"

ENDLESS = {
    "unpatchify": "while True:\n    pass",
    "embedding_kernel": """
def embedding_kernel(weight, patch_size):
    while True:
        pass
""",
}

# The tools that judge are changed: the check, PyTorch, Python.
TAMPER = {
    "patchify": """
import builtins

from mixer_lite.check.engine import trial

check.patchify = lambda *a, **k: type("R", (), {"require": lambda self: self})()
trial.nearly_equal = lambda *a, **k: True
trial.Trial.same = lambda *a, **k: None
trial.abs = lambda x: 0
torch.equal = torch.allclose = lambda *a, **k: True
torch.Tensor.equal = torch.Tensor.__eq__ = lambda *a: True
builtins.all = builtins.bool = lambda x: True
AssertionError = Warning


def patchify(images, patch_size):
    print("\\u2713 patchify: right. 4 of 4 points")
    return images
""",
    "unpatchify": """
class Yes(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if any(word in str(function) for word in ("equal", "close", "eq", "all")):
            return True
        return super().__torch_function__(function, types, args, kwargs or {})


def unpatchify(patches, patch_size, grid):
    b, s, n = patches.shape
    c = n // patch_size**2
    size = (b, c, grid[0] * patch_size, grid[1] * patch_size)
    return torch.zeros(size).as_subclass(Yes)
""",
    "count": """
class Whatever(int):
    def __eq__(self, other):
        return True


num_tokens = numbers_per_patch = Whatever(1)
embedding_parameters = 3 * patch_size**2 * hidden_dim + hidden_dim
""",
    "patch_embedding": """
def patch_embedding(images, weight, bias, patch_size):
    trial.nearly_equal = lambda *a, **k: True
    (b, c, h, w), p = images.shape, patch_size
    return images.new_zeros(b, h * w // p**2, len(bias))
""",
    "embedding_kernel": """
import sys


def embedding_kernel(weight, patch_size):
    frame = sys._getframe()
    while frame:
        for value in list(frame.f_locals.values()):
            if isinstance(value, torch.Tensor) and value.ndim == 4:
                return value
        frame = frame.f_back
""",
}

# Somebody else does the work, or the visible test's numbers are learned by heart.
BORROW = {
    "patchify": """
def patchify(images, patch_size):
    b, c, h, w = images.shape
    sizes = dict(image_size=(h, w), patch_size=patch_size, in_channels=c, num_classes=0)
    widths = dict(num_blocks=1, hidden_dim=1, tokens_mlp_dim=1, channels_mlp_dim=1)
    return getattr(ml, "Mlp" + "Mixer")(**sizes, **widths).patchify(images)
""",
    "unpatchify": "from mixer_lite.explain import shuffle_patches as unpatchify",
    "patch_embedding": """
from timm.layers import PatchEmbed


def patch_embedding(images, weight, bias, patch_size):
    b, c, h, w = images.shape
    layer = PatchEmbed((h, w), patch_size, c, len(bias))
    layer.proj.weight.data = weight.reshape(-1, c, patch_size, patch_size)
    layer.proj.bias.data = bias
    return layer(images)
""",
    "embedding_kernel": """
def embedding_kernel(weight, patch_size):
    torch.manual_seed(0)
    return torch.randn(6, 3, 4, 4)
""",
}

# Solutions and tests are looked for on the disk, the gradebook in the neighbourhood.
DISK = """
import glob
import os
import socket

found = [p for p in glob.glob(ROOT + "/**/*.ipynb", recursive=True)]
for place in (GRADED, SUBMISSIONS, ".."):
    found += [p for p in glob.glob(place + "/**/*", recursive=True)]
texts = [open(p, errors="replace").read() for p in found if os.path.isfile(p)]
told = [word for word in ("BEGIN SOLUTION", "HIDDEN", "SQLite") if word in "".join(texts)]
reached = []
for place in (ROOT + "/mixer_lite/x.py", GRADED + "/x", os.path.expanduser("~/x")):
    try:
        open(place, "w").close()
        reached.append(place)
    except OSError:
        pass
try:
    socket.create_connection(("192.0.2.1", 80), timeout=2)
    reached.append("network")
except OSError as error:
    reached.append(type(error).__name__ + str(error.errno))
print("FOUND", told, "REACHED", len(reached), reached[-1])
"""

BLANK = "get_ipython().input_transformers_cleanup.append(lambda lines: [])\n"


def shuffle_cells(notebook: NotebookNode) -> None:
    """Delete, double and edit what is locked."""
    kept = []
    for cell in notebook.cells:
        nbgrader = cell.metadata.get("nbgrader", {})
        if name_of(cell) == "test_unpatchify":
            continue
        if name_of(cell) == "test_patchify":
            for _ in range(2):
                twin = copy.deepcopy(cell)
                twin.source, twin.id = "pass", nbformat.v4.new_code_cell().id
                kept.append(twin)
        if nbgrader.get("grade") and cell.cell_type == "code":
            cell.source = "1000"
            nbgrader.update(points=1000, solution=True, locked=False)
        kept.append(cell)
    notebook.cells = kept


# What was found among them.


def zipped(**files) -> bytes:
    """A zip that holds these files."""
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return held.getvalue()


def graded(result) -> dict[tuple[str, str], str]:
    """The file that is graded, by student and assignment."""
    return {(s.student, s.assignment): s.called for s in result.submissions}


def students(result) -> list[str]:
    """Everybody who was found, with or without a notebook."""
    return sorted({s.student for s in result.submissions} | {name for name, _, _ in result.named})
