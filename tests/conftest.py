import os
from collections.abc import Callable

import matplotlib
import pytest
import torch

matplotlib.use("agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


_REMARKS = pytest.StashKey[list[str]]()


@pytest.fixture
def remark(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line that is printed in the summary of the run, whether tests fail or not."""
    return request.config.stash.setdefault(_REMARKS, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in terminalreporter.config.stash.get(_REMARKS, []):
        terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
