"""What a student hands in does nothing in the pages that others open."""

import sys

import nbformat
import pytest
from nbconvert import HTMLExporter

from tests.assignments.strangers import ACTIVE_WORDS
from tests.assignments.submissions import ROOT

sys.path.insert(0, str(ROOT / "tools" / "grading"))
import pages

IMAGE = "<img src=x onerror='window.hit = {}'>"
OUTPUTS = [
    {"text/html": "<script>window.hit = 1</script>" + IMAGE.format(2), "text/plain": "kept"},
    {"application/javascript": "window.hit = 3"},
    {"image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg" onload="window.hit = 4"></svg>'},
    {"text/markdown": IMAGE.format(5)},
    {"image/png": 'x" onerror="window.hit = 7'},
]


@pytest.mark.parametrize("cleaned", [True, False])
def test_active_content(browser, tmp_path, cleaned):
    # Without the cleaning the same page does act: the test would notice.
    outputs = [nbformat.v4.new_output("display_data", data=data) for data in OUTPUTS]
    words = ACTIVE_WORDS
    if cleaned:
        outputs = pages.clean_outputs(outputs, examined=True)
        words = pages.clean_markdown(words)
    cells = [nbformat.v4.new_markdown_cell(words), nbformat.v4.new_code_cell("", outputs=outputs)]
    text, _ = HTMLExporter(template_name="classic").from_notebook_node(
        nbformat.v4.new_notebook(cells=cells)
    )
    path = tmp_path / "page.html"
    path.write_text(text, encoding="utf-8")
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(path.as_uri(), wait_until="domcontentloaded")
    page.wait_for_timeout(500)
    for link in page.query_selector_all("a"):
        link.dispatch_event("click")
    page.wait_for_timeout(200)
    hit = page.evaluate("window.hit === undefined ? null : window.hit")
    assert (hit is None) is cleaned
    if cleaned:
        assert "rows < columns" in page.inner_text("body")
        assert "kept" in page.inner_text("body")
    context.close()
