"""Make what notebook 07 shows of its experiments.

    python tools/experiments.py --seeds 0 1 2

trains every network of ``mixer_lite.experiments.RUNS`` on CIFAR-10, once a seed, and writes a row
for each moment at which it was measured to data/experiments.csv, and the filters of some runs of
seed 0 to data/experiments_filters.safetensors. Stop it whenever you like: the same command
goes on with the runs that are missing. A run takes one to two minutes on two cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from mixer_lite._support.files import replaced
from mixer_lite._support.tables import Table
from mixer_lite.datasets import cifar10
from mixer_lite.experiments import RUNS, fit
from mixer_lite.model import MlpMixer
from mixer_lite.training.measures import token_weights

DATA = Path(__file__).resolve().parents[1] / "data"
COLUMNS = (
    "run", "seed", "step", "images", "parameters", "loss", "accuracy", "test_images",
    "smoothness", "variety", "processor_seconds",
)  # fmt: skip


def _place(row: Mapping[str, str]) -> tuple[int, int, int]:
    # In the order of the list, then of seeds and steps.
    return list(RUNS).index(row["run"]), int(row["seed"]), int(row["step"])


def keep_filters(path: Path, run: str, model: MlpMixer) -> None:
    """Add the run's first token-mixing matrices, ``(L, D_S, S)``."""
    from safetensors.torch import load_file, save

    kept = load_file(path) if path.exists() else {}
    kept[run] = token_weights(model)["fc1"]
    with replaced(path) as file:
        file.write(save(kept))


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
    table = Table(args.table, COLUMNS, key=("run", "seed", "step"))
    data = cifar10()
    for seed in args.seeds:
        for run in args.runs:
            if table.has(run=run, seed=seed):
                continue
            net, rows = fit(run, seed, data, progress=False)
            if RUNS[run].keep and seed == 0:  # notebook 07 sorts them by this seed's permutation
                assert isinstance(net, MlpMixer)
                keep_filters(args.filters, run, net)
            table.put([dict(run=run, seed=seed, **row) for row in rows], order=_place)
            print(f"{run}, seed {seed}: {rows[-1]['accuracy']:.2%}", flush=True)


if __name__ == "__main__":
    main()
