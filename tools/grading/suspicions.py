"""What in a submission is worth a teacher's look."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
from collections.abc import Iterator

from nbformat import NotebookNode
from nbgrader.utils import is_grade, is_locked

from frame import STUDENT
from pages import one_line

# What in the source of an answer is worth a teacher's look, and the words for it.
NOTICED = {
    r"\b(ml|mixer_lite)\b.*\b(MlpBlock|MixerBlock|MlpMixer|patchify)\b": "names the course's own "
    "Mixer",
    r"\btimm\b": "names timm",
    r"sys\.modules": "looks for modules in the interpreter",
    r"gradebook|nbgrader|sqlite3|HIDDEN|\.ipynb": "looks for the grading",
    r"os\._exit|os\.kill|subprocess|\bfork\b|os\.system": "ends or starts processes",
    r"\bsocket\b|\brequests\b|urllib|https?://": "names the network",
    r"^[ \t]*(torch|np|numpy|nn|F|builtins|check|ml|mixer_lite|einops)(\.\w+)+ *= *[^=]": "assigns "
    "to a library's names",
}


# Names by which code gets at the interpreter or at its own surroundings: wherever they stand; as
# modules and attributes (a variable may be called gc); and as a plain name alone (model.eval()).
INTERPRETER = frozenset(
    "CodeType FunctionType IPython PyDLL _ctypes _current_frames _getframe addaudithook ag_frame "
    "attrgetter cloudpickle cr_frame ctypes ctypeslib currentframe f_back f_builtins f_globals "
    "f_locals get_ipython get_objects get_referents get_referrers getframeinfo getsource gi_frame "
    "importlib input_transformers_cleanup input_transformers_post ipykernel jupyter_client memmove "
    "methodcaller pythonapi setprofile settrace tb_frame traitlets walk_stack walk_tb zmq".split()
)
MODULES = frozenset("cProfile cffi codeop dill doctest faulthandler gc imp inspect marshal pdb "
                    "pickle pkgutil pydoc runpy tracemalloc".split())  # fmt: skip
BARE = frozenset("__import__ breakpoint compile eval exec globals vars".split())
ACCESS = ("getattr", "setattr", "delattr")
HONEST = frozenset(
    "init call len getitem setitem iter next repr str name class post_init eq add sub mul matmul "
    "truediv neg enter exit doc main all version file contains hash lt le gt ge bool int float "
    "future annotations".split()
)
MAGIC = re.compile(r"^[ \t]*%%?(matplotlib|time|timeit|config|precision)\b.*$", re.M)


def answers(notebook: NotebookNode) -> Iterator[str]:
    """The code that is the student's own."""
    for cell in notebook.cells:
        if cell.cell_type == "code" and not (is_grade(cell) or is_locked(cell)):
            yield cell.source


def suspicions(notebook: NotebookNode, student: str, helpers: list[str]) -> Iterator[str]:
    """What in a submission is worth a teacher's look: one short sentence each.

    Nothing here costs marks: honest code may do some of these things.

    Args:
        notebook: the submission.
        student: whose it is.
        helpers: the text of Python files beside it.
    """
    own = list(answers(notebook))
    code = "\n".join([*own, *helpers])
    for pattern, words in NOTICED.items():
        if found := re.search(pattern, code, re.M):
            line = code[: found.start()].count("\n")
            yield f"the code {words}: {one_line(code.split(chr(10))[line].strip(), 80)}"
    for text in [*own, *helpers]:
        if line := looks_inside(text):
            yield f"the code looks into the interpreter: {one_line(line.strip(), 80)}"
            break
    named = STUDENT.search(code)
    if named and not _alike(named[1], student):
        yield f'STUDENT is "{one_line(named[1], 40)}" in the notebook of {student}'


def _alike(name: str, student: str) -> bool:
    # Platforms write a user's name in several ways: benfox, foxben, "Ben Fox", "Fox, Ben (4412)".
    plain = ["".join(filter(str.isalnum, text.lower())) for text in (name, student)]
    words = re.findall(r"[^\W\d_]{3,}", student.lower())
    known = len(words) > 1 and any(plain[0].startswith(w) or plain[0].endswith(w) for w in words)
    return sorted(plain[0]) == sorted(plain[1]) or known


def looks_inside(code: str) -> str:
    """The first line of code that gets at the interpreter or hides what it names; else empty."""
    code = MAGIC.sub("", code)
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        words = "|".join(sorted(INTERPRETER | MODULES))
        found = re.search(rf"\b({words})\b", code)
        return code[: found.start()].split("\n")[-1] + found[0] if found else ""
    with contextlib.suppress(RecursionError):
        nodes = list(ast.walk(tree))
        bound = set(map(_bound, nodes))
        called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
        for node in nodes:
            if any(_named(node)) or any(_unexplained(node, bound, called)):
                return code.split("\n")[getattr(node, "lineno", 1) - 1] or "(no text)"
    return ""


def _named(node: ast.AST) -> Iterator[str]:
    # What of these names, or of others between underscores, a piece of syntax uses.
    named: list[str] = []
    if isinstance(node, ast.Name):
        named = [node.id]
        yield from BARE & {node.id}
    elif isinstance(node, ast.Attribute):
        named = [node.attr]
        yield from MODULES & {node.attr}
    elif isinstance(node, ast.MatchClass):
        named = node.kwd_attrs
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        named = [node.value]  # as in getattr(module, "name")
    elif isinstance(node, ast.Import | ast.ImportFrom):
        source = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        named = ".".join([*source, *(alias.name for alias in node.names)]).split(".")
        yield from MODULES & set(named)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id in ACCESS and len(node.args) > 1:
            if not isinstance(node.args[1], ast.Constant):
                yield node.func.id  # with a name that is put together as it runs
    for name in named:
        dunder = name.startswith("__") and name.endswith("__") and name.isidentifier()
        if name in INTERPRETER or (dunder and name[2:-2] not in HONEST):
            yield name


def _unexplained(node: ast.AST, bound: set[str], called: set[int]) -> Iterator[str]:
    # A module that this code neither imports nor makes a variable of (`from x import *` did), and
    # getattr() under another name.
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
        if node.id in ACCESS and id(node) not in called:
            yield node.id
        if node.id in MODULES - bound:
            yield node.id


def _bound(node: ast.AST) -> str:
    # The name that a piece of syntax gives a value to.
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        return node.id
    return node.arg if isinstance(node, ast.arg) else ""


def fingerprint(notebook: NotebookNode, released: NotebookNode) -> str:
    """The code of the answers without comments and layout; empty where nothing was written."""
    texts = []
    for code in (answers(notebook), answers(released)):
        source = re.sub(STUDENT, "", "\n".join(code))
        try:
            texts.append(ast.dump(ast.parse(source)))
        except (SyntaxError, ValueError, RecursionError):
            texts.append(source)
    return "" if texts[0] == texts[1] else hashlib.sha256(texts[0].encode()).hexdigest()
