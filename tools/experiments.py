"""Make what notebook 07 shows of its experiments.

    python tools/experiments.py --seeds 0 1 2

trains every network of ``mixer_lite.experiments.RUNS`` on CIFAR-10, once a seed, and writes a row
for each moment at which it was measured to data/experiments.csv, and the filters of some runs of
the first seed to data/experiments_filters.safetensors. Stop it whenever you like: the same command
goes on with the runs that are missing. A run takes one to two minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

from mixer_lite.datasets import cifar10
from mixer_lite.experiments import RUNS, fit
from mixer_lite.measures import token_weights
from mixer_lite.model import MlpMixer

DATA = Path(__file__).resolve().parents[1] / "data"
COLUMNS = (
    "run", "seed", "step", "images", "parameters", "loss", "accuracy", "test_images",
    "smoothness", "variety", "processor_seconds",
)  # fmt: skip


def read(table: Path) -> list[dict[str, str]]:
    """The rows that are there."""
    if not table.exists():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(table: Path, rows: list[dict]) -> None:
    """All rows, in the order of the list, whole or not at all."""
    places = list(RUNS)
    rows = sorted(rows, key=lambda r: (places.index(r["run"]), int(r["seed"]), int(r["step"])))
    unfinished = table.with_suffix(".partial")
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(unfinished, table)


def keep_filters(path: Path, run: str, model: MlpMixer) -> None:
    """Add the run's first token-mixing matrices, ``(L, D_S, S)``."""
    from safetensors.torch import load_file, save_file

    kept = load_file(path) if path.exists() else {}
    kept[run] = token_weights(model)["fc1"]
    save_file(kept, path)


def main(argv: list[str] | None = None) -> None:
    """Run what is missing in the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS), metavar="NAME",
                        help=f"of {', '.join(RUNS)} (default: all)")  # fmt: skip
    parser.add_argument("--table", type=Path, default=DATA / "experiments.csv")
    parser.add_argument("--filters", type=Path, default=DATA / "experiments_filters.safetensors")
    args = parser.parse_args(argv)
    data = cifar10()
    for seed in args.seeds:
        for run in args.runs:
            if any(r["run"] == run and r["seed"] == str(seed) for r in read(args.table)):
                continue
            net, rows = fit(run, seed, data, progress=False)
            if RUNS[run].keep and seed == min(args.seeds):
                assert isinstance(net, MlpMixer)
                keep_filters(args.filters, run, net)
            named: list[dict] = [dict(run=run, seed=seed, **row) for row in rows]
            write(args.table, [*read(args.table), *named])
            print(f"{run}, seed {seed}: {rows[-1]['accuracy']:.2%}", flush=True)


if __name__ == "__main__":
    main()
