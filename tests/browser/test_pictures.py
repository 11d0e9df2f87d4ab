"""Explorers' pictures in notebooks are what a browser shows of their stored states."""

import base64
import io
import json
import subprocess
import sys

import nbformat
from lab import ROOT, notebooks
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

import mixer_lite as ml


def explorer_cell(explorer, name):
    data, metadata = explorer._repr_mimebundle_()
    data = {k: v for k, v in data.items() if "widget" not in k}
    cell = new_code_cell("explorer", outputs=[new_output("display_data", data, metadata=metadata)])
    cell.id = name
    return cell


def picture(output):
    return Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")


# In a process of its own: Playwright can be started only once in each.
TAKE = """
import json, sys, nbformat, notebooks
stored = nbformat.read(sys.argv[1], as_version=4)
notebooks.take_pictures(stored, json.load(open(sys.argv[2])))
nbformat.write(stored, sys.argv[1])
"""


def with_pictures(notebook, states, folder):
    """The notebook as the tool leaves it."""
    paths = [folder / "lesson.ipynb", folder / "states.json"]
    nbformat.write(notebook, paths[0])
    paths[1].write_text(json.dumps(states))
    command = [sys.executable, "-c", TAKE, *map(str, paths)]
    subprocess.run(command, cwd=ROOT / "tools", check=True)
    return nbformat.read(paths[0], as_version=4)


def top_of(page):
    taken = page.locator("div.mixer-lite").screenshot()
    shown = Image.open(io.BytesIO(taken)).convert("RGB")
    return shown.crop((0, 0, shown.width, min(shown.height, 800)))


def test_an_explorer_s_picture_is_what_a_browser_shows(saved_page, tmp_path):
    model = ml.load_pretrained("mixer_nano_cifar10")
    explorer = ml.explore_filters(model, ml.images.photo("cat"))
    explorer.block = 5
    other = explorer_cell(ml.explore_patches(ml.images.photo("cat")), "other")
    notebook = new_notebook(cells=[explorer_cell(explorer, "units"), other])
    before = json.loads(json.dumps(other.outputs))
    alt = notebook.cells[0].outputs[0].metadata
    state = json.loads(json.dumps(explorer.saved_state()))
    notebook = with_pictures(notebook, {"units": state}, tmp_path)
    other = notebook.cells[1]
    (output,) = notebook.cells[0].outputs
    assert json.loads(json.dumps(other.outputs)) == before  # there is no state of it
    assert [m["alt"] for m in output.metadata.values()] == [m["alt"] for m in alt.values()]
    assert set(output.data) == {"text/plain", "image/png"} and set(output.metadata) == {"image/png"}
    page = saved_page(
        explorer.save_html(tmp_path / "units.html"),
        viewport={"width": notebooks.WIDTH, "height": 1200},
        reduced_motion="reduce",
    )
    page.locator("canvas.units").wait_for()
    page.wait_for_timeout(700)
    shown = top_of(page)
    assert notebooks.picture_difference(picture(output), shown) < 1.5  # of few colours
    # Another block looks other, by far more.
    page.get_by_label("block", exact=True).fill("0")
    page.wait_for_timeout(500)
    assert notebooks.picture_difference(picture(output), top_of(page)) > 1.5
    # Such a picture is not compared with the figure of another run; its alt text is.
    assert (
        notebooks.differences(
            notebook, new_notebook(cells=[explorer_cell(explorer, "units"), other])
        )
        == []
    )
