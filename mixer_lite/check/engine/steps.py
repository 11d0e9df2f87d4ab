"""Help in steps: what a report shows of a mistake, first, next and last."""

from __future__ import annotations

SYMPTOM, NAME, CURE = 1, 2, 3


class _Setting:
    level = 0


def help_level(level: int | None = None) -> int:
    """Set how much the reports of all checks show, and give it; without an argument, only give it.

    Args:
        level: 1 for how a mistake shows (numbers and a picture), 2 for its name too, 3 for what it
            is and what to do as well. 0, the start, goes through these in steps: a step further
            with each report of the same mistake, and with each :func:`hint`.

    Whatever the level, a report's ``finding`` holds everything, and ``require()`` raises it.

    Raises:
        ValueError: it is none of these.
    """
    if level is not None:
        if level not in (0, SYMPTOM, NAME, CURE):
            raise ValueError(f"help_level is 0, 1, 2 or 3, not {level!r}: 0 is in steps.")
        _Setting.level = level
    return _Setting.level
