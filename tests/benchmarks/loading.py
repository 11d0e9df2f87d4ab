"""Memory and time to load checkpoints, beside timm: python tests/benchmarks/loading.py.

Every figure comes from a process of its own that has imported what it needs. Memory (Linux): how
far loading raises the process's largest resident memory, as a multiple of the weights' bytes,
for L/16 (208 M parameters, 833 MB). Time: medians for B/16 from a file that the system has in
its cache, the two loaders by turns. Random weights cost what trained ones do. Needs 4 GB of
memory and 5 GB of disk; close other programs first.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file

import mixer_lite as ml
from mixer_lite.weights.checkpoints import (
    to_google_npz,
    to_openmmlab_state_dict,
    to_timm_state_dict,
)

ROUNDS = 7

LOADER = """
import re, sys, time
import timm, torch
import mixer_lite as ml
from mixer_lite.datasets.imagenet import imagenet_names

most = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
who, name, path, tiny = sys.argv[1:]
imagenet_names(1000)
ml.load_checkpoint(tiny)
before, start = most(), time.perf_counter()
if who == "timm":
    model = timm.create_model(name, checkpoint_path=path)
else:
    model = ml.load_checkpoint(path)
print(time.perf_counter() - start, most() - before)
"""


def load(who: str, name: str, path: Path, tiny: Path) -> tuple[float, float]:
    """Seconds, and bytes by which the peak of memory rose."""
    done = subprocess.run(
        [sys.executable, "-c", LOADER, who, name, str(path), str(tiny)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    seconds, peak = done.stdout.split()[-2:]
    return float(seconds), float(peak)


def write(model: ml.MlpMixer, folder: Path) -> dict[str, Path]:
    """The same weights in every container; a file's name for timm ends in what it goes by."""
    paths = {
        "timm .safetensors": folder / "a.safetensors",
        "timm .pth": folder / "a.pth",
        "timm .pth, legacy": folder / "legacy.pth",
        "Google .npz": folder / "a.npz",
        "OpenMMLab .pth, float16": folder / "half.pth",
    }
    state = to_timm_state_dict(model)
    save_file(state, paths["timm .safetensors"])
    torch.save(state, paths["timm .pth"])
    torch.save(state, paths["timm .pth, legacy"], _use_new_zipfile_serialization=False)
    to_google_npz(model, paths["Google .npz"])
    half = {k: v.half() for k, v in to_openmmlab_state_dict(model).items()}
    torch.save({"meta": {}, "state_dict": half}, paths["OpenMMLab .pth, float16"])
    return paths


def main() -> None:
    """Print both tables."""
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny = folder / "tiny.safetensors"
        ml.save_checkpoint(ml.create_model("mixer_pico_cifar10"), tiny)
        if sys.platform == "linux":
            model = ml.create_model("mixer_l16_224")
            size = sum(p.nbytes for p in model.parameters())
            paths = write(model, folder)
            del model
            print(f"\n{'peak above imports / weights, L/16':40s} {'Mixer Lite':>11s} {'timm':>7s}")
            for kind, path in paths.items():
                ours = load("ours", "mixer_l16_224", path, tiny)[1] / size
                timms = (
                    f"{load('timm', 'mixer_l16_224', path, tiny)[1] / size:7.2f}"
                    if kind.startswith("timm")
                    else f"{'-':>7s}"
                )
                print(f"{kind:40s} {ours:11.2f} {timms}")
        paths = write(ml.create_model("mixer_b16_224"), folder)
        print(f"\n{f'median of {ROUNDS}, ms to load B/16':40s} {'Mixer Lite':>11s} {'timm':>7s}")
        for kind, path in paths.items():
            whose = ("ours", "timm") if kind.startswith("timm") else ("ours",)
            times: dict[str, list[float]] = {who: [] for who in whose}
            for _ in range(ROUNDS):
                for who in whose:
                    times[who].append(load(who, "mixer_b16_224", path, tiny)[0] * 1000)
            middle = {who: statistics.median(t) for who, t in times.items()}
            timms = f"{middle['timm']:7.0f}" if "timm" in middle else f"{'-':>7s}"
            print(f"{kind:40s} {middle['ours']:11.0f} {timms}")


if __name__ == "__main__":
    main()
