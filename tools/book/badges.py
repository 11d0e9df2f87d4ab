"""What README and lessons say of the place of publication: python tools/book/badges.py.

From docs/site.toml: README's badges, and in each lesson the cell that installs the package where it
is missing, as on Colab. While the project has no place there are none of them.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import notebooks  # noqa: E402

INSTALL = "install"  # the id of the cell that installs
UNPUBLISHED = "OWNER/REPO"
START, END = "<!-- badges: python tools/book/badges.py -->", "<!-- end of badges -->"


def badges(site: dict[str, str]) -> str:
    """A line of badges; nothing while the project has no place."""
    where, branch, book = site["repository"], site["branch"], site["book"]
    if where == UNPUBLISHED:
        return ""
    host = f"https://github.com/{where}"
    first = f"{where}/blob/{branch}/notebooks/01_images_as_tokens.ipynb"
    links = [
        (f"{host}/actions/workflows/test.yml/badge.svg", "Tests", f"{host}/actions"),
        (
            "https://colab.research.google.com/assets/colab-badge.svg",
            "Open in Colab",
            f"https://colab.research.google.com/github/{first}",
        ),
        (
            "https://mybinder.org/badge_logo.svg",
            "Open in Binder",
            f"https://mybinder.org/v2/gh/{where}/{branch}?labpath=notebooks",
        ),
    ]
    line = " ".join(f"[![{alt}]({image})]({target})" for image, alt, target in links)
    return f"{line} [The book]({book})" if book else line


def fill(text: str, line: str) -> str:
    """The README with its badges, at their marks or under the title."""
    block = f"{START}\n{line}\n{END}" if line else f"{START}\n{END}"
    if START in text:
        return re.sub(f"{START}.*?{END}", lambda _: block, text, flags=re.DOTALL)
    title, rest = text.split("\n", 1)
    return f"{title}\n\n{block}\n{rest}"


def install(notebook: NotebookNode, site: dict[str, str]) -> NotebookNode:
    """The lesson with its installing cell after the title, or without one; nothing is run."""
    cells = [cell for cell in notebook.cells if cell.get("id") != INSTALL]
    where, branch = site["repository"], site["branch"]
    if where != UNPUBLISHED:
        source = f"""# Where Mixer Lite is not installed yet, as on Colab, this installs it.
import importlib.util
if importlib.util.find_spec("mixer_lite") is None:
    %pip install -q "mixer-lite @ git+https://github.com/{where}@{branch}\""""
        cells.insert(1, nbformat.v4.new_code_cell(source, id=INSTALL))
    return notebooks.normalise(NotebookNode({**notebook, "cells": cells}))


def main() -> None:
    """Write them."""
    site = tomllib.loads((ROOT / "docs" / "site.toml").read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    text = fill(readme.read_text(encoding="utf-8"), badges(site))
    readme.write_text(text, encoding="utf-8", newline="\n")
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        stored = nbformat.read(path, as_version=4)
        if (wanted := install(stored, site)) != notebooks.normalise(stored):
            nbformat.write(wanted, path)


if __name__ == "__main__":
    main()
