"""Sphinx extension: search results with excerpts, from a disk too.

Sphinx reads the excerpts out of the pages themselves, which browsers refuse to pages from a disk.
So the text of all pages goes into one script, and the search page reads that.
"""

from __future__ import annotations

import json
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

SILENT = ("script", "style", "svg")
VOID = ("img", "br", "hr", "input", "wbr", "meta", "link", "source", "col")


class Sections(HTMLParser):
    """Texts of a page: under "#id" that of each section and definition, under "" the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, list[str]] = defaultdict(list)
        self.open: list[tuple[str, str, bool]] = []  # tag, its name, whether it is silent

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Remember what opens."""
        if tag in VOID:
            return
        known = dict(attributes)
        silent = tag in SILENT or known.get("class") == "headerlink"
        name = f"#{known['id']}" if tag == "section" and known.get("id") else ""
        self.open.append((tag, name, silent))
        if tag == "dt" and known.get("id"):  # its text goes on in the dd that follows
            for k in range(len(self.open) - 1, -1, -1):
                if self.open[k][0] == "dl":
                    self.open[k] = ("dl", f"#{known['id']}", False)
                    break

    def handle_endtag(self, tag: str) -> None:
        """Forget what closes."""
        if any(tag == t for t, _, _ in self.open):
            while self.open.pop()[0] != tag:
                pass

    def handle_data(self, data: str) -> None:
        """Text, for the innermost that is open."""
        words = " ".join(data.split())
        if words and not any(silent for _, _, silent in self.open):
            name = next((name for _, name, _ in reversed(self.open) if name), "")
            self.texts[name].append(words)


def sections(body: str) -> dict[str, str]:
    """See :class:`Sections`."""
    parser = Sections()
    parser.feed(body)
    return {name: " ".join(words) for name, words in parser.texts.items()}


def _collect(app: Any, page: str, template: str, context: dict, doctree: Any) -> None:
    if doctree is not None and context.get("body"):
        app.mixer_lite_texts[page] = sections(context["body"])


def _write(app: Any, error: Exception | None) -> None:
    if error is None:
        texts = json.dumps(app.mixer_lite_texts, ensure_ascii=False)
        script = Path(app.outdir, "_static", "texts.js")
        script.write_text(f"window.bookTexts = {texts};\n", encoding="utf-8")


def setup(app: Any) -> dict[str, Any]:
    """Listen to each page and to the end."""
    app.mixer_lite_texts = {}
    app.connect("html-page-context", _collect)
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
