import os
from collections.abc import Callable
from pathlib import Path

import matplotlib
import pytest
import torch

matplotlib.use("agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # a core a worker, its kernels and processes included
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


pytest.register_assert_rewrite("lessons")  # its assertions tell what differs

HERE = Path(__file__).parent
# Folders and files of tests that take many seconds, the longest first; make check leaves them out.
SLOW = (
    "browser", "notebooks", "assignments", "check", "training", "tools", "fuzz",
    "test_explorer_training", "test_experiments", "test_bugs", "test_cli", "test_datasets",
    "test_package", "test_checkpoint_fuzz", "test_downloads",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--any-pictures", action="store_true",
        help="do not compare pictures of lessons with the stored ones: another matplotlib's differ",
    )  # fmt: skip


@pytest.fixture
def pictures(request: pytest.FixtureRequest) -> bool:
    """Whether pictures of lessons are compared with the stored ones."""
    return not request.config.option.any_pictures


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow and put it first."""
    ranks = []
    for item in items:
        folder = item.path.relative_to(HERE).parent
        rank = next(
            (i for i, name in enumerate(SLOW) if name in (str(folder), item.path.stem)), None
        )
        ranks.append(len(SLOW) if rank is None else rank)
        if rank is not None:
            item.add_marker("slow")
    items[:] = [items[i] for i in sorted(range(len(items)), key=ranks.__getitem__)]


@pytest.fixture
def remark(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Takes a line that is printed in the summary of the run, whether tests fail or not."""
    return lambda line: request.node.user_properties.append(("remark", line))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    # Reports come from all workers; one test has several, which share its lines.
    told = [p for reports in terminalreporter.stats.values() for r in reports
            for p in getattr(r, "user_properties", [])]  # fmt: skip
    for name, line in dict.fromkeys(map(tuple, told)):
        if name == "remark":
            terminalreporter.write_line(line)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
