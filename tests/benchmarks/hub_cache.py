"""Time and memory of loading timm's weights from the hub's cache, beside timm's own loading.

    python tests/benchmarks/hub_cache.py            # B/16 and L/16, five rounds, alternating
    python tests/benchmarks/hub_cache.py b16 3      # one model, three rounds

The weights are random and lie in a cache of their own, removed at the end (1.1 GB for both). Each
loading is a process of its own, timed after its imports, with the network forbidden. The peak is
the growth of resident memory while loading (Linux; elsewhere it is not measured), as a multiple
of the weights; mapped pages of the file count. Aims: no more than 1.2 times timm's time, no more
than 1.3 times the weights.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = {m: f"mixer_{m}_224.goog_in21k_ft_in1k" for m in ("b16", "l16")}
COMMIT = "0" * 40


def fill(cache: Path, name: str) -> None:
    """A hub cache as the hub's client leaves it, with random weights."""
    import timm
    from safetensors.torch import save_file

    repo = cache / f"models--timm--{name}"
    snapshot = repo / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    model = timm.create_model(name.split(".")[0])
    save_file(model.state_dict(), snapshot / "model.safetensors")


def memory(field: str) -> int | None:
    """Resident memory now (VmRSS) or at its peak (VmHWM), in bytes."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    (line,) = (x for x in status.read_text().splitlines() if x.startswith(field))
    return int(line.split()[1]) * 1024


def child(who: str, name: str) -> None:
    import timm
    import timm.data  # with its class names: both load them
    import torch

    import mixer_lite as ml

    torch.ones(1)
    before = memory("VmRSS")
    if before:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts at what is used now
    began = time.perf_counter()
    if who == "timm":
        model = timm.create_model(name, pretrained=True).eval()
    else:
        model = ml.load_pretrained(name)
    seconds = time.perf_counter() - began
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    peak = (memory("VmHWM") - before) / size if before else None
    print(json.dumps([seconds, peak]))


def main(models: list[str], rounds: int) -> None:
    with tempfile.TemporaryDirectory(prefix="mixer-lite-") as folder:
        environment = os.environ | {"HF_HUB_CACHE": folder, "HF_HUB_OFFLINE": "1"}
        for model in models:
            name = NAMES[model]
            fill(Path(folder), name)
            results: dict[str, list[list[float]]] = {"timm": [], "ours": []}
            for i in range(2 * rounds):
                who = ("timm", "ours")[i % 2]
                command = [sys.executable, __file__, "--child", who, name]
                out = subprocess.run(command, env=environment, capture_output=True, check=True)
                results[who].append(json.loads(out.stdout.splitlines()[-1]))
            for who, measured in results.items():
                seconds = statistics.median(row[0] for row in measured)
                peak = max(row[1] or 0 for row in measured)
                print(f"{name:34} {who}: {seconds:.2f} s, peak {peak:.2f} times the weights")
            ratio = [a[0] / b[0] for a, b in zip(results["ours"], results["timm"], strict=True)]
            print(f"{'':34} ours / timm's time: {statistics.median(ratio):.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        chosen = [m for m in sys.argv[1:] if m in NAMES] or list(NAMES)
        main(chosen, next((int(a) for a in sys.argv[1:] if a.isdigit()), 5))
