"""Watching a run: what is shown is what plain training gives, and stopping loses nothing."""

import _thread
import csv
import json
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import traitlets
from safetensors.torch import load_file, save_file

import mixer_lite as ml
from mixer_lite import filters, specs
from mixer_lite._support.files import data_path
from mixer_lite.explorers.training import asking
from mixer_lite.explorers.training import page as training
from mixer_lite.training import history
from mixer_lite.training.loop import train
from mixer_lite.training.measures import snapshot_steps
from mixer_lite.training.recipe import Recipe

# S = 16 on a 4 x 4 grid, C = 12, 7 units.
TINY = dict(
    image_size=32, patch_size=8, num_classes=10, num_blocks=2,
    hidden_dim=12, tokens_mlp_dim=7, channels_mlp_dim=20,
)  # fmt: skip
NAME = "mixer_tiny_cifar10"
RECIPE = replace(Recipe(), epochs=3, batch_size=16, snapshots=4)
STEPS = 3 * 4


@pytest.fixture(scope="module")
def data():
    """64 training images, 14 of which are among those on which accuracy is measured."""
    images, labels = ml.datasets.cifar10_sample()
    rows = torch.cat([torch.arange(0, 70, 5), torch.arange(201, 450, 5)])
    return dict(images=images[rows], labels=labels[rows])


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """A model that takes no time, watched without regard to time."""
    monkeypatch.setitem(specs.SPECS, NAME, TINY)
    monkeypatch.setattr(asking, "SHARE", 1e6)


@pytest.fixture(scope="module")
def plain(data, tmp_path_factory):
    """The same run, not watched by us: its moments, its models, its folder."""
    specs.SPECS[NAME] = TINY
    out, moments, states = tmp_path_factory.mktemp("plain"), [], []

    def keep(moment):
        moments.append(moment)
        states.append({k: v.clone() for k, v in moment.model.state_dict().items()})

    model = train(NAME, out, recipe=RECIPE, watch=keep, **data)
    del specs.SPECS[NAME]
    return dict(model=model, moments=moments, states=states, out=out)


def watch(out, data, **settings):
    return ml.watch_training(NAME, out, **{"recipe": RECIPE, **data, **settings})


def values(entry):
    """What packed() or quantized() made, as numbers."""
    return np.frombuffer(entry["data"], entry["dtype"]).reshape(entry["shape"]).astype(float)


def same(model, state):
    return all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def slowly(monkeypatch, seconds=0.05):
    """Let a run take its time, so that there is one to stop."""
    see = training.TrainingExplorer._see

    def slow(self, moment):
        see(self, moment)
        time.sleep(seconds)

    monkeypatch.setattr(training.TrainingExplorer, "_see", slow)


def reach(explorer, step):
    """Wait for a step of a run."""
    end = time.monotonic() + 60
    while not (explorer._run.last and explorer._run.last.step >= step):
        assert time.monotonic() < end and explorer.state == "running", explorer.message
        time.sleep(0.01)


# --- what is kept and sent ---------------------------------------------------------------------


def test_a_curve_keeps_means_of_equal_stretches():
    numbers = np.random.default_rng(0).normal(size=(1000, 2))
    curve = history.Curve(most=16)
    for step, row in enumerate(numbers, start=1):
        curve.add(step, *row)
        assert len(curve.steps) <= 16
    assert curve.steps == [*range(64, 1000, 64), 1000]
    for end, start, mean in zip(curve.steps, [0, *curve.steps], curve.values, strict=False):
        assert mean == pytest.approx(numbers[start:end].mean(axis=0), abs=1e-12)
    curve.cut(130)
    assert curve.steps == [64, 128]
    curve.add(129, 5.0, 6.0)
    assert curve.steps == [64, 128, 129] and curve.values[-1] == [5.0, 6.0]


def test_a_watched_run_is_the_plain_run_and_shows_its_numbers(tmp_path, data, plain):
    explorer = watch(tmp_path, data)  # no notebook here: it returns at the end
    assert (explorer.state, explorer.message) == ("done", "")
    assert same(explorer.model, plain["states"][-1])
    live = explorer._live
    assert values(live["steps"]).tolist() == list(range(1, STEPS + 1))
    moments = plain["moments"]
    assert values(live["loss"]) == pytest.approx([m.loss for m in moments], abs=1e-6)
    assert values(live["lr"]) == pytest.approx([m.lr_share for m in moments], abs=1e-6)
    assert (live["step"], live["total"], live["epoch"], live["block"]) == (STEPS, STEPS, 3, 0)

    due = snapshot_steps(STEPS, training.FRAMES)
    assert [f["step"] for f in explorer._frames] == due
    slice_images, slice_labels = ml.datasets.cifar10_sample()
    right = []
    for sent, kept in zip(explorer._frames, explorer.history.frames, strict=True):
        if sent["step"] == 0:
            model = ml.create_model(NAME)  # its weights before the first step, in half precision
            first = load_file(plain["out"] / "snapshots.safetensors")["fc1"][0].float()
            for block, weight in zip(model.blocks, first, strict=True):
                block.mlp_tokens.fc1.weight.data = weight
            assert sent["chances"] is None
        else:
            model = ml.create_model(NAME)
            model.load_state_dict(plain["states"][sent["step"] - 1])
            model.config = plain["model"].config
            out = ml.predict(model, list(slice_images[::5]), top_k=1, batch_size=100)
            names = [specs.CIFAR10_CLASSES[k] for k in slice_labels[::5]]
            right.append(np.mean([p[0].label == n for p, n in zip(out, names, strict=True)]))
            cat = ml.predict(model, ml.images.photo("cat"), top_k=10)
            row = values(sent["chances"])[0]
            for p in cat:
                assert row[p.index] == pytest.approx(p.probability, abs=1e-5)
        scale = values(sent["maps"]["scale"]).reshape(2, 7, 1, 1)
        maps = values(sent["maps"]).reshape(2, 7, 4, 4) * scale
        for block in range(2):
            wanted = filters.token_filters(model, block)
            assert torch.equal(kept.filters[block], wanted)
            assert (np.abs(maps[block] - wanted.numpy()) <= scale[block] * 0.501).all()
            told = values(sent["measures"])[block]
            assert told == pytest.approx(
                [
                    filters.smoothness(wanted).mean().item(),
                    filters.locality(wanted).mean().item(),
                    filters.pairedness(wanted).mean().item(),
                    filters.variety(wanted),
                ],
                abs=1e-6,
            )
    assert values(live["measured"]).tolist() == due[1:]
    assert values(live["accuracy"]) == pytest.approx(right, abs=1e-6)
    asked = explorer._examples
    assert (asked["count"], asked["known"]) == (100, 14)
    assert [p["name"] for p in asked["pictures"]][:2] == ["cat", "bird"]
    assert len(asked["pictures"]) == asking.PICTURES


def test_pairs_are_those_of_the_last_step(tmp_path, data):
    explorer = watch(tmp_path, data)
    for block in range(2):
        explorer.block, explorer.order = block, "pairs"
        maps = filters.token_filters(explorer.model, block)
        wanted = filters.pair_opposite_phases(maps).flatten().tolist()
        assert explorer.shown_order()[:6] == wanted
        assert sorted(explorer.shown_order()) == list(range(7))
    explorer.order = "index"
    assert explorer.shown_order() == list(range(7))


def test_watching_takes_its_share_of_the_time_and_no_more(monkeypatch):
    monkeypatch.setattr(asking, "SHARE", 0.01)
    now = [0.0]
    monkeypatch.setattr(training.time, "monotonic", lambda: now[0])
    allowance, done = asking.Allowance(0.1), 0
    for step in range(1, 2001):  # of 0.5 s each
        allowance.earned += 0.5
        now[0] += 0.5
        if allowance.enough():
            with allowance:
                now[0] += 0.04
            done += 1
        assert allowance.spent <= 0.01 * 0.5 * step + 0.1 + 1e-9
    assert done == pytest.approx((0.1 + 0.01 * 1000) / 0.04, abs=1)


# --- stopping and going on ---------------------------------------------------------------------


def test_stop_and_go_on_lose_nothing(tmp_path, data, plain, monkeypatch):
    slowly(monkeypatch)
    explorer = watch(tmp_path, data, wait=False)
    reach(explorer, 2)
    explorer._button(explorer, {"do": "stop"}, [])  # as the page does
    partial = explorer.wait()
    step = explorer._run.last.step
    assert explorer.state == "stopped" and 2 <= step < STEPS
    assert same(partial, plain["states"][step - 1])
    assert explorer.wait() is partial  # nothing to wait for

    explorer.go_on()
    reach(explorer, step + 1)
    copy = explorer.model
    assert any(same(copy, state) for state in plain["states"][step:])
    explorer.stop()
    assert explorer.state == "stopped"
    explorer._button(explorer, {"do": "go_on"}, [])
    done = explorer.wait()
    assert explorer.state == "done" and same(done, plain["states"][-1])
    curve = explorer.history.curve
    assert curve.steps == list(range(1, STEPS + 1))
    assert [loss for loss, _ in curve.values] == [m.loss for m in plain["moments"]]
    assert [f.step for f in explorer.history.frames] == snapshot_steps(STEPS, training.FRAMES)
    explorer.go_on()  # a run that is done stays done
    assert same(explorer.wait(), plain["states"][-1]) and explorer.state == "done"


def test_a_cell_run_again_takes_over_and_remembers(tmp_path, data, plain, monkeypatch):
    slowly(monkeypatch)
    first = watch(tmp_path, data, wait=False)
    reach(first, 6)
    second = watch(tmp_path, data, wait=False)
    assert first.state == "stopped"
    assert same(second.wait(), plain["states"][-1])
    # Frames and curve of before are the folder's: its own snapshots, its log by epochs.
    kept = [s for s in snapshot_steps(STEPS, RECIPE.snapshots) if s <= first._run.last.step]
    steps = [f.step for f in second.history.frames]
    assert steps[: len(kept)] == kept and steps[0] == 0 and steps[-1] == STEPS
    assert steps == sorted(set(steps))
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert second.history.curve.values[0][0] == pytest.approx(float(rows[0]["loss"]))


def test_a_run_that_was_done_before_is_shown_from_its_folder(tmp_path, data, plain):
    first = watch(tmp_path, data)
    again = watch(tmp_path, data)
    assert (again.state, again.message) == ("done", "")
    assert same(again.wait(), plain["states"][-1])
    assert [f.step for f in again.history.frames] == snapshot_steps(STEPS, RECIPE.snapshots)
    assert again.history.accuracy == first.history.accuracy[-1:]
    assert again.history.held_out == first.history.held_out == []
    assert torch.equal(again.history.frames[-1].chances, first.history.frames[-1].chances)
    assert again._frames[-1]["chances"] and len(again._examples["pictures"]) == asking.PICTURES


def test_seconds_stop_a_run_that_knows_its_folder(tmp_path, data, plain, monkeypatch):
    monkeypatch.chdir(tmp_path)
    explorer = watch("run", data, seconds=0.0)
    assert explorer.state == "stopped" and explorer._run.last.step == 1
    monkeypatch.chdir(tmp_path.parent)
    explorer.go_on()
    assert same(explorer.wait(), plain["states"][1])


def test_an_interruption_of_the_wait_stops_the_run(tmp_path, data, plain, monkeypatch):
    slowly(monkeypatch)
    explorer = watch(tmp_path, data, wait=False)
    reach(explorer, 2)
    threading.Timer(0.1, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        explorer.wait()
    assert explorer.state == "stopped" and explorer._run.last.step < STEPS
    explorer.go_on()
    assert same(explorer.wait(), plain["states"][-1])


def test_two_runs_at_once_are_as_each_alone(tmp_path, data, plain):
    state = torch.get_rng_state()  # while they run, a step's own seed may be in place
    one = watch(tmp_path / "one", data, wait=False)
    two = watch(tmp_path / "two", data, wait=False, seed=3)
    assert same(one.wait(), plain["states"][-1])
    alone = train(NAME, tmp_path / "alone", recipe=RECIPE, seed=3, **data)
    assert same(two.wait(), alone.state_dict()) and not same(one.model, alone.state_dict())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_program_that_ends_leaves_a_checkpoint(tmp_path, data, plain):
    save_file(data, tmp_path / "data.safetensors")
    code = f"""if True:
        import time
        from dataclasses import replace
        import mixer_lite as ml
        from mixer_lite.explorers.training import page as training
        from mixer_lite.training.recipe import Recipe
        from safetensors.torch import load_file
        ml.specs.SPECS[{NAME!r}] = {TINY!r}
        see = training.TrainingExplorer._see
        def slow(self, moment):
            see(self, moment)
            time.sleep(0.2)
        training.TrainingExplorer._see = slow
        data = load_file({str(tmp_path / "data.safetensors")!r})
        recipe = replace(Recipe(), epochs=3, batch_size=16, snapshots=4)
        run = ml.watch_training({NAME!r}, {str(tmp_path / "run")!r}, recipe=recipe, wait=False, **data)
        while run._run.last is None:
            time.sleep(0.05)
    """  # noqa: E501
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    explorer = watch(tmp_path / "run", data)
    assert 1 <= explorer._run.last.step - len(explorer.history.curve.steps) < STEPS
    assert same(explorer.model, plain["states"][-1])


def test_accuracy_on_images_held_out_is_a_line_of_its_own(tmp_path, data):
    recipe = replace(RECIPE, ema=0.5)
    explorer = watch(tmp_path, data, recipe=recipe, holdout=16)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    told = [(int(row["steps"]), float(row["held_out_accuracy"])) for row in rows]
    assert explorer.history.held_out == told and len(told) == 3
    assert values(explorer._live["held_at"]).tolist() == [step for step, _ in told]
    assert values(explorer._live["held_out"]) == pytest.approx([share for _, share in told])
    left = explorer.figure().axes[0]
    lines = {line.get_label(): line for line in left.lines}
    assert lines["accuracy, share of those held out"].get_ydata() == pytest.approx(
        [share for _, share in told]
    )
    count = explorer._examples["count"]
    assert f"accuracy, share of {count} images" in lines
    again = watch(tmp_path, data, recipe=recipe, holdout=16)  # done already
    assert again.history.held_out == told and len(again.history.accuracy) == 1
    # What is watched is what is kept: with ema the averaged weights.
    assert torch.equal(explorer.history.frames[-1].filters[1].flatten(1),
                       explorer.model.blocks[1].mlp_tokens.fc1.weight)  # fmt: skip


def test_a_page_that_fails_costs_no_training(tmp_path, data, plain, monkeypatch, capsys):
    def fails(self, moment, chances):
        raise OSError("the page is gone")

    monkeypatch.setattr(training.TrainingExplorer, "_take", fails)
    explorer = watch(tmp_path, data)
    assert explorer.state == "done" and same(explorer.model, plain["states"][-1])
    assert capsys.readouterr().err.count("can no longer be watched (OSError('the page is")
    (tmp_path / "log.csv").unlink()
    monkeypatch.setattr(training, "read_history", lambda out: 1 / 0)
    again = watch(tmp_path, data)  # done before, and what it remembers cannot be read
    assert (again.state, again.message) == ("done", "division by zero")


def test_a_frame_that_is_made_again_is_no_longer_looked_at(tmp_path, data, plain):
    explorer = watch(tmp_path, data)
    explorer.frame = len(explorer.history.frames) - 1
    explorer._begin(plain["moments"][4])  # as from an older checkpoint
    assert explorer.frame is None and explorer.shown.step < plain["moments"][4].step


def test_what_goes_wrong_is_one_sentence_and_raised_where_one_waits(tmp_path, data):
    watch(tmp_path, data, seconds=0.0)
    other = watch(tmp_path, data, seed=1, wait=False)
    with pytest.raises(ValueError, match="belongs to a run with other settings") as raised:
        other.wait()
    assert other.state == "failed" and other.message == str(raised.value)
    assert "\n" not in other.message and other._run.error is raised.value
    with pytest.raises(RuntimeError, match="No step was made, so there is no model"):
        _ = other.model
    with pytest.raises(ValueError, match="fewer than one batch"):
        watch(tmp_path / "few", dict(images=data["images"][:3], labels=data["labels"][:3]))


def test_what_cannot_be_right_is_refused_at_once(tmp_path, data):
    with pytest.raises(TypeError, match="unexpected keyword argument 'sed'"):
        watch(tmp_path, data, sed=1)
    with pytest.raises(TypeError, match="multiple values for keyword argument 'watch'"):
        watch(tmp_path, data, watch=print)
    with pytest.raises(ValueError, match="There is no model named 'mixer_nan_cifar10'"):
        ml.watch_training("mixer_nan_cifar10", tmp_path, **data)


# --- state and pictures ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nano():
    return ml.explore_training()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("block", 8, "block must be from 0 to 7, not 8"),
        ("block", -1, "block must be from 0 to 7, not -1"),
        ("frame", 22, "frame must be from 0 to 21, not 22"),
        ("order", "importance", "importance"),
        ("scale", "all", "all"),
        ("axis", "odd", "odd"),
        ("state", "asleep", "asleep"),
    ],
)
def test_wrong_values_are_refused_and_the_old_one_stays(nano, name, value, sentence):
    old = getattr(nano, name)
    with pytest.raises(traitlets.TraitError, match=sentence):
        setattr(nano, name, value)
    assert getattr(nano, name) == old


def test_bundled_snapshots_are_shown_as_they_are(nano):
    kept = load_file(data_path("mixer_nano_cifar10_snapshots.safetensors"))
    assert [f["step"] for f in nano._frames] == kept["step"].tolist()
    for sent, fc1 in zip(nano._frames[::7], kept["fc1"][::7].float(), strict=True):
        scale = values(sent["maps"]["scale"]).reshape(8, 64, 1)
        maps = values(sent["maps"]).reshape(8, 64, 64) * scale
        assert (np.abs(maps - fc1.numpy()) <= scale * 0.501).all()
    # Neighbour autocorrelation by NumPy, of one block at one step.
    f = kept["fc1"][9, 4].double().numpy().reshape(64, 8, 8)
    f = f - f.mean(axis=(1, 2), keepdims=True)
    product = ((f[:, 1:] * f[:, :-1]).mean((1, 2)) + (f[:, :, 1:] * f[:, :, :-1]).mean((1, 2))) / 2
    smooth = (product / (f**2).mean((1, 2))).mean()
    assert values(nano._frames[9]["measures"])[4, 0] == pytest.approx(smooth, abs=1e-6)
    with data_path("mixer_nano_cifar10_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert values(nano._live["loss"]) == pytest.approx([float(r["loss"]) for r in rows], abs=1e-6)
    assert values(nano._live["steps"]).tolist() == [int(r["steps"]) for r in rows]
    assert (nano.state, nano.frame, nano.order) == ("done", None, "pairs")
    last = nano.history.frames[-1].measures[:, 0]
    assert nano.block == int(last.argmax())
    for act in (nano.stop, nano.go_on, nano.wait, lambda: nano.model):
        with pytest.raises(RuntimeError, match="history of an earlier run"):
            act()


def test_a_finished_run_of_ones_own(plain, tmp_path):
    explorer = ml.explore_training(plain["out"])
    kept = load_file(plain["out"] / "snapshots.safetensors")
    assert [f.step for f in explorer.history.frames] == kept["step"].tolist()
    with pytest.raises(ValueError, match="holds no finished run"):
        ml.explore_training(tmp_path)
    with pytest.raises(ValueError, match="Did you mean mixer_nano_cifar10"):
        ml.explore_training("mixer_nano")
    with pytest.raises(ValueError, match="neither a run's folder nor a model whose snapshots"):
        ml.explore_training("mixer_grid16_cifar10")
    for name in ("snapshots.safetensors", "log.csv"):
        (tmp_path / name).write_bytes((plain["out"] / name).read_bytes()[:60])
    with pytest.raises(ValueError, match="holds no snapshots of a training run"):
        ml.explore_training(tmp_path)
    whole = (plain["out"] / "snapshots.safetensors").read_bytes()
    (tmp_path / "snapshots.safetensors").write_bytes(whole)
    (tmp_path / "log.csv").write_text("epoch,loss\n1,2\n")
    with pytest.raises(ValueError, match="is not the log of a training run"):
        ml.explore_training(tmp_path)


def test_still_picture_and_page(nano, tmp_path):
    nano.block, nano.frame, nano.scale = 3, 5, "unit"
    picture = nano.figure()
    assert "step 663 of 14,325, block 3: smoothness 0.66" in picture.alt
    (sheet,) = picture.axes[2].images
    maps = nano.history.frames[5].filters[3][nano.shown_order()]
    maps = (maps / maps.abs().amax(dim=(1, 2), keepdim=True)).numpy()
    shown = np.ma.filled(sheet.get_array(), np.nan)
    for k in range(64):
        y, x = 9 * (k // 8), 9 * (k % 8)
        assert shown[y : y + 8, x : x + 8] == pytest.approx(maps[k])
    bundle, metadata = nano._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    (kind,) = [k for k in metadata if k.startswith("image/")]
    assert "run the cell in JupyterLab" in metadata[kind]["alt"]
    path = nano.save_html(tmp_path / "run.html")
    text = path.read_text(encoding="utf-8")
    assert len(text) < 2_000_000 and not re.search(r"https?://", text)
    state = json.loads(text.split('id="state">')[1].split("</script>")[0])
    assert (state["block"], state["frame"], len(state["_frames"])) == (3, 5, 22)
    nano.block, nano.frame = 4, None


def test_before_the_first_step_there_is_a_sentence():
    sizes = training._sizes(2, 7, 4, live=True)
    explorer = training.TrainingExplorer(history.History("new"), sizes)
    assert "nothing is learned yet" in explorer.figure().alt
    with pytest.raises(traitlets.TraitError, match="no snapshot yet"):
        explorer.frame = 0
    with pytest.raises(RuntimeError, match="no snapshot yet"):
        _ = explorer.shown
