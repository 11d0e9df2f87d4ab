"""Turn a finished training run into the bundled weights and their model card.

    python tools/publish.py runs/mixer_nano_cifar10 "where it trained" [runs/teacher]

Writes data/NAME{.safetensors,.json,.md,_log.csv}, and NAME_snapshots.safetensors where it is small
enough to come with the project; measures the written file once on all 10,000 test images, and puts
its sha256 into the card. A run that started from the bundled weights goes on with their log,
snapshots and card. Every other test image chooses the temperature of the probabilities, which the
others measure; a run with a teacher wants the teacher's folder too.
"""

from __future__ import annotations

import copy
import hashlib
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

import mixer_lite as ml
from mixer_lite._support.tables import read_table, write_table
from mixer_lite.prediction import logits
from mixer_lite.training.calibration import best_temperature, reliability
from mixer_lite.training.measures import accuracy, filter_figures, normalize
from mixer_lite.training.prepare import fingerprint
from mixer_lite.training.recipe import RECIPES, Recipe
from mixer_lite.training.teacher import FILE, load_teacher

ROOT = Path(__file__).resolve().parents[1]
MAX_SNAPSHOTS = 3_000_000  # bytes


def main(run: Path, machine: str, taught: Path | None = None) -> None:
    """Publish one run."""
    data = ROOT / "data"
    torch.set_num_threads(2)
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    identity, epochs_done = checkpoint["identity"], len(checkpoint["state"]["log"])
    name = identity["name"]
    if epochs_done != identity["recipe"]["epochs"]:
        raise SystemExit(f"{run} is not finished: {epochs_done} epochs are done.")
    cifar = ml.datasets.cifar10()  # before anything is written
    weights, kept = data / f"{name}.safetensors", data / f"{name}_snapshots.safetensors"
    log, snapshots = read_table(run / "log.csv"), load_file(run / "snapshots.safetensors")
    made = {key: identity[key] for key in ("recipe", "seed", "bfloat16", "holdout")} | dict(
        machine=machine,
        training_hours=round(sum(float(row["seconds"]) for row in log) / 3600, 2),
        torch=torch.__version__.split("+")[0],
    )
    if known := identity.get("teacher"):
        made["teacher"] = _teacher(known, run, taught, cifar)
    full = ml.load_checkpoint(run / "weights.safetensors")
    if start := identity.get("start"):
        if start != fingerprint(ml.load_checkpoint(weights)):
            raise SystemExit(
                f"{run} did not start from what is now in {weights}: restore data/ by git if it "
                f"was published before."
            )
        old = json.loads((data / f"{name}.json").read_text(encoding="utf-8"))
        before = {key: old[key] for key in (*_MADE, "test_accuracy") if key in old}
        made["earlier"] = [*old.get("earlier", []), before]
        if share := identity["recipe"].get("start_share"):
            made["end_accuracy"] = _end_accuracy(full, ml.load_checkpoint(weights), share, cifar)
        log = _after(read_table(data / f"{name}_log.csv"), log)
        # Without the first run's there is no whole story to tell.
        snapshots = _joined(load_file(kept), snapshots) if kept.exists() else {}

    assert full.config is not None
    # Every training image has been learned, here or by the weights that a run started from, and
    # would make the answers look surer than they are: so every other test image, for this alone.
    said = logits(full, cifar.test_images[::2], batch_size=250)
    temperature = round(best_temperature(said, cifar.test_labels[::2]), 3)
    full.config = replace(full.config, temperature=temperature)
    ml.save_checkpoint(full, weights, dtype=torch.float16)
    write_table(data / f"{name}_log.csv", log, list(log[-1]))
    kept.unlink(missing_ok=True)
    if snapshots and sum(tensor.nbytes for tensor in snapshots.values()) <= MAX_SNAPSHOTS:
        save_file(snapshots, kept)

    model = ml.load_checkpoint(weights)
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()  # load_pretrained() looks at it
    card = dict(name=name, sha256=digest, **_measured(model, full, cifar), **made)
    (data / f"{name}.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    (data / f"{name}.md").write_text(_markdown(card, log, model), encoding="utf-8")
    _register(data, name)
    print(f"test accuracy {card['test_accuracy']:.2%}, smoothness "
          f"{_mean(card['smoothness']):.3f}, variety {_mean(card['variety']):.3f}")  # fmt: skip


def _measured(model: ml.MlpMixer, full: ml.MlpMixer, cifar: ml.datasets.Cifar10) -> dict:
    """What is measured of the written weights, and of those of the run."""
    out, exact = (logits(m, cifar.test_images, batch_size=250) for m in (model, full))
    guess = out.argmax(1)
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    confusion.index_put_((cifar.test_labels, guess), torch.tensor(1), accumulate=True)
    assert model.config is not None
    some = torch.arange(0, len(cifar.train_images), 10)  # every tenth training image, as it is
    seen = normalize(cifar.train_images[some], model.config.mean, model.config.std)
    images, labels = ml.datasets.cifar10_sample()
    on_slice = (logits(model, images, batch_size=250).argmax(1) == labels).float().mean().item()
    smooth, varied = filter_figures(model)
    temperature = model.config.temperature
    return dict(
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
        temperature=temperature,
        calibration={
            when: _reliability(out[1::2] / t, cifar.test_labels[1::2])
            for when, t in (("as it is", 1.0), ("at the temperature", temperature))
        },
        photographs=_photographs(model),
    )


def _end_accuracy(
    kept: ml.MlpMixer, start: ml.MlpMixer, share: float, cifar: ml.datasets.Cifar10
) -> float:
    """Test accuracy of a run's end, before its weights went a share of the way back."""
    end, origin = copy.deepcopy(kept), start.state_dict()
    back = {k: (v - share * origin[k]) / (1 - share) for k, v in kept.state_dict().items()}
    end.load_state_dict(back)
    guess = logits(end, cifar.test_images, batch_size=250).argmax(1)
    return round((guess == cifar.test_labels).float().mean().item(), 4)


# What a card says of how the weights were made.
_MADE = ("recipe", "seed", "bfloat16", "holdout", "teacher", "end_accuracy", "machine",
         "training_hours", "torch")  # fmt: skip
TEACHER = "runs/teacher/teacher.safetensors"


def _teacher(known: int, run: Path, folder: Path | None, cifar: ml.datasets.Cifar10) -> dict:
    """What is told of a run's teacher."""
    if folder is None:
        raise SystemExit(f"{run} had a teacher: give its folder as the third argument.")
    teacher = load_teacher(folder / FILE)
    if fingerprint(teacher) != known:
        raise SystemExit(f"{folder} does not hold the teacher of {run}.")
    right = accuracy(
        teacher, cifar.test_images, cifar.test_labels,
        prepare=lambda x: normalize(x, teacher.config.mean, teacher.config.std),
    )  # fmt: skip
    log = read_table(folder / "log.csv")
    return dict(
        parameters=sum(p.numel() for p in teacher.parameters()),
        test_accuracy=round(right, 4),
        epochs=len(log),
        training_hours=round(sum(float(row["seconds"]) for row in log) / 3600, 2),
    )


def _reliability(said: torch.Tensor, labels: torch.Tensor) -> dict:
    """Calibration in 15 groups of as many answers, by rising confidence."""
    found = reliability(said, labels)
    return dict(
        error=round(found.error, 4),
        loss=round(F.cross_entropy(said, labels).item(), 4),
        confidence=[round(v, 4) for v in found.confidence.tolist()],
        accuracy=[round(v, 4) for v in found.accuracy.tolist()],
    )


def _photographs(model: ml.MlpMixer) -> list[dict]:
    """What the model says to the bundled photographs, most of which show none of its classes."""
    names = ml.images.list_photos()
    said = ml.predict(model, [ml.images.photo(name) for name in names], top_k=1)
    about = [ml.images.photo_info(name) for name in names]
    return [
        dict(caption=photo.caption, shows=photo.cifar10, answer=p[0].label,
             probability=round(p[0].probability, 3))
        for photo, p in zip(about, said, strict=True)
    ]  # fmt: skip


def _after(old: list[dict[str, str]], new: list[dict[str, str]]) -> list[dict[str, str]]:
    """Both logs as one, whose epochs and steps go on."""
    epochs, steps = (int(old[-1][key]) for key in ("epoch", "steps"))
    on = [row | dict(epoch=str(int(row["epoch"]) + epochs), steps=str(int(row["steps"]) + steps))
          for row in new]  # fmt: skip
    # Only what both have: half a curve of held-out images would be misread.
    return [*old, *({key: row[key] for key in old[-1]} for row in on)]


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
    # A choice that is no longer there made no difference, or the run would be another's.
    choices = [f"--set {k}={v}" for k, v in trained["recipe"].items() if v != usual.get(k, v)]
    words = ["mixer-lite train", name, *[f"--start-from {start}"] * bool(start), *choices]
    words += [f"--teacher {TEACHER}"] * ("teacher" in trained)
    held = trained.get("holdout", 0)
    words += [f"--holdout {held}"] * bool(held)
    words += ["--bfloat16"] * trained["bfloat16"]
    return " ".join(words + [f"--seed {trained['seed']}"] * bool(trained["seed"]))


def _trainings(card: dict) -> str:
    """How the weights were made, in a paragraph."""
    parts, start = [], ""
    for i, trained in enumerate([*card.get("earlier", []), card]):
        first = "from random weights" if not i else "then from these weights in half precision"
        reached = f", to {trained['test_accuracy']:.2%}" if trained is not card else ""
        if teacher := trained.get("teacher"):
            first += ", to answer as a teacher does"
            reached += (
                f". The teacher is a convolutional network with {teacher['parameters']:,} "
                f"parameters, {teacher['test_accuracy']:.2%} of the test images right, which "
                f"`mixer-lite teacher --epochs {teacher['epochs']} --bfloat16` makes in "
                f"{teacher['training_hours']} hours there; the Mixer saw the very same changed "
                "images and learned the teacher's probabilities in place of labels"
            )
        if "end_accuracy" in trained:
            reached += (
                f". The weights kept lie {trained['recipe']['start_share']:.0%} of the straight "
                "way back to those it started from; its end itself has "
                f"{trained['end_accuracy']:.2%} "
                "of the test images right, and the better of the two is shipped"
            )
        if held := trained.get("holdout"):
            reached += f". {held:,} of the images were held out to watch the run"
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
        f"(95 % interval +-{error:.2%}){_without_teacher(card)} |",
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
        "images took no part in any other choice of these. `mixer_lite/training/recipe.py` "
        "explains each setting"
        + (", here of the last training:" if card.get("earlier") else ":"),
        "",
        "```",
        *(f"{k} = {v}" for k, v in card["recipe"].items()),
        "```",
        "",
        f"The curve (loss of augmented, label-smoothed batches{_other_loss(card)}; all epochs are "
        f"in `{card['name']}_log.csv`):",
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
        *_trust(card),
        "## Limits",
        "",
        "- It knows ten classes and names one of them whatever it is shown. It sees 32 x 32 "
        "pixels: photographs are shrunk to that first.",
        "- What its filters look like was one of the aims of the recipe: the optimizer, the "
        "initial scale and the decay of the token-mixing matrices decide whether structure can be "
        "seen at all, at nearly equal accuracy.",
        "- CIFAR-10 was collected from the web in 2008 and carries that time's and place's "
        "selection of things. Not for any decision that matters.",
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def _without_teacher(card: dict) -> str:
    """What an accuracy that a teacher helped to is to be read beside."""
    if "teacher" not in card:
        return ""
    alone = [run["test_accuracy"] for run in card.get("earlier", []) if "teacher" not in run]
    best = f"; the best of these weights without one: {max(alone):.2%}" if alone else ""
    return f", distilled from a convolutional teacher{best}"


def _other_loss(card: dict) -> str:
    if "teacher" not in card:
        return ""
    first = 1 + sum(run["recipe"]["epochs"] for run in card.get("earlier", []))
    return f", from epoch {first} on the divergence from the teacher's answers"


def _trust(card: dict) -> list[str]:
    """The part of the card on probabilities."""
    before, after = card["calibration"].values()
    groups = zip(
        *(part[k] for part in (before, after) for k in ("confidence", "accuracy")), strict=True
    )
    return [
        "## Probabilities",
        "",
        f"`predict` divides the logits by the temperature {card['temperature']}, which changes the "
        "probabilities and no answer; `predict(..., calibrated=False)` does not. It was chosen on "
        "every other test image, because all training images were learned at one time or another, "
        "and is measured on the other 5,000.",
        "",
        "| on those 5,000 images | as the logits are | at the temperature |",
        "|---|---|---|",
        f"| expected calibration error | {before['error']:.2%} | {after['error']:.2%} |",
        f"| loss (negative logarithm of the right class's probability) | {before['loss']:.3f} "
        f"| {after['loss']:.3f} |",
        "",
        f"Answers in {len(before['accuracy'])} groups of as many of them, by rising "
        "confidence, the probability of the answer:",
        "",
        "| confidence as the logits are | right | confidence at the temperature | right |",
        "|---|---|---|---|",
        *("| " + " | ".join(f"{value:.1%}" for value in group) + " |" for group in groups),
        "",
        "The bundled photographs, most of which show none of the ten classes: it names one all the "
        "same, and calibration, which is of images like CIFAR-10's, does not change that.",
        "",
        "| photograph | shows | answer | probability |",
        "|---|---|---|---|",
        *(
            f"| {photo['caption']} | {photo['shows'] or 'none of them'} | {photo['answer']} "
            f"| {photo['probability']:.0%} |"
            for photo in card["photographs"]
        ),
        "",
    ]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _row(values: list[float]) -> str:
    return " ".join(f"{v:.2f}" for v in values)


def _register(data: Path, name: str) -> None:
    """Put the checksums into data/README.md."""
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
    main(Path(sys.argv[1]), sys.argv[2], *map(Path, sys.argv[3:]))
