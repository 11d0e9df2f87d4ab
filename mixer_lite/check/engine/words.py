"""The words of the checks, in ``words/*.toml``: to be read, corrected and translated there.

Each check has a section in the file of its lesson. ``[NAME.mistakes]`` says each mistake of its
table; what a section does not have is looked up in the section named by its ``like``, and then
in ``common.toml``. ``{words in braces}`` are filled in with the sizes of the trial.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "words"


@functools.cache
def of(file: str) -> dict[str, Any]:
    """All words of ``words/FILE.toml``."""
    return tomllib.loads((FOLDER / f"{file}.toml").read_text(encoding="utf-8"))


def first(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]


def _sections(file: str, check: str) -> Iterator[dict[str, Any]]:
    name = check
    while name in of(file):
        section = of(file)[name]
        yield section
        name = section.get("like", "")
        if "." in name:  # in the file of another lesson: "lesson2.modules"
            file, _, name = name.partition(".")
    yield of("common")


def look_up(file: str, check: str, kind: str, key: str = "") -> Any:
    """What stands at ``[check.kind] key`` (or ``[check] kind``), or ``None``.

    A mistake with several wordings has keys ``"name: which"``, and ``"name: which, where"`` one
    for each place where it can be made; the nearest that has words is taken. Text where a table
    might stand serves every key.
    """
    for name in dict.fromkeys((key, key.partition(",")[0], key.partition(":")[0])):
        for section in _sections(file, check):
            found = section.get(kind)
            found = found.get(name) if name and isinstance(found, dict) else found
            if found is not None:
                return found
    return None
