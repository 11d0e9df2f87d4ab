"""Pages of the book made from the project's own files: checks, cards, data, measurements."""

from __future__ import annotations

import csv
import inspect
import re
from collections import defaultdict
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "data"
MODELS = ("mixer_nano_cifar10", "mixer_grid16_cifar10")


def write_all(source: Path) -> None:
    """Write them into the sources that Sphinx reads."""
    reference = source / "reference"
    (reference / "checks.md").write_text(checks(), encoding="utf-8")
    (reference / "data.md").write_text(data(), encoding="utf-8")
    for name in MODELS:
        (reference / f"{name}.md").write_text(card(name), encoding="utf-8")
    path = reference / "measured.md"
    path.write_text(measured(path.read_text(encoding="utf-8")), encoding="utf-8")
    (source / "teach.md").write_text(teach(), encoding="utf-8")


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def checks() -> str:
    """All checks, with what they take and the first step of their help."""
    from mixer_lite import check
    from mixer_lite.check.engine.exercise import EXERCISES

    found = []
    for name in check.__all__:
        function = getattr(check, name)
        if not inspect.isfunction(function) or name in ("help_level", "hint", "progress"):
            continue
        help_ = ""
        if name in EXERCISES:  # a verdict on a mystery has no steps
            summary = "<summary>The first step of its help</summary>"
            help_ = f"\n\n<details>{summary}\n\n{check.hint(name)}\n\n</details>"
        found.append(f"""## `{name}`

```{{eval-rst}}
.. autofunction:: mixer_lite.check.{name}
```{help_}""")
    return f"""# Checks

Each check takes a function or a module of yours, tries it on random sizes, and says *right*, or
shows how it is wrong; the next report of the same mistake names it, and the one after says what to
do. `check.hint(name)` goes a step further at once, and has a few steps of its own, the first of
which is folded under each name here.

```{{eval-rst}}
.. autofunction:: mixer_lite.check.hint
.. autofunction:: mixer_lite.check.progress
.. autofunction:: mixer_lite.check.help_level
```

{(chr(10) * 2).join(found)}
"""


def data() -> str:
    """``data/README.md``; its digests, which matter to the tests, are folded away."""
    text = (DATA / "README.md").read_text(encoding="utf-8")
    lines = []
    for line in text.split("\n"):
        cells = line.split(" | ")
        if line.startswith("| ") and len(cells) == 4:
            name, _, source, licence = cells
            line = f"{name} | {source} | {licence}"
        elif line == "|---|---|---|---|":
            line = "|---|---|---|"
        lines.append(line)
    return "\n".join(lines)


def card(name: str) -> str:
    """A model card with pictures of its filters and answers."""
    text = (DATA / f"{name}.md").read_text(encoding="utf-8")
    title, rest = text.split("\n", 1)
    return f"""{title}

![What the token-mixing units of a block read]({name}_filters.png)

{rest}"""


def pictures(folder: Path) -> None:
    """The cards' pictures, drawn from the weights."""
    import mixer_lite as ml

    for name in MODELS:
        model = ml.load_pretrained(name)
        picture = ml.figures.plot_token_filters(ml.filters.token_filters(model, block=3))
        kind, data = picture.encode()
        assert kind == "image/png", kind
        (folder / f"{name}_filters.png").write_bytes(data)


def _rows(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def measured(text: str) -> str:
    """The page of measurements, its tables filled in from the files."""
    tables = {
        "%MODELS%": _models(), "%ABLATION%": _ablation(),
        "%EXPERIMENTS%": _experiments(), "%BUGS%": _bugs(),
    }  # fmt: skip
    for mark, filled in tables.items():
        text = text.replace(mark, filled)
    return text


def _models() -> str:
    facts = [dict(_card_rows(name)) for name in MODELS]
    rows = [f"| {key} | {facts[0][key]} | {facts[1][key]} |" for key in facts[0] if key in facts[1]]
    return "\n".join(rows)


def _card_rows(name: str) -> list[tuple[str, str]]:
    # The rows of the card's first table.
    text = (DATA / f"{name}.md").read_text(encoding="utf-8")
    first = re.search(r"\| measured[^\n]*\n\|[-|]+\|\n(.*?)\n\n", text, re.DOTALL)
    assert first, name
    cells = [line.strip("| ").split(" | ") for line in first[1].split("\n")]
    return [(key, value) for key, value in cells]


def _ablation() -> str:
    rows = [row for row in _rows("ablation.csv") if row["base"] == "lesson"]
    base = next(float(r["held_out_accuracy"]) for r in rows if r["variant"] == "recipe")
    cells = []
    for row in sorted(rows, key=lambda r: -float(r["held_out_accuracy"] or 0)):
        if not row["held_out_accuracy"]:
            cells.append([row["changes"], row["note"], "", "", ""])
            continue
        accuracy = float(row["held_out_accuracy"])
        change = "" if row["variant"] == "recipe" else f"{100 * (accuracy - base):+.1f}"
        cells.append([row["changes"], f"{accuracy:.1%}", change, row["smoothness"], row["variety"]])
    return table(["changed", "accuracy", "points", "smoothness", "variety"], cells)


def _experiments() -> str:
    from mixer_lite import experiments

    ends: dict[str, dict[str, float]] = defaultdict(dict)
    sizes = {}
    for row in _rows("experiments.csv"):
        if int(row["test_images"]) == 10_000:
            ends[row["run"]][row["seed"]] = float(row["accuracy"])
            sizes[row["run"]] = f"{int(row['parameters']):,}"
    cells = []
    for name in experiments.RUNS:
        if name in ends:
            found = list(ends[name].values())
            spread = f"{min(found):.1%} to {max(found):.1%}" if len(found) > 1 else "one seed"
            cells.append([f"`{name}`", sizes[name], f"{mean(found):.1%}", spread])
    return table(["run", "parameters", "accuracy", "seeds"], cells)


def _bugs() -> str:
    from mixer_lite import bugs

    both = bugs.costs(1), bugs.costs(5)
    cells = []
    for bug in range(len(bugs.BUGS) + 1):
        cells.append([f"bug {bug}" if bug else "healthy"])
        for costs in both:
            runs = costs[bug]
            change = mean(accuracy - costs[0][seed] for seed, accuracy in runs.items())
            points = f"{100 * change:+.1f}" if bug else ""
            cells[-1] += [f"{mean(runs.values()):.1%}", points, str(len(runs))]
    each = ["points", "seeds"]
    return table(["model", "one pass", *each, "five passes", *each], cells)


def teach() -> str:
    """The teacher's guide, with links that hold in the book."""
    text = (ROOT / "notebooks" / "assignments" / "README.md").read_text(encoding="utf-8")
    text = re.sub(r"\]\(\.\./(\d\d_\w+\.ipynb)\)", r"](lessons/\1)", text)
    text = text.replace("](../../docs/", "](")
    # Solutions and hidden tests stay in the repository.
    return re.sub(r"\[([^]]+)\]\((source/[^)]+|\.\./\.\./mixer_lite[^)]*)\)", r"\1", text)
