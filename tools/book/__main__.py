"""Build the web book: python tools/book [folder].

Static files, from the committed notebooks with their stored outputs: nothing is run but what draws
the model cards' pictures. The folder (``book/`` by default) loads nothing from any other host, and
opens from a disk as from a server.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before PyTorch: all is small here

import explorers
import lessons
import nbformat
from sphinx.cmd.build import build_main

import pages

ROOT = Path(__file__).resolve().parents[2]
DOCS, NOTEBOOKS = ROOT / "docs", ROOT / "notebooks"
UNPUBLISHED = "OWNER/REPO"


def site() -> dict[str, Any]:
    """What ``docs/site.toml`` says of the place of publication."""
    return tomllib.loads((DOCS / "site.toml").read_text(encoding="utf-8"))


def bar(name: str, place: dict[str, Any]) -> str:
    """The line under a lesson's title: where to get it, and how to run it."""
    items = [f'<a href="../notebooks/{name}.ipynb" download>Download this notebook</a>']
    if place["repository"] != UNPUBLISHED:
        where, branch = place["repository"], place["branch"]
        path = f"notebooks/{name}.ipynb"
        items += [
            f"[Open in Colab](https://colab.research.google.com/github/{where}/blob/{branch}/{path})",
            f"[Open in Binder](https://mybinder.org/v2/gh/{where}/{branch}?labpath={path})",
        ]
    items.append("To change and run its code, [install the course](../start.md).")
    return ":::{div} lesson-bar\n" + " · ".join(items) + "\n:::\n"


def stage(source: Path) -> None:
    """All that Sphinx reads, in one folder."""
    shutil.copytree(DOCS, source, dirs_exist_ok=True)
    for path in NOTEBOOKS.glob("*.ipynb"):  # to download as they are
        (source / "extra" / "notebooks").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, source / "extra" / "notebooks")
    shutil.copytree(NOTEBOOKS / "maps", source / "lessons" / "maps")
    places = explorers.write_all(source / "_static" / "explorers", DOCS / "states")
    for path in source.rglob("*.md"):
        up = "../" * (len(path.relative_to(source).parts) - 1)
        text = path.read_text(encoding="utf-8")
        path.write_text(explorers.fill(text, places, up), encoding="utf-8")
    place = site()
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        states = {p.stem.split("-", 1)[1]: p for p in (DOCS / "states").glob(f"{path.stem}-*")}
        page = lessons.page(notebook, states, bar(path.stem, place))
        lessons.write(page, source / "lessons" / path.name)
    pages.write_all(source)
    pages.pictures(source / "reference")


def accessible(page: str) -> str:
    """A page whose captions say how deep they are, and whose code and tables scroll with keys."""
    page = page.replace(
        'class="caption" role="heading"', 'class="caption" role="heading" aria-level="2"'
    )
    page = page.replace('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper')
    return page.replace("<pre>", '<pre tabindex="0">')


def build(out: Path) -> int:
    """Make the book in a folder, in place of what is there; 0 where it could be made."""
    with tempfile.TemporaryDirectory() as folder:
        source, made = Path(folder, "source"), Path(folder, "book")
        stage(source)
        os.environ["MIXER_LITE_BOOK_TOOLS"] = str(Path(__file__).parent)
        status = build_main(["-q", str(source), str(made)])
        for path in made.rglob("*.html"):
            path.write_text(accessible(path.read_text(encoding="utf-8")), encoding="utf-8")
        for leftover in (".doctrees", ".buildinfo", "objects.inv.bak"):
            with contextlib.suppress(FileNotFoundError):
                path = made / leftover
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if out.exists():
            shutil.rmtree(out)
        shutil.copytree(made, out)
    return status


def main(arguments: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "book")
    folder = parser.parse_args(arguments).folder.resolve()
    if folder.exists() and any(folder.iterdir()) and not (folder / "searchindex.js").exists():
        parser.error(f"{folder} is not empty and holds no book: name another folder.")
    start = time.perf_counter()
    status = build(folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
    print(f"{folder / 'index.html'}: {size:.1f} MB in {time.perf_counter() - start:.0f} s")
    return status


if __name__ == "__main__":
    sys.exit(main())
