"""Reports in these tests show everything at once, as graders see them."""

from collections.abc import Iterator

import pytest

from mixer_lite import check


@pytest.fixture(autouse=True)
def everything_shown() -> Iterator[None]:
    before = check.help_level()
    check.help_level(3)
    yield
    check.help_level(before)
