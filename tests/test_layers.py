"""The rooms of the house: who may import whom."""

import ast
import re
import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_everybody_imports_only_from_lower_layers():
    tool = Path(sysconfig.get_path("scripts")) / "lint-imports"
    command = [tool, "--config", "pyproject.toml", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kept, 0 broken" in done.stdout


def test_underscored_names_stay_in_their_folder():
    crossing = []
    for path in sorted((ROOT / "mixer_lite").rglob("*.py")):
        room = path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for module, names in re.findall(
            r"from (mixer_lite[\w.]*) import (\([^)]*\)|[^\n]*)", path.read_text(encoding="utf-8")
        ):
            private = [n for n in re.findall(r"\w+", names) if n.startswith("_")]
            if [n for n in private if n != "_support"] and not module.startswith(room + "."):
                crossing.append(f"{path.relative_to(ROOT)}: {private} of {module}")
    assert not crossing


def test_files_and_functions_are_short_enough_to_read():
    long = []
    for path in sorted((ROOT / "mixer_lite").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        long += [f"{path.name}: {source.count(chr(10))}"] * (source.count("\n") > 500)
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.FunctionDef):
                continue
            # The settings of a training are a table, one a line.
            first = node.body[0].lineno if node.name == "train" else node.lineno
            lines = (node.end_lineno or 0) - first + 1
            long += [f"{path.name}, {node.name}: {lines}"] * (lines > 60)
    assert not long


def test_what_you_can_type_is_what_you_see():
    top = [p for p in (ROOT / "mixer_lite").iterdir() if p.name not in ("__pycache__", "py.typed")]
    assert len(top) <= 20
