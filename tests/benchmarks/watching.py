"""What watching costs the training, in a real JupyterLab: python tests/benchmarks/watching.py.

One run in which stretches of steps are watched and not watched in turn, the page open beside it;
prints the median over pairs of neighbouring stretches of watched : not watched, by the clock and
in seconds of processor time. Close other programs first, or trust the processor time alone.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

import lab as laboratory

MODEL, STRETCH, PAIRS = "mixer_nano_cifar10", 8, 10

CELL = """import statistics, time
import mixer_lite as ml
from dataclasses import replace
from mixer_lite.training.recipe import Recipe

STRETCH, PAIRS = {stretch}, {pairs}
images, labels = ml.datasets.cifar10_sample()
images, labels = images.repeat(100, 1, 1, 1), labels.repeat(100)  # as many as CIFAR-10 has
recipe = replace(Recipe(), epochs=3)
run = ml.watch_training("{model}", "run", images=images, labels=labels, recipe=recipe,
                        save_every=1e9, wait=False)
see, ends = run._run._see, []  # ends: clock and processor time after each step

def in_turn(moment):
    if (len(ends) - 1) // STRETCH % 2 == 0:  # the first step is warm-up
        see(moment)
    ends.append((time.perf_counter(), time.process_time()))
    if len(ends) == 2 * STRETCH * PAIRS + 1:
        run._run.ask_to_stop()

run._run._see = in_turn
run"""

TABLE = """run.wait()
def stretches(which):
    times = [end[which] for end in ends]
    steps = [b - a for a, b in zip(times, times[1:])]
    return [sum(steps[i : i + STRETCH]) for i in range(0, len(steps), STRETCH)]
for which, name in enumerate(("by the clock", "processor time")):
    sums = stretches(which)
    # A watched stretch over the mean of those before and after it, which drift along.
    ratios = [sums[i] / ((sums[i - 1] + sums[i + 1]) / 2) for i in range(2, len(sums) - 1, 2)]
    print(f"{name}: median {statistics.median(ratios):.4f}, from {min(ratios):.4f} to "
          f"{max(ratios):.4f} of {len(ratios)}; a step not watched "
          f"{statistics.median(sums[1::2]) / STRETCH:.3f} s")
looking, asking = run._looking, run._asking
print(f"by its own account: {100 * (looking.spent + asking.spent) / looking.earned:.2f} % "
      f"({len(run.history.frames)} snapshots, {len(run.history.accuracy)} times asked)")"""


def main(model: str = MODEL) -> None:
    """Start JupyterLab and the browser, train, print the table and keep it."""
    cell = CELL.format(model=model, stretch=STRETCH, pairs=PAIRS)
    with (
        tempfile.TemporaryDirectory() as folder,
        laboratory.chromium() as browser,
        laboratory.jupyterlab(Path(folder)) as lab,
        lab.notebook(browser, [cell, TABLE]) as page,
    ):
        page.set_default_timeout(3_600_000)
        page.run(0)
        page.locator(".training canvas.units").wait_for()
        text = page.run(1)
    load = "" if os.name == "nt" else f", load average {os.getloadavg()[0]:.1f}"
    text = f"{model}, {os.cpu_count()} cores{load}\n{text}"
    laboratory.ARTIFACTS.mkdir(exist_ok=True)
    laboratory.ARTIFACTS.joinpath("benchmark_watching.txt").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
