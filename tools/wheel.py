"""Puts the web book into a wheel, where it was built (hatchling calls this)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BookHook(BuildHookInterface):
    """The folder that ``make book`` wrote, or the one that ``MIXER_LITE_BOOK`` names."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the book's files; its notebooks are in every wheel, in the same place."""
        book = Path(os.environ.get("MIXER_LITE_BOOK", Path(self.root, "book")))
        if version == "editable" or not (book / "index.html").is_file():
            return
        for path in book.rglob("*"):
            name = path.relative_to(book)
            if path.is_file() and name.parts[0] != "notebooks":
                build_data["force_include"][str(path)] = f"mixer_lite/_book/{name.as_posix()}"
