"""Fixtures of the browser tests; the work is done in lab.py beside this file."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import lab as laboratory


# Package-scoped: Playwright's event loop must not run while other tests start their own.
@pytest.fixture(scope="package")
def browser():
    """Chromium."""
    with laboratory.chromium() as started:
        yield started


@pytest.fixture(scope="package")
def lab(tmp_path_factory):
    """JupyterLab in a folder of its own."""
    with laboratory.jupyterlab(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture
def page_without_simd():
    """A copy of a saved page that has no kernel, as for a browser without WebAssembly's SIMD."""

    def copy(path: Path) -> Path:
        text, found = re.subn(r'"kernel": "[^"]+"', '"kernel": "AAAA"', path.read_text())
        assert found == 1
        other = path.with_stem(f"{path.stem}_without_simd")
        other.write_text(text, encoding="utf-8")
        return other

    return copy


@pytest.fixture
def saved_page(browser):
    """Open a saved page by file:// with the network off; an error in its console fails."""
    contexts, pages = [], []

    def open_page(path: Path, **look):
        context = browser.new_context(offline=True, **look)
        contexts.append(context)
        page = laboratory.Page(context.new_page())
        pages.append(page)
        page.goto(path.resolve().as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [page.errors for page in pages] == [[]] * len(pages)
