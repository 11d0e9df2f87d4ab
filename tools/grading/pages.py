"""A student's text in sentences, tables and notebooks, without what could act on its own."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import bleach
from bleach.css_sanitizer import CSSSanitizer
from nbformat import NotebookNode

PICTURES = ("image/png", "image/jpeg")
PICTURE_FILES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
# Kinds of pictures, and how their files begin.
KINDS = {"image/png": b"\x89PNG", "image/jpeg": b"\xff\xd8\xff", "image/gif": b"GIF8",
         "image/webp": b"RIFF"}  # fmt: skip
BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
TAGS = ("b", "br", "code", "details", "div", "em", "i", "img", "li", "ol", "p", "pre", "span",
        "strong", "summary", "table", "tbody", "td", "th", "thead", "tr", "ul")  # fmt: skip
STYLES = ("border", "border-left", "color", "background-color", "font-family", "font-size",
          "font-weight", "margin", "max-height", "max-width", "opacity", "overflow", "padding",
          "text-align", "white-space", "width", "height")  # fmt: skip
PICTURE = re.compile(r"data:image/(png|jpeg|webp|gif);base64,[A-Za-z0-9+/=\s]*")
LEADS = re.compile(
    r"\((https?://[\w./~#?=%+-]*|[\w./-]+\.(png|jpe?g|gif|webp)|"
    r"attachment:picture-\d+\.(png|jpeg|gif|webp))\)"
)
# What opens a tag, and what gives a formula an address or a style.
OPENS, ACTS = re.compile(r"<(?=[A-Za-z/!?])"), re.compile(r"\\(href|url|style|class|cssId|require)")


def one_line(text: object, most: int = 200) -> str:
    """Foreign text on one line, printable and no longer than so many characters."""
    shown = "".join(c if c.isprintable() else " " if c.isspace() else repr(c)[1:-1]
                    for c in str(text)[: most + 1])  # fmt: skip
    return shown if len(shown) <= most else f"{shown[: most - 4]} ..."


def name_from(folder: str) -> str:
    """A student's name from the name of a file or folder: what is no plain text is written %1B."""
    return "".join(
        c if c.isprintable() and c not in '<>"`%\\/'
        else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogateescape"))
        for c in folder
    )  # fmt: skip


def no_formula(value: object) -> object:
    """A cell of a table that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        try:
            float(value)
        except ValueError:
            return f"'{value}"
    return value


def defuse_table(path: Path) -> None:
    """Write a table of somebody else's again, without formulas."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [[no_formula(value) for value in row] for row in csv.reader(file)]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)


def clean_markdown(text: str) -> str:
    """Markdown in which nothing is HTML, and links lead to the web or to a picture beside it."""
    text = ACTS.sub(r"\1", OPENS.sub("< ", text))
    text = re.sub(r"\](?=\()", lambda m: "]" if LEADS.match(text, m.end()) else "] ", text)
    return text.replace("]:", "] :")  # where an address is given for several links


def _may_stand(tag: str, name: str, value: str) -> bool:
    if name in ("style", "alt", "open", "title"):
        return True
    return tag == "img" and name == "src" and bool(PICTURE.fullmatch(value))


def clean_html(text: str) -> str:
    """HTML of a check's report: its words, colours and pictures alone."""
    clean = bleach.clean(
        text, tags=TAGS, attributes=_may_stand, protocols=["data"], strip=True,
        css_sanitizer=CSSSanitizer(allowed_css_properties=STYLES),
    )  # fmt: skip
    return ACTS.sub(r"\1", clean)


def clean_outputs(outputs: list[NotebookNode], examined: bool) -> list[NotebookNode]:
    """The outputs of a cell as they may be stored: text and pictures.

    Args:
        outputs: as the kernel gave them.
        examined: whether it is a test's cell: then also the check's report.
    """
    kept = []
    for output in outputs:
        if output.output_type == "stream":
            output.name = "stderr" if output.name == "stderr" else "stdout"
        elif output.output_type in ("display_data", "execute_result"):
            output.data = _clean_data(output.get("data", {}), examined)
            output.metadata = NotebookNode()
        elif output.output_type != "error":
            continue
        kept.append(output)
    return kept


def _clean_data(data: Any, examined: bool) -> NotebookNode:
    clean = NotebookNode()
    for kind in PICTURES:
        if isinstance(data.get(kind), str) and BASE64.fullmatch(data[kind]):
            clean[kind] = data[kind]
    if examined and isinstance(data.get("text/html"), str):
        clean["text/html"] = clean_html(data["text/html"])
    if isinstance(data.get("text/plain"), str):
        clean["text/plain"] = data["text/plain"]
    if not clean:
        clean["text/plain"] = "(an output of a kind that is not kept: text and pictures are)"
    return clean
