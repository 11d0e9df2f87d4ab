"""Images a second on a CPU, beside timm's eager MlpMixer: python tests/benchmarks/inference.py.

B/16 in float32 with random weights, head filled, on all cores. Each row adds one thing to the one
before, so that the table says what each buys. The ways of each round follow one another in one
process, and a figure is the median over rounds of a ratio to timm's time in the same round; the
last column is how far the logits are from the model's, as a share of the largest. Each setting of
malloc is a process of its own: glibc's own, and one that keeps memory instead of handing it back.
``--compile`` adds timm's model compiled with frozen weights (needs a C++ compiler, takes a minute).
``--agreement`` prints what 8 bits change in the predictions of the bundled models. With
``--blocks 2`` a quarter of an hour becomes a few minutes, and ratios stay about the same.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from timm.models.mlp_mixer import MlpMixer as TimmMixer
from torch import Tensor, nn

import mixer_lite as ml
from mixer_lite import fast
from mixer_lite._support.machine import keep_memory
from mixer_lite.training.measures import normalize
from mixer_lite.weights.checkpoints import to_timm_state_dict


def models(name: str, blocks: int | None) -> tuple[TimmMixer, ml.MlpMixer]:
    """timm's and ours, with the same random weights everywhere."""
    torch.manual_seed(0)
    ours = ml.create_model(name, **({"num_blocks": blocks} if blocks else {})).eval()
    for key, p in ours.named_parameters():
        if p.ndim == 1:  # biases, and LayerNorms around one
            nn.init.normal_(p, mean=float("norm" in key and "weight" in key), std=0.1)
    nn.init.normal_(ours.head.weight, std=0.05)
    timms = TimmMixer(
        num_classes=1000, img_size=224, patch_size=ours.patch_size, num_blocks=ours.num_blocks,
        embed_dim=ours.hidden_dim,
    ).eval()  # fmt: skip
    timms.load_state_dict(to_timm_state_dict(ours))
    return timms, ours


def chunks(model: nn.Module, images: Tensor) -> Tensor:
    """Four images at a time, all cores in every operation."""
    return torch.cat([model(four) for four in images.split(4)])


def parts(model: nn.Module, images: Tensor) -> Tensor:
    """Four images or fewer on a core, each core by itself."""
    cores = torch.get_num_threads()

    @torch.inference_mode()
    def run(part: Tensor) -> Tensor:
        return model(part)

    with ThreadPoolExecutor(cores, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        count = min(len(images), cores * -(-len(images) // (4 * cores)))
        out = torch.cat(list(pool.map(run, images.tensor_split(count))))
    torch.set_num_threads(cores)
    return out


def without_onednn(model: ml.MlpMixer, images: Tensor) -> Tensor:
    """Ours, block by block, without the weights laid out again."""
    fast.ONEDNN, kept = False, fast.ONEDNN
    try:
        return fast.logits(model, images)
    finally:
        fast.ONEDNN = kept


@torch.inference_mode()
def speed(batch: int, rounds: int, blocks: int | None, compiled: bool) -> None:
    """Print one table."""
    timms, ours = models("mixer_b16_224", blocks)
    eight = fast.quantize(ours) if torch.cpu._is_vnni_supported() else None
    x = torch.randn(batch, 3, 224, 224)
    ways: dict[str, Callable[[], Tensor]] = {
        "timm, eager": lambda: timms(x),
        "model(images)": lambda: ours(x),
        "+ chunks of 4": lambda: chunks(ours, x),
        "+ one thread a chunk": lambda: parts(ours, x),
        "+ block by block, in place": lambda: without_onednn(ours, x),
        "+ oneDNN: predict, evaluate": lambda: fast.logits(ours, x),
    }
    if eight:
        ways["8 bits: predict, evaluate"] = lambda: fast.logits(eight, x)
    if compiled:
        os.environ["TORCHINDUCTOR_FREEZING"] = "1"
        quick = torch.compile(timms)
        ways["timm, compiled and frozen"] = lambda: quick(x)
    wanted = ours(x)
    error = {
        k: ((way() - wanted).abs().max() / wanted.abs().max()).item() for k, way in ways.items()
    }
    seconds: dict[str, list[float]] = {k: [] for k in ways}
    for _ in range(rounds):
        for k, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[k].append(time.perf_counter() - start)
    for k, times in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(seconds["timm, eager"], times, strict=True))
        print(
            f"{k:28s} {batch:5d} {batch / statistics.median(times):9.2f} {ratio:9.2f} "
            f"{error[k]:9.0e}",
            flush=True,
        )


@torch.inference_mode()
def agreement() -> None:
    """Print what 8 bits change in the predictions of trained models."""
    from mixer_lite.datasets import cifar10, cifar10_sample

    data = cifar10()
    sets = {"bundled slice": cifar10_sample(), "test set": (data.test_images, data.test_labels)}
    print(f"{'':36s} images   same top-1   float32    8 bits   largest change of a logit")
    for name in ("mixer_nano_cifar10", "mixer_grid16_cifar10"):
        model = ml.load_pretrained(name).eval()
        assert model.config
        eight = fast.quantize(model)
        for which, (images, labels) in sets.items():
            pixels = normalize(images, model.config.mean, model.config.std).split(100)
            a, b = (torch.cat([fast.logits(m, x) for x in pixels]) for m in (model, eight))
            same, right, right_8 = (
                (p == q).float().mean().item()
                for p, q in (
                    (a.argmax(1), b.argmax(1)),
                    (a.argmax(1), labels),
                    (b.argmax(1), labels),
                )
            )
            print(
                f"{name:21s} {which:14s} {len(labels):6d} {same:12.2%} {right:9.2%} {right_8:9.2%} "
                f"{(a - b).abs().max():7.2f} of {a.abs().max():.1f}",
                flush=True,
            )


def main() -> None:
    """Print the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--blocks", type=int, help="fewer than the twelve of B/16")
    for flag in ("--compile", "--agreement"):
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--malloc", choices=("own", "kept"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    again = [sys.executable, __file__, *sys.argv[1:]]
    if args.agreement:
        agreement()
    elif args.malloc:
        if args.malloc == "kept":
            keep_memory()
        for batch in args.batches:
            speed(batch, args.rounds, args.blocks, args.compile)
    else:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
        for malloc in ("own", "kept"):
            load = f", load average {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
            print(f"\nmalloc: {malloc}{load}\n{'':28s} batch  images/s   to timm     error")
            sys.stdout.flush()
            subprocess.run([*again, "--malloc", malloc], check=True)


if __name__ == "__main__":
    main()
