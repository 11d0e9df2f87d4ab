"""A notebook exported as HTML and opened without a network shows its explorers' pictures."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from jupyter_server.serverapp import ServerApp
from nbconvert import HTMLExporter

from mixer_lite.cli import SETTINGS
from mixer_lite.explorers.base import STILL

CELL = """
import mixer_lite as ml
ml.explore_patches(ml.images.photo("cat"))
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook with an explorer, run by nbconvert, which keeps the widgets' state in it."""
    folder = tmp_path_factory.mktemp("export")
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)]),
                   folder / "a.ipynb")  # fmt: skip
    command = ["--to", "notebook", "--execute", "--inplace", "a.ipynb"]
    converted(folder, *command)
    assert json.loads((folder / "a.ipynb").read_text())["metadata"]["widgets"]
    return folder / "a.ipynb"


def converted(folder, *command, **more):
    environment = {**os.environ, "JUPYTER_CONFIG_DIR": str(folder / "no_config"), **more}
    subprocess.run(
        [sys.executable, "-m", "jupyter", "nbconvert", *command],
        cwd=folder, env=environment, check=True, capture_output=True, timeout=300,
    )  # fmt: skip


def pictures(browser, path):
    """Sources and natural widths of the pictures that can be seen in a page."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    page.goto(path.as_uri(), wait_until="load")
    found = [
        (image.get_attribute("src") or "", image.evaluate("x => x.naturalWidth"))
        for image in page.query_selector_all("img")
        if image.is_visible()
    ]
    context.close()
    return found


def still(path):
    """The picture in the notebook's only output, as a page writes it."""
    (output,) = nbformat.read(path, as_version=4).cells[0].outputs
    assert STILL in output.data["text/plain"]
    (kind,) = (kind for kind in output.data if kind.startswith("image/"))
    return f"data:{kind};base64,{output.data[kind].strip()}"


@pytest.mark.parametrize("ours", [True, False])
def test_the_command_in_a_terminal_of_the_course(browser, executed, tmp_path, ours):
    # "mixer-lite lab" hands its settings on; without them the page is blank: the test would notice.
    shutil.copy(executed, tmp_path / "a.ipynb")
    settings = {"JUPYTER_CONFIG_PATH": str(SETTINGS)} if ours else {}
    converted(tmp_path, "--to", "html", "a.ipynb", **settings)
    found = pictures(browser, tmp_path / "a.html")
    assert len(found) == ours
    assert all(source == still(executed) and width > 300 for source, width in found)


def test_jupyterlabs_own_export(executed, tmp_path, monkeypatch, browser):
    # The menu's export, asked of a server that has the course's settings.
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", str(SETTINGS))
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "no_config"))
    server = ServerApp()
    server.load_config_file()
    exporter = HTMLExporter(config=server.config)
    text, _ = exporter.from_filename(str(executed))
    (tmp_path / "a.html").write_text(text, encoding="utf-8")
    ((source, width),) = pictures(browser, tmp_path / "a.html")
    assert source == still(executed) and width > 300
