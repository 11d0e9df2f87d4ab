"""The kernel that runs a submission: IPython's own, but it runs the grade cells itself.

A plain kernel gives a grade cell full marks when no error comes out of it, and a submission has
many ways to see to that: it can patch the check, torch or ``assert``, or make IPython skip cells.
So this kernel remembers, before the first cell of a submission runs, what every function of the
libraries was. It runs a grade cell outside IPython, after putting all that back, and it vouches
for a cell with a token, which the grader sends just before that cell is run, if

* the cell ran without an error,
* the answers were the submission's own: nothing of ``mixer_lite`` or ``timm`` does the work in
  their place, they did not look around in the process, and changed nothing in the libraries,
* and the same cell fails when nonsense stands in the place of every answer.

Python cannot be sealed within one process: somebody who knows the interpreter well can still take
this one over. ``tripwire`` tells the grader of the usual ways, before they are gone; after that no
test counts. What such an attempt looks like in the source is noted as well.
"""

from __future__ import annotations

import ast
import builtins
import functools
import gc
import hashlib
import importlib
import importlib.util
import inspect
import json
import os
import secrets
import socket
import sys
import sysconfig
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FrameType, FunctionType, ModuleType
from typing import Any

from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp

from limits import limit  # this file is run, not imported
from tripwire import set_tripwire

MIME = "application/x-mixer-lite-mark"
DOOR = "MIXER_LITE_DOOR"
NURSERY = "--nursery"

# What is put back before a grade cell runs, and the names that grade cells may rely on.
GUARDED = ("builtins", "torch", "numpy", "einops", "mixer_lite", "timm", "math", "random", "copy",
           "inspect", "operator", "functools", "itertools", "contextlib", "collections", "ast",
           "json", "time", "hashlib")  # fmt: skip
TRUSTED = {
    "check": "mixer_lite.check", "ml": "mixer_lite", "mixer_lite": "mixer_lite",
    "torch": "torch", "nn": "torch.nn", "np": "numpy", "einops": "einops", "math": "math",
    "random": "random", "bugs": "mixer_lite.bugs",
}  # fmt: skip
# Modules of PyTorch that change themselves while one works.
RESTLESS = ("torch.compiler", "torch._dynamo", "torch._inductor", "torch.fx", "torch.distributed",
            "torch._functorch")  # fmt: skip
METHODS = (FunctionType, property, staticmethod, classmethod)
PACKAGES = ("mixer_lite", "timm")
# An answer that calls one of these looks for the check, not for the answer.
REFLECTION = (
    sys._getframe, sys.settrace, sys.setprofile, gc.get_objects, gc.get_referrers, gc.get_referents,
    os._exit,
)  # fmt: skip


PROFILE, PROFILE_THREADS = sys.setprofile, threading.setprofile
# A name for the compiled grade cells that a student's code cannot have.
GRADE_CELL = f"<grade cell {secrets.token_hex(8)}>"
# Where code lies that belongs to no submission.
LIBRARIES = tuple(
    str(Path(p).resolve())
    for p in {sys.prefix, sys.base_prefix, *sysconfig.get_paths().values(), Path(__file__).parent}
)


FOLDERS = {
    str(Path(folder)) + os.sep: name
    for name in PACKAGES
    if (spec := importlib.util.find_spec(name))
    for folder in spec.submodule_search_locations or ()
}


class NotOwnWork(AssertionError):
    """An answer leaves its work to somebody else's code."""


def _names(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    # (owner, name, value): the functions and classes of a module, and the methods of its classes.
    warnings.simplefilter("ignore", FutureWarning)  # from looking at deprecated names
    for name, value in list(vars(module).items()):
        if callable(value) or isinstance(value, ModuleType):
            yield module, name, value
        if isinstance(value, type) and value.__module__.split(".")[0] in GUARDED:
            for attribute, method in list(vars(value).items()):
                if isinstance(method, METHODS):
                    yield value, attribute, method


class Snapshot:
    """What the functions of the guarded libraries are now, to be put back later."""

    def __init__(self) -> None:
        self.kept: dict[tuple[int, str], tuple[Any, str, Any]] = {}
        self.bodies: dict[int, tuple[FunctionType, CodeType, Any, Any]] = {}
        self.owners: dict[int, tuple[Any, set[str]]] = {}
        for key, module in list(sys.modules.items()):
            guarded = key.split(".")[0] in GUARDED and not key.startswith(RESTLESS)
            if guarded and isinstance(module, ModuleType):
                for owner, name, value in _names(module):
                    self.kept[id(owner), name] = owner, name, value
                    if id(owner) not in self.owners:
                        self.owners[id(owner)] = owner, set(vars(owner))
                    if isinstance(value, FunctionType):
                        body = value.__code__, value.__defaults__, value.__kwdefaults__
                        self.bodies[id(value)] = value, *body
        # The tools of the repair itself, out of reach of code that changes builtins.
        self.set, self.delete, self.vars, self.shadowing = (
            setattr,
            delattr,
            vars,
            set(dir(builtins)),
        )

    def restore(self) -> list[str]:
        """Put everything back; the names of what had been changed."""
        changed = []
        for owner, name, value in self.kept.values():
            new = self.vars(owner).get(name)
            if new is not value and not _wrapped_by_torch(new, value):
                self.set(owner, name, value)
                changed.append(_called(owner, name))
        for owner, names in self.owners.values():
            # A new method hides an inherited one, a new name in a module one of Python's own.
            for name in [n for n in self.vars(owner) if n not in names]:
                value = self.vars(owner)[name]
                if isinstance(owner, ModuleType):
                    hides = name in self.shadowing
                else:
                    inherited = getattr(super(owner, owner), name, None)
                    hides = not _wrapped_by_torch(value, inherited)
                if hides and isinstance(value, METHODS):
                    self.delete(owner, name)
                    changed.append(_called(owner, name))
        for function, code, defaults, keywords in self.bodies.values():
            if function.__code__ is not code or function.__defaults__ is not defaults:
                function.__code__, function.__defaults__ = code, defaults
                function.__kwdefaults__ = keywords
                changed.append(f"{function.__module__}.{function.__qualname__}")
        return changed


def _wrapped_by_torch(new: Any, old: Any) -> bool:
    # PyTorch wraps a few of its functions, torch.manual_seed for one, when it first needs them.
    path = new.__code__.co_filename if isinstance(new, FunctionType) else ""
    same = isinstance(old, FunctionType) and hasattr(new, "__wrapped__")
    return f"{os.sep}torch{os.sep}" in path and same and inspect.unwrap(new) is inspect.unwrap(old)


def _called(owner: Any, name: str) -> str:
    module = "" if isinstance(owner, ModuleType) else owner.__module__
    return ".".join(filter(None, [module, owner.__name__, name]))


class Witness:
    """Watches the calls that an answer makes, while a grade cell runs.

    Args:
        allowed: files of the packages that this cell lets an answer call.
    """

    def __init__(self, allowed: tuple[str, ...] = ()) -> None:
        self.allowed = allowed
        self.seen: list[str] = []

    def _package(self, path: str) -> str:
        return "" if os.path.basename(path) in self.allowed else _package(path)

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """What Python calls at every call of a function."""
        if event == "c_call":
            if isinstance(arg, BuiltinFunctionType) and arg in REFLECTION and _theirs(frame):
                self.seen.append(f"calls {arg.__module__}.{arg.__name__}")
        elif event == "call" and (package := self._package(frame.f_code.co_filename)):
            name, caller = frame.f_code.co_name, frame.f_back
            if _is_check(frame):  # what a check hands to an answer may be called through PyTorch
                if caller and _theirs(caller) and not name.startswith("__"):
                    self.seen.append(f"calls the check's {name}")
                return
            # The nearest caller that is neither Python's nor PyTorch's.
            while caller and not _theirs(caller) and not _package(caller.f_code.co_filename):
                caller = caller.f_back
            # A module's __getattr__ hands a name out; using what it stands for is told by itself.
            if caller and _theirs(caller) and frame.f_code.co_qualname != "__getattr__":
                self.seen.append(f"calls {package}'s own {frame.f_code.co_qualname}")

    def __enter__(self) -> Witness:
        PROFILE_THREADS(self)
        PROFILE(self)
        return self

    def __exit__(self, *_: object) -> None:
        PROFILE(None)
        PROFILE_THREADS(None)


@functools.cache
def _package(path: str) -> str:
    # Which of the packages that are not to do the work a file belongs to; "" for none.
    return next((name for folder, name in FOLDERS.items() if path.startswith(folder)), "")


@functools.cache
def _library(path: str) -> bool:
    return path.startswith("<frozen") or path.startswith(LIBRARIES)


def _theirs(frame: FrameType) -> bool:
    # Whether a frame runs a submission's code: in a cell, in a file beside it, or through exec().
    path = frame.f_code.co_filename
    if path.startswith("<") and not path.startswith("<frozen"):
        home = str(frame.f_globals.get("__name__"))
        return path != GRADE_CELL and home.split(".")[0] in ("__main__", "None", "builtins")
    return not _library(path) and not _package(path)


def _is_check(frame: FrameType) -> bool:
    return f"mixer_lite{os.sep}check{os.sep}" in frame.f_code.co_filename


def _borrowed(answer: Any) -> str:
    # The package that an answer comes from, or is made of; "" if from none.
    while hasattr(answer, "func") or hasattr(answer, "__wrapped__") or hasattr(answer, "__func__"):
        answer = next(
            getattr(answer, n) for n in ("func", "__wrapped__", "__func__") if hasattr(answer, n)
        )
    kinds = answer.__mro__ if isinstance(answer, type) else (answer, *type(answer).__mro__)
    for kind in kinds:
        package = (getattr(kind, "__module__", None) or "").split(".")[0]
        if package in PACKAGES:
            return package
    return ""


def _nonsense(*_: Any, **__: Any) -> None:
    return None


def prepare() -> tuple[dict[str, ModuleType], Snapshot]:
    """The modules that grade cells rely on, and what their functions are before a submission."""
    trusted = {name: importlib.import_module(m) for name, m in TRUSTED.items()}
    importlib.import_module("mixer_lite.figures")  # checks would import it later
    return trusted, Snapshot()


class Examiner:
    """Runs grade cells.

    Args:
        may_call: by the key of a grade cell, the files of the packages that an answer may call.
        next_token: gives the key of a grade cell that is to be run now, and its token.
        prepared: what :func:`prepare` gave; ``None``: now.
    """

    def __init__(
        self,
        may_call: dict[str, list[str]],
        next_token: Callable[[], tuple[str, str]],
        prepared: tuple[dict[str, ModuleType], Snapshot] | None = None,
    ) -> None:
        self.may_call, self.next_token = may_call, next_token
        self.trusted, self.snapshot = prepared or prepare()
        self.compile, self.exec, self.eval = compile, exec, eval
        self.builtins = dict(vars(builtins))

    def key(self, code: str) -> str:
        """The name under which a grade cell is known."""
        return hashlib.sha256(code.strip().encode()).hexdigest()

    def examine(self, code: str, theirs: dict[str, Any], notes: list[str]) -> tuple[str, Any]:
        """Run a grade cell with a submission's names.

        Args:
            code: of the cell.
            theirs: the names.
            notes: what is noticed on the way is added to these.

        Returns:
            The token, and the value of the cell's last line.

        Raises:
            BaseException: whatever the cell raises, or :class:`NotOwnWork`.
        """
        if changed := self.snapshot.restore():
            notes.append(f"{', '.join(changed)} had been changed")
        key, token = self.next_token()
        if key != self.key(code):
            raise NotOwnWork("This test was called out of its turn.")
        tree = ast.parse(code)
        used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
        answers = {n: theirs[n] for n in used if n in theirs and n not in self.trusted}
        # `def f` in a module of one's own is an answer; a module or a type of a library is none.
        answers = {n: v for n, v in answers.items() if not isinstance(v, ModuleType)}
        borrowed = next(filter(None, map(_borrowed, answers.values())), "")
        if borrowed:
            raise NotOwnWork(f"This answer is {borrowed}'s own code; it has to be yours.")
        with Witness(tuple(self.may_call.get(key, ()))) as witness:
            value = self._run(tree, {**theirs, **self.trusted})
        if changed := self.snapshot.restore():
            raise NotOwnWork(f"This answer changes {', '.join(changed)} when it is tested.")
        if witness.seen:
            calls = " and ".join([*dict.fromkeys(witness.seen)][:2])
            raise NotOwnWork(f"This answer {calls}; it has to do the work itself.")
        if answers and self._accepts_nonsense(tree, theirs, answers):
            raise NotOwnWork("The test of this cell does not work any more: it passes nonsense.")
        return token, value

    def _accepts_nonsense(self, tree: ast.Module, theirs: dict, answers: dict) -> bool:
        wrong = {name: _nonsense if callable(v) else None for name, v in answers.items()}
        try:
            self._run(tree, {**theirs, **wrong, **self.trusted})
        except Exception:
            return False
        return True

    def _run(self, tree: ast.Module, names: dict[str, Any]) -> Any:
        names = {**names, "__builtins__": dict(self.builtins)}
        *body, last = tree.body
        if not isinstance(last, ast.Expr):
            body, last = tree.body, None
        self.exec(self.compile(ast.Module(body, []), GRADE_CELL, "exec"), names)
        if last is None:
            return None
        return self.eval(self.compile(ast.Expression(last.value), GRADE_CELL, "eval"), names)


def _kernel_class(examiner: Examiner) -> type[IPythonKernel]:
    class ExaminingKernel(IPythonKernel):
        async def do_execute(self, code: str, silent: bool, *args: Any, **kwargs: Any) -> Any:
            if examiner.key(code) not in examiner.may_call:
                return await super().do_execute(code, silent, *args, **kwargs)
            self.shell.execution_count += 1
            count = self.shell.execution_count
            reply: dict[str, Any] = {
                "execution_count": count,
                "user_expressions": {},
                "payload": [],
            }
            notes: list[str] = []
            try:
                token, value = examiner.examine(code, dict(self.shell.user_ns), notes)
            except BaseException as error:
                notes += [str(error)] if isinstance(error, NotOwnWork) else []
                shown = _shown(error)
                content = {"ename": type(error).__name__, "evalue": str(error), "traceback": shown}
                self._tell("error", content)
                self._mark({"notes": notes})
                return {**reply, **content, "status": "error"}
            if (page := getattr(value, "_repr_html_", None)) is not None:
                data = {"text/plain": str(value), "text/html": page()}
                self._tell("display_data", {"data": data, "metadata": {}})
            self._mark({"token": token, "notes": notes})
            return {**reply, "status": "ok"}

        def _mark(self, mark: dict[str, Any]) -> None:
            self._tell("display_data", {"data": {MIME: json.dumps(mark)}, "metadata": {}})

        def _tell(self, kind: str, content: dict[str, Any]) -> None:
            sys.stdout.flush()
            sys.stderr.flush()
            self.send_response(self.iopub_socket, kind, content)

    return ExaminingKernel


class QuietApp(IPKernelApp):
    """The program around the kernel, which usually tells how to connect to it."""

    def log_connection_info(self) -> None:
        """Nobody else is to connect."""


def _shown(error: BaseException) -> list[str]:
    if isinstance(error, AssertionError) and str(error):
        return [str(error)]
    lines = traceback.format_exception_only(error)
    return [line.rstrip("\n") for line in lines]


def _in_nursery() -> tuple[dict[str, ModuleType], Snapshot]:
    # Loads everything, and returns in each kernel that is forked.
    global GRADE_CELL
    prepared = prepare()
    sys.argv[1:] = importlib.import_module("nursery").serve()
    for name in ("nursery", "box"):
        del sys.modules[name]
    GRADE_CELL = f"<grade cell {secrets.token_hex(8)}>"
    return prepared


def main() -> None:
    """Read what the grader sends, serve, and shut the door before a submission's code runs."""
    prepared = _in_nursery() if sys.argv[1:] == [NURSERY] else prepare()
    letters, bell = os.fdopen(os.dup(0), "rb", buffering=0), os.dup(1)
    for standard in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), standard)

    def letter() -> Any:
        return json.loads(letters.readline())

    envelope = letter()
    examiner = Examiner(envelope["may_call"], letter, prepared)
    limit(envelope["memory"], envelope["processes"])
    app = QuietApp.instance(kernel_class=_kernel_class(examiner))
    app.initialize()
    if number := os.environ.pop(DOOR, ""):
        with socket.socket(fileno=int(number)) as door:
            door.send(b".")
            if not door.recv(1):
                os._exit(1)
    set_tripwire(bell, _theirs, type(app.shell))
    app.start()


if __name__ == "__main__":
    main()
