"""The tool that measures what each choice of the recipe is worth."""

import csv
import importlib.util
from dataclasses import fields, replace
from pathlib import Path

import pytest

from mixer_lite._support.files import data_path
from mixer_lite.datasets import Cifar10, cifar10_sample
from mixer_lite.training.recipe import Recipe

TOOL = Path(__file__).resolve().parents[2] / "tools/ablation.py"
LEFT_OUT = {"epochs", "snapshots", "start_share"}


@pytest.fixture
def ablation(monkeypatch):
    spec = importlib.util.spec_from_file_location("ablation", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    images, labels = cifar10_sample()
    monkeypatch.setattr(tool, "cifar10", lambda: Cifar10(images, labels, images, labels))
    return tool


def test_every_variant_is_a_recipe_of_its_own(ablation):
    names = [name for name, _, _ in ablation.VARIANTS]
    assert len(set(names)) == len(names)
    for base in ablation.BASES.values():
        recipes = [replace(base, **choices) for _, _, choices in ablation.VARIANTS]
        others = [recipe for recipe in recipes if recipe != base]
        assert recipes[0] == base and len(set(others)) == len(others) > 20
    known = {field.name for field in fields(Recipe)}
    tried = {choice for _, _, choices in ablation.VARIANTS for choice in choices}
    # Only the length of the run and the pictures of it are left out, and what needs a start.
    assert known - tried == LEFT_OUT


def test_one_row_a_run_and_no_run_twice(ablation, tmp_path, monkeypatch, capsys):
    small = [("recipe", "nothing", dict(batch_size=100)), ("clip", "no", dict(batch_size=120))]
    wild = ("wild", "far too fast", dict(batch_size=100, other_lr=1e30, warmup_epochs=0.0))
    monkeypatch.setattr(ablation, "VARIANTS", [*small, wild])
    command = ["--epochs", "1", "--images", "400", "--table", str(tmp_path / "a.csv")]
    command += ["--runs", str(tmp_path / "runs")]
    ablation.main([*command, "--variants", "recipe"])
    ablation.main(command)
    printed = capsys.readouterr().out
    assert [line.split(",")[0] for line in printed.splitlines()] == ["recipe", "clip", "wild"]
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        recipe, clip, diverged = csv.DictReader(file)
    assert 0 <= float(recipe["held_out_accuracy"]) <= 1 and recipe["parameters"] == "181034"
    assert clip["variant"] == "clip" and float(clip["loss"]) > 0 and clip["seed"] == "0"
    assert "The loss is nan" in diverged["note"] and not diverged["held_out_accuracy"]


def test_bundled_table_has_runs_of_these_variants(ablation):
    with data_path("ablation.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    changes = {name: words for name, words, _ in ablation.VARIANTS}
    for base in ablation.BASES:
        rows = {row["variant"]: row for row in table if row["base"] == base}
        assert len(rows) >= 7 and rows["recipe"]["changes"] == "nothing changed"
        for name, row in rows.items():
            assert row["changes"] == changes[name] and 0.1 < float(row["held_out_accuracy"]) < 1
    run = {row["variant"] for row in table}
    measured = {
        choice for name, _, choices in ablation.VARIANTS if name in run for choice in choices
    }
    assert measured == {field.name for field in fields(Recipe)} - LEFT_OUT
