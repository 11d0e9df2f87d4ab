"""Draw the course's map, whole and lesson by lesson: ``python tools/course_map.py``.

One drawing of a Mixer from the photograph to its answer. ``notebooks/maps/course.svg`` has all
of it in colour; ``lesson_01.svg`` to ``lesson_04.svg`` colour what the lesson is about.
"""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

import mixer_lite as ml

MAPS = Path(__file__).resolve().parents[1] / "notebooks" / "maps"

WIDTH, HEIGHT = 860, 214
TOP, SIDE = 66, 84  # of every station, in pixels
# The stem, mixing tokens, mixing channels, the head.
GREEN, ORANGE, BLUE, PINK = "#009e73", "#d95f02", "#0072b2", "#b8508f"
PALE, INK = "#c9ced6", "#3b424d"

PHOTO, PATCHES, TABLE, COLUMNS, ROWS, MEAN, ANSWER = range(7)
LESSONS = {
    "course": ("a photograph becomes an answer", set(range(7))),
    "lesson_01": ("today: photograph, patches, table", {PHOTO, PATCHES, TABLE}),
    "lesson_02": ("today: mixing along columns, mixing along rows", {TABLE, COLUMNS, ROWS}),
    "lesson_03": ("today: the whole network", {PATCHES, TABLE, COLUMNS, ROWS, MEAN}),
    "lesson_04": ("today: trained weights, and the answer", {PHOTO, MEAN, ANSWER}),
}


def text(x: float, y: float, words: str, colour: str = INK, size: int = 13, **more: str) -> str:
    """A line of text, centred at ``x``."""
    style = "".join(f' {name.replace("_", "-")}="{value}"' for name, value in more.items())
    return (
        f'<text x="{x:g}" y="{y:g}" fill="{colour}" font-size="{size}" text-anchor="middle"'
        f"{style}>{words}</text>"
    )


def box(x: float, y: float, width: float, height: float, fill: str, line: str = "none") -> str:
    """A rectangle."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" fill="{fill}" '
        f'stroke="{line}"/>'
    )


def arrow(x: float, width: float = 24) -> str:
    """An arrow to the right at half the stations' height, ``width`` pixels long."""
    y = TOP + SIDE / 2
    end = x + width
    return f'<path d="M{x:g} {y:g}H{end:g}m-6-5l6 5l-6 5" fill="none" stroke="{INK}"/>'


def picture(x: float, y: float, pixels: np.ndarray, side: float, lit: bool) -> str:
    """A square image, pale unless ``lit``."""
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "JPEG", quality=80)
    link = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
    faint = "" if lit else ' opacity="0.3"'
    return f'<image x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" href="{link}"{faint}/>'


def table(x: float, band: str, colours: list[str], lit: bool) -> str:
    """A table of 8 tokens and 6 channels: cells in bands along its ``"rows"`` or ``"columns"``."""
    parts = []
    for row in range(8):
        for column in range(6):
            k = row if band == "rows" else column
            fill = colours[k % len(colours)] if lit else ["#e7eaee", "#f1f3f5"][k % 2]
            parts.append(box(x + 11 * column, TOP + 10.5 * row, 10, 9.5, fill))
    return "".join(parts)


def shades(colour: str) -> list[str]:
    """The colour, and the same half way to white."""
    whole = [int(colour[k : k + 2], 16) for k in (1, 3, 5)]
    return [colour, "#" + "".join(f"{(value + 255) // 2:02x}" for value in whole)]


def under(x: float, number: int, name: str, note: str, colour: str, lit: set[int]) -> str:
    """A station's name and what happens there, below it."""
    on = number in lit
    return text(x, 172, name, colour if on else "#8a929d", 14, font_weight="bold") + text(
        x, 190, note, INK if on else "#8a929d", 12
    )


def draw(title: str, lit: set[int]) -> str:
    """The map as SVG, the stations in ``lit`` coloured."""
    photo = ImageOps.fit(ml.images.photo("cat"), (128, 128))
    pixels = np.array(photo)
    parts = [text(WIDTH / 2, 24, title, INK, 16)]

    parts += [picture(16, TOP, pixels, SIDE, PHOTO in lit), arrow(106)]
    for row in range(4):
        for column in range(4):
            patch = pixels[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
            x, y = 138 + 22.5 * column, TOP - 3 + 22.5 * row
            parts.append(picture(x, y, patch, 20, PATCHES in lit))
    parts += [arrow(234), table(268, "rows", [GREEN, shades(GREEN)[1]], TABLE in lit), arrow(340)]

    # The block, which repeats.
    edge = INK if {COLUMNS, ROWS} & lit else PALE
    parts.append(
        f'<rect x="372" y="44" width="228" height="152" rx="10" fill="none" stroke="{edge}" '
        f'stroke-dasharray="5 4"/>'
    )
    parts += [text(486, 59, "a block, N times", edge if edge == INK else "#8a929d", 12)]
    parts += [table(394, "columns", shades(ORANGE), COLUMNS in lit), arrow(470, 32)]
    parts += [table(514, "rows", shades(BLUE), ROWS in lit), arrow(606)]

    on = MEAN in lit
    for column in range(6):
        fill = shades(PINK)[column % 2] if on else ["#e7eaee", "#f1f3f5"][column % 2]
        parts.append(box(642 + 11 * column, TOP + SIDE / 2 - 5, 10, 9.5, fill))
    parts.append(arrow(716))
    on = ANSWER in lit
    parts.append(text(796, TOP + SIDE / 2 + 9, "“cat”", PINK if on else "#8a929d", 30))

    parts += [
        under(58, PHOTO, "photograph", "h × w × 3", GREEN, lit),
        under(181, PATCHES, "patches", "cut, flatten", GREEN, lit),
        under(301, TABLE, "table X", "S × C", GREEN, lit),
        under(427, COLUMNS, "columns", "mix tokens", ORANGE, lit),
        under(547, ROWS, "rows", "mix channels", BLUE, lit),
        under(675, MEAN, "mean", "over tokens", PINK, lit),
        under(796, ANSWER, "answer", "linear head", PINK, lit),
    ]
    says = "A Mixer: photograph, patches, table, blocks that mix columns and rows, mean, answer."
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" role="img" font-family="Helvetica, Arial, sans-serif">'
        f"<title>{says}</title>{box(0, 0, WIDTH, HEIGHT, 'white')}{''.join(parts)}</svg>\n"
    )


if __name__ == "__main__":
    MAPS.mkdir(exist_ok=True)
    for name, (title, lit) in LESSONS.items():
        path = MAPS / f"{name}.svg"
        path.write_text(draw(title, lit), encoding="utf-8")
        print(path.relative_to(MAPS.parents[1]), f"{path.stat().st_size / 1000:.0f} KB")
