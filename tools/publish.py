"""Turn a finished training run into the bundled weights and their model card.

    python tools/publish.py runs/mixer_nano_cifar10 "where and how long it trained"

Writes data/NAME{.safetensors,.json,.md,_log.csv}, and NAME_snapshots.safetensors where it is small
enough to come with the project; measures the written file once on all 10,000 test images, and puts
its sha256 where it is checked. A run that started from the bundled weights goes on with their log,
snapshots and card.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import mixer_lite as ml
from mixer_lite.measures import accuracy, filter_figures, normalize
from mixer_lite.predict import logits
from mixer_lite.recipe import RECIPES, Recipe
from mixer_lite.runs import read_table, write_table
from mixer_lite.train import fingerprint

ROOT = Path(__file__).resolve().parents[1]
MAX_SNAPSHOTS = 3_000_000  # bytes


def main(run: Path, machine: str) -> None:
    """Publish one run."""
    data = ROOT / "data"
    torch.set_num_threads(2)
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    name, recipe = checkpoint["identity"]["name"], checkpoint["identity"]["recipe"]
    epochs_done = len(checkpoint["state"]["log"])
    if epochs_done != recipe["epochs"]:
        raise SystemExit(f"{run} is not finished: {epochs_done} epochs are done.")
    if checkpoint["identity"]["holdout"]:
        raise SystemExit(f"{run} held images out: what is published learns from all of them.")
    cifar = ml.datasets.cifar10()  # before anything is written
    weights, kept = data / f"{name}.safetensors", data / f"{name}_snapshots.safetensors"
    log, snapshots = read_table(run / "log.csv"), load_file(run / "snapshots.safetensors")
    trained = dict(
        recipe=recipe,
        seed=checkpoint["identity"]["seed"],
        bfloat16=checkpoint["identity"]["bfloat16"],
        machine=machine,
        training_hours=round(sum(float(row["seconds"]) for row in log) / 3600, 2),
        torch=torch.__version__.split("+")[0],
    )
    earlier: list[dict] = []
    if start := checkpoint["identity"].get("start"):
        if start != fingerprint(ml.load_checkpoint(weights)):
            raise SystemExit(
                f"{run} did not start from what is now in {weights}: restore data/ by git if it "
                f"was published before."
            )
        old = json.loads((data / f"{name}.json").read_text(encoding="utf-8"))
        earlier = [*old.get("earlier", []), {key: old[key] for key in trained}]
        earlier[-1]["test_accuracy"] = old["test_accuracy"]
        log = _after(read_table(data / f"{name}_log.csv"), log)
        # Without the first run's there is no whole story to tell.
        snapshots = _joined(load_file(kept), snapshots) if kept.exists() else {}

    full = ml.load_checkpoint(run / "weights.safetensors")
    ml.save_checkpoint(full, weights, dtype=torch.float16)
    write_table(data / f"{name}_log.csv", log, list(log[-1]))
    kept.unlink(missing_ok=True)
    if snapshots and sum(tensor.nbytes for tensor in snapshots.values()) <= MAX_SNAPSHOTS:
        save_file(snapshots, kept)

    model = ml.load_checkpoint(weights)
    out = logits(model, cifar.test_images, batch_size=250)
    guess = out.argmax(1)
    exact = logits(full, cifar.test_images, batch_size=250)
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    confusion.index_put_((cifar.test_labels, guess), torch.tensor(1), accumulate=True)
    assert model.config is not None
    some = torch.arange(0, len(cifar.train_images), 10)  # every tenth training image, as it is
    seen = normalize(cifar.train_images[some], model.config.mean, model.config.std)
    images, labels = ml.datasets.cifar10_sample()
    on_slice = (logits(model, images, batch_size=250).argmax(1) == labels).float().mean().item()
    smooth, varied = filter_figures(model)
    card = dict(
        name=name,
        parameters=sum(p.numel() for p in model.parameters()),
        test_accuracy=round((guess == cifar.test_labels).float().mean().item(), 4),
        slice_accuracy=round(on_slice, 4),
        training_accuracy=round(accuracy(model, seen, cifar.train_labels[some]), 4),
        half_precision=dict(
            largest_logit_change=round((out - exact).abs().max().item(), 5),
            predictions_changed=int((guess != exact.argmax(1)).sum()),
        ),
        smoothness=[round(v, 4) for v in smooth],
        variety=[round(v, 4) for v in varied],
        confusion=confusion.tolist(),
        **trained,
        **(dict(earlier=earlier) if earlier else {}),
    )
    (data / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (data / f"{name}.md").write_text(_markdown(card, log, model), encoding="utf-8")
    _register(data, name)
    print(f"test accuracy {card['test_accuracy']:.2%}, "
          f"smoothness {_mean(smooth):.3f}, variety {_mean(varied):.3f}")  # fmt: skip


def _after(old: list[dict[str, str]], new: list[dict[str, str]]) -> list[dict[str, str]]:
    """Both logs as one, whose epochs and steps go on."""
    epochs, steps = (int(old[-1][key]) for key in ("epoch", "steps"))
    on = [row | dict(epoch=str(int(row["epoch"]) + epochs), steps=str(int(row["steps"]) + steps))
          for row in new]  # fmt: skip
    return [*old, *on]


def _joined(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Both runs' snapshots as one's, as many as the old ones.

    The second run's first is the first run's last. From the latest on every second is left out,
    for filters change most in the beginning.
    """
    most, last = len(old["step"]), int(old["step"][-1])
    stay = list(range(most + len(new["step"]) - 1))
    while len(stay) > most:
        for i in range(len(stay) - 2, 0, -2)[: len(stay) - most]:
            del stay[i]
    joined = {k: torch.cat([old[k], new[k][1:]])[stay] for k in ("fc1", "fc2")}
    return joined | dict(step=torch.cat([old["step"], new["step"][1:] + last])[stay])


def _command(name: str, trained: dict, start: str = "") -> str:
    usual = asdict(RECIPES.get(name, Recipe()))
    choices = [f"--set {k}={v}" for k, v in trained["recipe"].items() if v != usual[k]]
    words = ["mixer-lite train", name, *[f"--start-from {start}"] * bool(start), *choices]
    words += ["--bfloat16"] * trained["bfloat16"]
    return " ".join(words + [f"--seed {trained['seed']}"] * bool(trained["seed"]))


def _trainings(card: dict) -> str:
    """How the weights were made, in a paragraph."""
    parts, start = [], ""
    for i, trained in enumerate([*card.get("earlier", []), card]):
        first = "from random weights" if not i else "then from these weights in half precision"
        reached = f", to {trained['test_accuracy']:.2%}" if trained is not card else ""
        command = _command(card["name"], trained, start)
        parts.append(
            f"{first}, seed {trained['seed']}, with `{command}`: {trained['training_hours']} hours "
            f"on {trained['machine']}, PyTorch {trained['torch']}{reached}"
        )
        start = f"run{i + 1}/weights.safetensors"
    return "; ".join(parts)


def _markdown(card: dict, log: list[dict[str, str]], model: ml.MlpMixer) -> str:
    (gh, gw), p, blocks = model.grid_size, model.patch_size, model.num_blocks
    fresh = ml.create_model(card["name"])
    kept = ROOT / "data" / f"{card['name']}_snapshots.safetensors"
    names = ml.specs.CIFAR10_CLASSES
    half, accuracy_ = card["half_precision"], card["test_accuracy"]
    error = 1.96 * (accuracy_ * (1 - accuracy_) / 10_000) ** 0.5
    lines = [
        f"# Model card: `{card['name']}`",
        "",
        f"A plain MLP-Mixer with {card['parameters']:,} parameters for 32 x 32 photographs of ten "
        f"classes: patches of {p} x {p} pixels (S = {gh * gw} tokens, a grid of {gh} x {gw}), "
        f"{blocks} blocks, C = {model.hidden_dim}, D_S = {model.tokens_mlp_dim}, D_C = "
        f"{model.channels_mlp_dim}. Made for teaching: small enough to look into, good enough to "
        "be worth it.",
        "",
        "| measured with the shipped file | |",
        "|---|---|",
        f"| accuracy on CIFAR-10's 10,000 test images | **{accuracy_:.2%}** "
        f"(95 % interval +-{error:.2%}) |",
        f"| accuracy on every tenth training image, as it is | {card['training_accuracy']:.2%} |",
        f"| half precision instead of float32 | {half['predictions_changed']} of 10,000 test "
        f"predictions change; largest change of a logit {half['largest_logit_change']} |",
        f"| smoothness of the fc1 filters, blocks 0 to {blocks - 1} | {_row(card['smoothness'])}; "
        f"mean {_mean(card['smoothness']):.2f} |",
        f"| variety of the fc1 filters, blocks 0 to {blocks - 1} | {_row(card['variety'])}; "
        f"mean {_mean(card['variety']):.2f} |",
        "",
        "Smoothness is the neighbour autocorrelation of a filter folded to the grid (random "
        "weights: about 0), variety the effective rank of a block's filters as a share of their "
        f"number (random weights: about {_mean(filter_figures(fresh)[1]):.1f}); "
        "`mixer_lite.filters` computes both.",
        "",
        "## Training",
        "",
        f"On CIFAR-10's 50,000 training images (Krizhevsky 2009), {_trainings(card)}. The test "
        "images took no part in any choice. `mixer_lite/recipe.py` explains each setting"
        + (", here of the last training:" if card.get("earlier") else ":"),
        "",
        "```",
        *(f"{k} = {v}" for k, v in card["recipe"].items()),
        "```",
        "",
        "The curve (loss of augmented, label-smoothed batches; all epochs are in "
        f"`{card['name']}_log.csv`):",
        "",
        "| epoch | loss | learning rate, share of peak | smoothness | variety |",
        "|---|---|---|---|---|",
        *(
            f"| {r['epoch']} | {float(r['loss']):.3f} | {float(r['lr_share']):.2f} "
            f"| {float(r['smoothness']):.2f} | {float(r['variety']):.2f} |"
            for i, r in enumerate(log)
            if i % max(1, len(log) // 12) == 0 or i == len(log) - 1
        ),
        "",
        *(
            [
                f"`{kept.name}` keeps the token-mixing matrices in half precision from the first "
                "step to the last: `fc1 (n, blocks, D_S, S)`, `fc2 (n, blocks, S, D_S)`, `step "
                "(n)`.",
                "",
            ]
            if kept.exists()
            else []
        ),
        "## Confusion on the test images",
        "",
        "Rows are the true classes, columns the answers, 1,000 images a row.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---" * 11 + "|",
        *(
            f"| **{n}** | " + " | ".join(map(str, row)) + " |"
            for n, row in zip(names, card["confusion"], strict=True)
        ),
        "",
        "## Limits",
        "",
        "- It knows ten classes and names one of them whatever it is shown. It sees 32 x 32 "
        "pixels: photographs are shrunk to that first.",
        "- Its probabilities were never calibrated. Label smoothing, CutMix and AutoAugment make "
        "it cautious.",
        "- What its filters look like was one of the aims of the recipe: the optimizer, the "
        "initial scale and the decay of the token-mixing matrices decide whether structure can be "
        "seen at all, at nearly equal accuracy.",
        "- CIFAR-10 was collected from the web in 2008 and carries that time's and place's "
        "selection of things. Not for any decision that matters.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _row(values: list[float]) -> str:
    return " ".join(f"{v:.2f}" for v in values)


def _register(data: Path, name: str) -> None:
    """Put the checksums where they are checked: pretrained.py and data/README.md."""
    weights = data / f"{name}.safetensors"
    code = ROOT / "mixer_lite" / "pretrained.py"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    text = re.sub(
        rf'(Bundled\(\s*"{re.escape(weights.name)}",\s*")[0-9a-f]{{64}}',
        rf"\g<1>{digest}",
        code.read_text(encoding="utf-8"),
    )
    code.write_text(text, encoding="utf-8")
    readme = data / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines()
    lines = [line for line in lines if not line.startswith(f"| {name}")]
    first = lines.index("|---|---|---|---|") + 1
    lines[first:first] = [
        f"| {path.name} | {hashlib.sha256(path.read_bytes()).hexdigest()} "
        f"| this project: see the model card, {name}.md | MIT |"
        for path in sorted(data.glob(f"{name}*"))
    ]
    readme.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
