"""The stable part of tests/benchmarks, loosely: what a slider's event costs in the page itself."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import mixer_lite as ml

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "explorers.py"
_spec = importlib.util.spec_from_file_location("explorer_benchmark", PATH)
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)


@pytest.mark.alone
def test_a_whole_block_of_b16_is_drawn_within_a_few_frames(saved_page, tmp_path):
    path = ml.explore_filters(ml.create_model("mixer_b16_224")).save_html(tmp_path / "b16.html")
    page = saved_page(path)
    page.locator("canvas.units").wait_for()
    times = benchmark.drag(page, page.get_by_label("block", exact=True), 60)
    print(benchmark.row("own code", times["own"]), benchmark.row("painted", times["painted"]))
    # 16 ms is the goal on a quiet machine; this one may be shared, so half of the events count.
    assert np.median(times["own"]) < 50
    assert len(times["painted"]) == 60
