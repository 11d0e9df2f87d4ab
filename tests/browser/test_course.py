"""The course's own notebooks in JupyterLab: they run, and their explorers do as Python says."""

import ast
import re
import shutil
import symtable
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from lab import ROOT, drag, pixels, shot, soon, until
from lessons import tool
from shown import agree, blended, colours, laid, soon_equal, soon_says, soon_shares, soon_shows

import mixer_lite as ml
from mixer_lite import explain, filters
from mixer_lite.images import preprocess
from mixer_lite.prediction import probabilities


@pytest.fixture(scope="module")
def model():
    return ml.load_pretrained("mixer_nano_cifar10")


def names_in(source):
    """What a cell defines, and what it reads of others."""
    source = re.sub(r"^[%!].*", "", source, flags=re.MULTILINE)
    loops = {n.id for part in ast.walk(ast.parse(source)) if isinstance(part, ast.For)
             for n in ast.walk(part.target) if isinstance(n, ast.Name)}  # fmt: skip
    top = symtable.symtable(source, "cell", "exec")
    defined = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    tables, read = [top], set()
    for table in tables:
        tables += table.get_children()
        seen = [s for s in table.get_symbols() if s.is_referenced()]
        read |= {s.get_name() for s in seen if table is top or s.is_global()}
    return defined, read - loops


def only(notebook, marks):
    """The notebook without the code that those cells do not need in which the marks stand."""
    kept, wanted = [], set()
    for cell in reversed(notebook.cells):
        if cell.cell_type == "code":
            defined, read = names_in(cell.source)
            if not wanted & defined and not any(mark in cell.source for mark in marks):
                continue
            wanted = wanted - defined | read
        kept.insert(0, cell)
    notebook.cells = kept
    return notebook


@contextmanager
def lesson(lab, browser, number, *marks):
    """A lesson, or what the cells with these marks need of it, run without errors; its page.

    All cells of all lessons run in the tests of notebooks.
    """
    (path,) = (ROOT / "notebooks").glob(f"{number}_*.ipynb")
    shutil.copytree(ROOT / "notebooks" / "maps", lab.work / "maps", dirs_exist_ok=True)
    notebook = tool.read(path)
    with lab.notebook(browser, only(notebook, marks) if marks else notebook) as page:
        page.run_all()
        kinds = [o.output_type for c in page.saved().cells for o in c.get("outputs", [])]
        assert len(kinds) >= len(marks) and "error" not in kinds
        yield page


def test_notebook_05(lab, browser, model):
    with lesson(lab, browser, "05", "ml.explore_filters(model, cat)", "def right(") as page:
        page.show(page.index("ml.explore_filters(model, cat)"))
        canvas = page.locator("canvas.units")
        canvas.wait_for()

        # It stands at the lesson's block, in pairs; a drag changes the pixels to the right ones.
        for block in (3, 5, 7):
            drag(page.get_by_label("block", exact=True), block)
            maps = filters.token_filters(model, block)
            pairs = filters.pair_opposite_phases(maps).flatten().tolist()
            soon_equal(canvas, colours(maps, pairs, **laid(canvas)))

        # A chosen unit reaches Python.
        canvas.focus()
        canvas.press("End")
        until(page, "(explorer.block, explorer.unit)", f"(7, {pairs[-1]})")

        # Switching a unit off changes the bars by the right amount.
        image = preprocess(ml.images.photo("cat"), model.config)
        with torch.no_grad():
            before = probabilities(model(image), model.config)[0]
            change = []
            for unit in range(64):
                with explain.edit(model) as units:
                    units.remove(7, unit)
                    after = probabilities(model(image), model.config)[0]
                change.append((after - before).abs().max().item())
            unit = int(np.argmax(change))
            assert change[unit] > 1e-3, "must show in percent with one decimal"
            with explain.edit(model) as units:
                units.remove(7, unit)
                after = probabilities(model(image), model.config)[0]
        top = torch.maximum(before, after).argsort(descending=True)[:6]
        top = top[before[top].argsort(descending=True)]
        page.python(f"explorer.unit = {unit}")
        page.get_by_text(f"Unit {unit} of block 7").wait_for()
        page.get_by_role("button", name="Switch this unit off").click()
        soon_shares(page, [[100 * before[i].item(), 100 * after[i].item()] for i in top])
        shot(page, "notebook_05")
        page.get_by_role("button", name="Switch all on again").click()
        soon_shares(
            page, [[100 * before[i].item()] * 2 for i in before.argsort(descending=True)[:6]]
        )
        # The notebook's own model was never touched, so what follows in it is still true.
        assert page.python("print(bool(right(model) == right(ml.load_pretrained("
                           "'mixer_nano_cifar10'))))").strip() == "True"  # fmt: skip


def test_notebook_06(lab, browser, model):
    with lesson(lab, browser, "06", "ml.explore_predictions(", "ml.explore_influence(") as page:
        # The explorer of predictions, with the notebook's photographs.
        page.show(page.index("ml.explore_predictions(model, pictures"))
        page.locator("canvas.seen").wait_for()
        twin = ml.explore_predictions(model, [ml.images.photo("cat"), ml.images.photo("eagle")])
        for number, chosen in ((1, 2), (0, 3)):
            page.locator(".thumbnails button").nth(number).click()
            twin.image = number
            page.get_by_label("Evidence for").select_option(str(chosen))
            soon_shows(page, blended(model, twin, chosen, 50))
            soon_says(page, model, twin)
        drag(page.get_by_label("Overlay"), 46)
        soon_shows(page, blended(model, twin, 3, 46))
        canvas = page.locator("canvas.seen")
        side = canvas.bounding_box()["width"] / 8
        for patch in (28, 12):  # cover two patches: the answer is the network's to what is left
            canvas.click(position={"x": side * (patch % 8 + 0.5), "y": side * (patch // 8 + 0.5)})
        twin.covered = [12, 28]
        soon_says(page, model, twin)
        soon_shows(page, blended(model, twin, 3, 46))
        shot(page, "notebook_06_predictions")

        # The explorer of influence.
        page.show(page.index("ml.explore_influence(model"))
        page.locator(".influence canvas").first.wait_for()
        image = preprocess(ml.images.photo("cat"), model.config)
        for block in (3, 6, 0):
            drag(page.locator(".influence").get_by_label("block", exact=True), block)
            matrix = explain.influence(model, image, block).numpy()
            agree(page, matrix[36], 36)
        shot(page, "notebook_06_influence")


def test_notebook_01(lab, browser):
    with lesson(lab, browser, "01") as page:
        # Answers lie folded, and the map at the top is there.
        folded = page.evaluate(
            """() => window.panel.content.widgets.filter((cell) => cell.inputHidden)
                   .map((cell) => cell.model.getMetadata("jupyter"))"""
        )
        assert folded == [{"source_hidden": True}] * 4
        page.show(0)
        page.locator("img[src*='lesson_01.svg']").first.wait_for()

        page.show(page.index("ml.explore_patches(photo"))
        canvas = page.locator(".patches canvas").first
        canvas.wait_for()
        twin = ml.explore_patches(ml.images.photo("cat"), patch_size=32, row=2, column=2)
        before = twin.pixels
        soon(lambda: np.testing.assert_array_equal(pixels(canvas)[..., :3], before))
        page.get_by_role("button", name="patches", exact=True).click()
        twin.patches_shuffled = True
        assert (twin.pixels != before).any()
        soon(lambda: np.testing.assert_array_equal(pixels(canvas)[..., :3], twin.pixels))
        shot(page, "notebook_01")


def test_notebook_7(lab, browser, model):
    cells = [
        "import mixer_lite as ml",
        'model = ml.load_pretrained("mixer_nano_cifar10")\n'
        'explorer = ml.explore_filters(model, ml.images.photo("cat"))\n'
        "explorer",
    ]
    with lab.notebook(browser, cells, classic=True) as page:
        assert "/notebooks/" in page.url
        page.run_all()
        canvas = page.locator("canvas.units")
        canvas.wait_for()
        drag(page.get_by_label("block", exact=True), 4)
        maps = filters.token_filters(model, 4)
        pairs = filters.pair_opposite_phases(maps).flatten().tolist()
        soon_equal(canvas, lambda: colours(maps, pairs, **laid(canvas)))
        until(page, "explorer.block", "4")
        shot(page, "notebook_7")
