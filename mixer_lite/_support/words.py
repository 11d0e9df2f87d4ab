"""Sentences: what an error says, which name was meant, a line on the screen."""

from __future__ import annotations

import difflib
import sys
import textwrap
from collections.abc import Iterable


def did_you_mean(name: object, names: Iterable[str], otherwise: str) -> str:
    """The end of an error message: the most similar names, or else another sentence."""
    near = difflib.get_close_matches(str(name), list(names), n=3, cutoff=0.4)
    return f"Did you mean {' or '.join(near)}?" if near else otherwise


def foreign(text: object, width: int = 150) -> str:
    """Text from a file or a server for a message: printable, and not too long.

    Line ends, terminal escapes and halves of characters are written as Python writes them.
    """
    shown = str(text)
    shown = shown if len(shown) <= width else f"{shown[: width - 4]} ..."
    return shown if shown.isprintable() else repr(shown)


def listed(names: Iterable[object], most: int = 20) -> str:
    """The first of several such names for a message, and how many more there are."""
    shown = list(names)
    told = ", ".join(map(foreign, shown[:most]))
    return told if len(shown) <= most else f"{told} and {len(shown) - most:,} more"


def reason(error: BaseException, width: int = 150) -> str:
    """What an error says, on one line of at most so many characters."""
    text = textwrap.shorten(str(error) or type(error).__name__, width, placeholder=" ...")
    return foreign(text, width)


def say(sentence: str) -> None:
    """Print a sentence to stderr without breaking a progress bar."""
    from tqdm.auto import tqdm

    tqdm.write(sentence, file=sys.stderr)
