"""A run's folder: killed at any moment, on a full disk, with damaged files, it loses nothing."""

import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest
import short_runs
import torch
from safetensors.torch import load_file

from mixer_lite._support.tables import read_table
from mixer_lite.training import runs
from mixer_lite.training.runs import BEFORE, DAMAGED, LAST, load_state, save_state, write_log

SETTINGS = {"seed": 1, "recipe": {"epochs": 3}}


def assert_same(one, two):
    """The files of two finished runs hold the same numbers, bit for bit."""
    for name in ("weights.safetensors", "snapshots.safetensors"):
        a, b = load_file(one / name), load_file(two / name)
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a), name
    # All but the seconds, which stand last.
    logs = [(folder / "log.csv").read_text(encoding="utf-8").splitlines() for folder in (one, two)]
    assert all(a.rpartition(",")[0] == b.rpartition(",")[0] for a, b in zip(*logs, strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole")
    short_runs.long_run(folder)
    return folder


FAULTS = [
    ("write", ""), ("before", LAST), ("after", LAST), ("write", ""), ("before", BEFORE),
    ("after", BEFORE), ("step", "3"), ("before", "log.csv"), ("after", "log.csv"),
    ("step", "13"), ("step", "15"),
]  # fmt: skip


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills in another way")
def test_killed_at_any_moment_it_goes_on_bit_for_bit(tmp_path, whole):
    # A clean process that has imported everything once; each run is forked from it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training", "torchvision.transforms.v2"])
    for number, (kind, where) in enumerate(FAULTS):
        arguments = (tmp_path / "killed", kind, where, number)
        process = context.Process(target=short_runs.killed_run, args=arguments)
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, (kind, where)
        assert not (tmp_path / "killed/weights.safetensors").exists()
    short_runs.long_run(tmp_path / "killed")
    assert_same(tmp_path / "killed", whole)


def saved(folder, *steps):
    folder.mkdir(exist_ok=True)
    for step in steps:
        assert save_state(folder, SETTINGS, {"step": step, "weight": torch.arange(3000.0) + step})


def test_the_last_two_checkpoints_are_kept(tmp_path):
    assert load_state(tmp_path / "none", SETTINGS) is None
    saved(tmp_path, 1, 2, 3)
    assert load_state(tmp_path, SETTINGS)["weight"][1] == 4
    (tmp_path / LAST).unlink()
    assert load_state(tmp_path, SETTINGS)["step"] == 2
    assert sorted(os.listdir(tmp_path)) == [BEFORE, "none"]


@pytest.mark.parametrize("place", [0, 0.3, 0.6, "torn", "empty", "other"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, place):
    saved(tmp_path, 1, 2)
    data = bytearray((tmp_path / LAST).read_bytes())
    if isinstance(place, str):
        data = {"torn": data[:-100], "empty": b"", "other": b"PK" + bytes(4000)}[place]
    else:
        data[int(place * len(data))] ^= 255  # in the middle are the weights
    (tmp_path / LAST).write_bytes(data)
    assert load_state(tmp_path, SETTINGS)["step"] == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "goes on from the checkpoint before it" in said
    # The damaged one must not take the good one's place.
    saved(tmp_path, 3)
    assert load_state(tmp_path, SETTINGS)["step"] == 3
    (tmp_path / LAST).unlink()
    assert load_state(tmp_path, SETTINGS)["step"] == 1 and (tmp_path / DAMAGED).exists()


def test_nothing_but_damaged_checkpoints_is_said_not_trained_over(tmp_path):
    saved(tmp_path, 1, 2)
    for name in (LAST, BEFORE):
        (tmp_path / name).write_bytes(b"PK no")
    with pytest.raises(ValueError, match=r"is damaged .* and .* is damaged .* give another folder"):
        load_state(tmp_path, SETTINGS)


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"identity": SETTINGS, "state": Evil()}, tmp_path / LAST)
    with pytest.raises(ValueError, match="is damaged"):
        load_state(tmp_path, SETTINGS)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_that_grows_is_refused(tmp_path):
    # One number that claims to be a million, ten thousand times.
    grown = {str(i): torch.zeros(1).expand(1000, 1000) for i in range(10_000)}
    torch.save({"identity": SETTINGS, "state": grown}, tmp_path / LAST)
    with pytest.raises(ValueError, match="its tensors claim 40,000,000,000"):
        load_state(tmp_path, SETTINGS)


@pytest.mark.parametrize(
    ("part", "value"),
    [("step", "3"), ("step", -1), ("step", True), ("log", 3), ("log", [3]), ("loss", None),
     ("snapshots", [1]), ("snapshots", {"a": {}}), ("snapshots", {1: {}}), ("model", 3),
     ("model", {"head.bias": 3}), ("optimizers", 3), ("optimizers", [3, 3]), ("seconds", "1")],
)  # fmt: skip
def test_a_state_whose_parts_are_of_another_kind_is_said(tmp_path, part, value):
    short_runs.long_run(tmp_path, stop_after=1)
    whole = torch.load(tmp_path / LAST, weights_only=True)
    whole["state"][part] = value
    torch.save(whole, tmp_path / LAST)
    with pytest.raises(ValueError, match="of another version of Mixer Lite: finish the run"):
        short_runs.long_run(tmp_path)


@pytest.mark.parametrize("whole", [3, {"identity": 3, "state": {}}, {"identity": {}, "state": 3}])
def test_a_checkpoint_of_something_else_is_damaged(tmp_path, whole):
    torch.save(whole, tmp_path / LAST)
    with pytest.raises(ValueError, match="is damaged"):
        load_state(tmp_path, SETTINGS)


def test_what_a_link_leads_to_is_not_written(tmp_path):
    other = tmp_path / "other"
    other.write_text("kept", encoding="utf-8")
    for name in ("checkpoint.partial", "log.partial"):
        (tmp_path / name).symlink_to(other)
    saved(tmp_path, 1)
    write_log(tmp_path, [{"epoch": 1}])
    assert other.read_text(encoding="utf-8") == "kept"
    assert load_state(tmp_path, SETTINGS)["step"] == 1
    assert (tmp_path / "log.csv").read_text(encoding="utf-8") == "epoch\n1\n"


def test_another_runs_checkpoint_is_named(tmp_path):
    saved(tmp_path, 1)
    with pytest.raises(ValueError, match=r"other settings \(epochs 3, not 4\): give another"):
        load_state(tmp_path, {**SETTINGS, "recipe": {"epochs": 4}})
    asked = {"recipe": {"epochs": 3, "clip": 1.0}, "seed": 2, "content": [5], "mean": [0.5] * 99}
    with pytest.raises(ValueError) as error:
        load_state(tmp_path, asked)
    for words in ("(clip 0.0, not 1.0; seed 1, not 2; other images or labels; mean None,", "..."):
        assert words in str(error.value)


def test_a_checkpoint_of_another_version_is_said(tmp_path):
    short_runs.long_run(tmp_path, stop_after=1)
    whole = torch.load(tmp_path / LAST, weights_only=True)
    whole["state"]["optimizers"].pop()
    torch.save(whole, tmp_path / LAST)
    with pytest.raises(ValueError, match="of another version of Mixer Lite: finish the run"):
        short_runs.long_run(tmp_path)


def test_one_program_alone_writes_to_a_folder(tmp_path):
    code = "import sys, pathlib, short_runs; short_runs.long_run(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    options = dict(cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    moments = []

    def watch(moment):
        if moment.step == 2:
            moments.append(subprocess.run(command, **options))

    short_runs.long_run(tmp_path, stop_after=1, watch=watch)
    (other,) = moments
    assert other.returncode == 1
    said = other.stderr.strip().splitlines()[-1]
    assert said == f"OSError: Another program trains in {tmp_path}: stop it there, or give " + (
        "another folder."
    )
    short_runs.long_run(tmp_path, stop_after=2)  # free again
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="is or lies in a file: give a folder for the run"):
        short_runs.long_run(tmp_path / "file")


def test_who_may_read_the_log_may_read_the_weights(tmp_path, whole):
    modes = {path.name: path.stat().st_mode for path in whole.iterdir() if path.is_file()}
    assert len({modes[n] for n in ("log.csv", "weights.safetensors", "snapshots.safetensors")}) == 1


def fill_disk(monkeypatch):
    """The next file that is written aside meets a full disk; the one after it does not."""
    save = torch.save

    def full(*_):
        monkeypatch.setattr(torch, "save", save)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows has no such limit")
def test_the_systems_reason_is_told_not_pytorchs(tmp_path, capsys):
    # A real refusal in the middle of a file: this process may write no longer ones.
    import resource

    saved(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert not save_state(tmp_path, SETTINGS, {str(i): torch.rand(5000) for i in range(20)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert "File too large" in said and said.count("\n") == 1
    assert load_state(tmp_path, SETTINGS)["step"] == 1


def test_a_full_disk_costs_a_sentence_not_the_run(tmp_path, monkeypatch, capsys, whole):
    def watch(moment):
        if moment.step in (5, 6):
            fill_disk(monkeypatch)
        return moment.step == 6  # a stop whose checkpoint cannot be written

    with pytest.raises(OSError, match="stopped at step 6, but its last checkpoint is of step 4"):
        short_runs.long_run(tmp_path / "full", save_every=0, watch=watch)
    said = capsys.readouterr().err
    assert said.count("could not be written") == said.count("No space left") == 2
    assert said.count("the run goes on; free some space.") == 2
    assert not list((tmp_path / "full").glob("*.partial"))
    steps = []
    short_runs.long_run(tmp_path / "full", watch=lambda moment: steps.append(moment.step))
    assert steps[0] == 5  # from the last that was written
    assert_same(whole, tmp_path / "full")


def test_weights_that_cannot_be_written_at_the_end_are_not_lost(tmp_path, monkeypatch, whole):
    shutil.copytree(whole, tmp_path / "full")
    (tmp_path / "full/weights.safetensors").unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match="free some space and start the same run again"):
            short_runs.long_run(tmp_path / "full")
    short_runs.long_run(tmp_path / "full")
    assert_same(whole, tmp_path / "full")


class Writer:
    """What TensorBoard would show, by its own rule for points that are written again."""

    full_from = 10**9

    def __init__(self, folder, purge_step):
        if Writer.full_from == 0:
            raise OSError(28, "No space left on device")
        Writer.points = {k: v for k, v in Writer.points.items() if k[1] < purge_step}

    def add_scalar(self, name, value, step):
        if step >= Writer.full_from:
            raise OSError(28, "No space left on device")
        Writer.points[name, step] = value

    def flush(self):
        pass

    def close(self):
        Writer.closed = True


@pytest.fixture
def tensorboard(monkeypatch):
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    found = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: name == "tensorboard" or found(name)
    )
    Writer.points, Writer.closed, Writer.full_from = {}, False, 10**9


def test_curves_show_the_log_whatever_interrupted_the_run(tmp_path, tensorboard):
    def stop(moment):
        return moment.step == 9  # after two epochs, in the third

    short_runs.long_run(tmp_path, watch=stop)
    assert Writer.closed and {step for _, step in Writer.points} == {4, 8}
    for _ in range(2):  # to the end, and once more when there is nothing to do
        short_runs.long_run(tmp_path)
    rows = read_table(tmp_path / "log.csv")
    assert {step for _, step in Writer.points} == {4, 8, 12, 16, 20}
    for row in rows:
        assert Writer.points["loss", int(row["steps"])] == float(row["loss"])


@pytest.mark.parametrize("full_from", [0, 12])
def test_curves_on_a_full_disk_cost_a_sentence(tmp_path, tensorboard, capsys, whole, full_from):
    Writer.full_from = full_from
    short_runs.long_run(tmp_path)
    assert_same(tmp_path, whole)
    said = capsys.readouterr().err
    assert said.count("TensorBoard's curves end here ([Errno 28] No space left on device)") == 1
    assert {step for _, step in Writer.points} == ({4, 8} if full_from else set())


def test_no_curves_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    curves = runs.Curves(tmp_path, [{"steps": 1, "loss": 1.0}])
    curves.add({"steps": 5, "loss": 1.0})
    curves.close()
    assert not list(tmp_path.iterdir())
