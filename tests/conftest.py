import os

import matplotlib
import pytest
import torch

matplotlib.use("agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


# What test_pretrained.py found of real weights; said in every run, because nothing else shows it.
REAL_WEIGHTS = pytest.StashKey[str]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if said := terminalreporter.config.stash.get(REAL_WEIGHTS, ""):
        terminalreporter.write_line(said)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
