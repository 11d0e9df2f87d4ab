"""environment.yml and pyproject.toml agree, and what they ask for can be had together."""

import ast
import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
NEEDED = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = PROJECT["optional-dependencies"]


def needed_by(extra):
    """What an extra asks for, and what the project's own extras in it ask for."""
    for requirement in map(Requirement, EXTRAS[extra]):
        if requirement.name == PROJECT["name"]:
            for one in requirement.extras:
                yield from needed_by(one)
        else:
            yield requirement


FOR_DEVELOPMENT = list(needed_by("dev"))


def test_conda_takes_python_and_pip_and_pyproject_says_the_rest():
    assert set(ENVIRONMENT) == {"name", "channels", "dependencies"}
    assert ENVIRONMENT["name"] == PROJECT["name"]
    assert ENVIRONMENT["channels"] == ["conda-forge"]
    python, pip, from_pip = ENVIRONMENT["dependencies"]
    assert pip == "pip" and from_pip == {"pip": ["-e ."]}
    name, versions = python.split(" ")
    asked, allowed = SpecifierSet(versions), SpecifierSet(PROJECT["requires-python"])
    assert name == "python"
    assert [minor for minor in range(8, 20) if f"3.{minor}.1" in asked] == [11, 12, 13]
    assert all(f"3.{minor}.1" in allowed for minor in (11, 12, 13)) and "3.10.9" not in allowed


def test_what_is_installed_is_this_project_with_these_dependencies():
    installed = [Requirement(text) for text in metadata.requires(PROJECT["name"]) or []]
    plain = [requirement for requirement in installed if requirement.marker is None]
    assert {str(requirement) for requirement in plain} == {str(one) for one in NEEDED}


def test_pip_finds_nothing_left_to_install():
    # pip's resolver, allowed to see only what is installed: it fails on anything missing, too old
    # or in conflict, the dependencies' own dependencies included.
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-index", "--quiet"]
    command += ["--report", "-", *map(str, NEEDED)]
    # A machine's own caps on releases say nothing about ours.
    free = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
    free["PIP_CONFIG_FILE"] = os.devnull
    done = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", cwd=ROOT, env=free
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["install"] == []


@pytest.mark.parametrize("requirement", NEEDED + FOR_DEVELOPMENT, ids=lambda one: one.name)
def test_one_lower_bound_no_upper_one_and_installed(requirement):
    bounds = list(requirement.specifier)
    assert [bound.operator for bound in bounds] == [">="], requirement
    assert requirement.marker is None and requirement.url is None
    assert metadata.version(requirement.name) in requirement.specifier


def plain_name(name: str) -> str:
    return name.lower().replace("_", "-")


def test_every_import_comes_with_the_dependencies_or_an_extra():
    imported = set()
    for path in (ROOT / "mixer_lite").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add((node.module or "").split(".")[0])
    imported -= set(sys.stdlib_module_names) | {"mixer_lite"}
    extras = [*needed_by("opencv"), *needed_by("processes")]
    declared = {plain_name(requirement.name) for requirement in [*NEEDED, *extras]}
    of_module = metadata.packages_distributions()
    for module in imported:
        packages = {plain_name(name) for name in of_module[module]}
        assert packages & declared, f"mixer_lite needs {module}: pyproject.toml lacks it"
