"""In JupyterLab the page answers first: while Python cannot, and with Python's own numbers."""

import json
import time

import numpy as np
import pytest
from lab import drag, shot, soon, until

FREEZE = 6  # seconds

CELLS = [
    "import json, numpy as np, mixer_lite as ml\n"
    'model, cat = ml.load_pretrained("mixer_nano_cifar10"), ml.images.photo("cat")\n'
    "def plainly(value):\n"
    "    if isinstance(value, dict) and 'data' in value:\n"
    "        return np.frombuffer(value['data'], np.dtype(value['dtype'])).tolist()\n"
    "    if isinstance(value, dict):\n"
    "        return {name: plainly(own) for name, own in value.items()}\n"
    "    return value",
    "explorer = ml.explore_filters(model, cat)\nexplorer",
    "explorer = ml.explore_mixer(model, cat)\nexplorer",
    "explorer = ml.explore_predictions(model, cat)\nexplorer",
    "explorer = ml.explore_influence(model, cat)\nexplorer",
]

# What the page shows of a trait, arrays as lists.
SHOWN = """(root, name) => JSON.stringify(root.parentElement.model.get(name), (key, value) => {
    if (!value?.data) return value;
    const { buffer, byteOffset, byteLength } = value.data;
    const kinds = { float32: Float32Array, int32: Int32Array, int8: Int8Array };
    return Array.from(new kinds[value.dtype](buffer.slice(byteOffset, byteOffset + byteLength)));
})"""


@pytest.fixture
def explored(lab, browser):
    """Run one of the cells in JupyterLab: the page, and the explorer once its engine answers."""
    opened = []

    def explore(index, before=""):
        notebook = lab.notebook(browser, CELLS, width=1400)
        page = notebook.__enter__()
        opened.append(notebook)
        page.run(0)
        page.evaluate(before or "0")
        page.run(index)
        root = page.cell(index).locator("div.mixer-lite")
        root.wait_for()
        return page, root

    yield explore
    for notebook in opened:
        notebook.__exit__(None, None, None)


def answers_first(root):
    soon(lambda: here(root))


def here(root):
    assert root.evaluate("(root) => root.parentElement.model.here")


def shown(root, name):
    return json.loads(root.evaluate(SHOWN, name))


def told(page, name):
    return json.loads(page.python(f"print(json.dumps(plainly(explorer.{name})))"))


def close(a, b, tolerance):
    """Two answers agree: same names, same choices, numbers to a tolerance."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            close(a[name], b[name], tolerance)
    elif isinstance(a, list) and a and isinstance(a[0], (int, float)):
        np.testing.assert_allclose(a, b, atol=tolerance, rtol=1e-4)
    elif isinstance(a, float):
        assert abs(a - b) <= tolerance * max(1, abs(b))
    else:
        assert a == b


class Frozen:
    """Python can do nothing at all for some seconds: a call holds the interpreter's lock."""

    def __init__(self, page):
        self.page = page

    def __enter__(self):
        self.page.evaluate(
            "(code) => { window.frozen = true; window.panel.sessionContext.session.kernel"
            ".requestExecute({ code }).done.then(() => (window.frozen = false)); }",
            f"import ctypes\nctypes.PyDLL(None).sleep({FREEZE})",
        )
        self.page.wait_for_timeout(500)
        return self

    def still(self):
        assert self.page.evaluate("window.frozen")

    def __exit__(self, *_):
        self.page.wait_for_function("!window.frozen")


def test_a_unit_off_is_answered_while_python_cannot(explored):
    page, root = explored(1)
    answers_first(root)
    with Frozen(page) as frozen:
        root.get_by_role("button", name="Switch this unit off").click()
        page.wait_for_timeout(500)
        first, response = shown(root, "predictions"), shown(root, "_response")
        frozen.still()
    assert first["before"] != first["after"]
    until(page, "explorer.off", "[[0, 0]]")
    close(first, told(page, "predictions"), 1e-6)
    close({**response, "channels": 0}, {**told(page, "_response"), "channels": 0}, 1e-5)
    shot(page, "notebook_first_answers")


def test_covering_is_answered_while_python_cannot(explored):
    page, root = explored(2)
    answers_first(root)
    with Frozen(page) as frozen:
        canvas = root.locator("canvas.seen")
        box = canvas.bounding_box()
        canvas.click(position={"x": 0.45 * box["width"], "y": 0.45 * box["height"]})
        drag(root.get_by_label("channel", exact=True), 9)
        page.wait_for_timeout(500)
        first = shown(root, "_way")
        frozen.still()
    assert first["choice"]["covered"] == [27] and first["choice"]["channel"] == 9
    until(page, "(explorer.covered, explorer.channel)", "([27], 9)")
    close(first, told(page, "_way"), 2e-5)


def test_a_prediction_is_taken_apart_while_python_cannot(explored):
    page, root = explored(3)
    answers_first(root)
    with Frozen(page) as frozen:
        root.get_by_role("button", name="Shuffle patches").click()
        page.wait_for_timeout(500)
        first = shown(root, "_now")
        frozen.still()
    until(page, "explorer.shuffle", "0")
    close(first, told(page, "_now"), 2e-5)


def test_the_whole_network_s_influence_stays_exact(explored):
    page, root = explored(4)
    answers_first(root)
    root.get_by_role("button", name="whole network").click()

    def exact():
        assert shown(root, "_exact") == [36]

    soon(exact)
    until(page, "explorer.whole and not explorer._busy", "True")
    wanted = json.loads(
        page.python(
            "x = ml.images.preprocess(cat, model.config)\n"
            "print(ml.explain.influence(model, x, None, tokens=[36], probes=None).tolist())"
        )
    )[0]

    def all_of_it():
        matrix = np.array(shown(root, "_maps")["whole"], float).reshape(64, 64)
        np.testing.assert_allclose(matrix[36], wanted, rtol=1e-3)  # exact, from the page
        estimated = np.array(told(page, "_maps")["whole"]).reshape(64, 64)
        np.testing.assert_array_equal(matrix[:36], estimated[:36])  # the rest from Python

    soon(all_of_it)


def test_what_python_sets_is_shown_and_choices_go_on(explored):
    page, root = explored(1)
    answers_first(root)
    page.python("explorer.block, explorer.unit, explorer.off = 3, 7, [[3, 7]]")
    root.get_by_text("Unit 7 of block 3").wait_for()
    soon(lambda: close(shown(root, "predictions"), told(page, "predictions"), 1e-9))
    root.get_by_role("button", name="Switch this unit on").click()
    until(page, "explorer.off", "[]")
    assert shown(root, "off") == []


def test_a_drag_goes_on_when_the_engine_takes_over(explored):
    page, root = explored(1)
    answers_first(root)
    blocks = root.evaluate(
        """async (root) => {
            const { model } = root.parentElement, slider = root.querySelector("input[type=range]");
            const to = (block) => {
                slider.value = block;
                slider.dispatchEvent(new Event("input", { bubbles: true }));
                return model.get("block");
            };
            model.here = false; // as before the network came
            const before = [to(1), to(2)];
            model.answerHere();
            return [...before, to(3), to(4)];
        }"""
    )
    assert blocks == [1, 2, 3, 4]
    until(page, "explorer.block", "4")


def test_no_older_answer_comes_after_a_newer_one(explored):
    page, root = explored(1)
    answers_first(root)
    # Python tells its bars at once and is not done for a while.
    page.python(
        "import time\nkind = type(explorer)\nrespond = kind._respond\n"
        "def slowly(self, change=None):\n    time.sleep(0.4)\n    respond(self)\n"
        "kind._respond = slowly"
    )
    root.evaluate(
        """(root) => {
            const { model } = root.parentElement;
            window.seen = [];
            const note = () => window.seen.push(model.get("predictions").after[0]);
            model.on("change:predictions", note);
        }"""
    )
    off = root.get_by_role("button", name="Switch this unit off")
    off.click()
    page.wait_for_timeout(250)
    root.get_by_role("button", name="Switch all on again").click()
    until(page, "explorer.off", "[]")
    page.wait_for_timeout(1500)
    first, *rest = page.evaluate("window.seen")
    before = told(page, "predictions")["before"][0]
    assert abs(first - before) > 1e-5 and rest
    assert rest == pytest.approx([before] * len(rest), abs=1e-6)


def test_where_no_worker_can_be_made_python_answers(explored):
    refuse = "window.Worker = class { constructor() { throw new Error('no worker here'); } }; 0"
    page, root = explored(1, refuse)
    time.sleep(2)
    root.get_by_role("button", name="Switch this unit off").click()
    until(page, "explorer.off", "[[0, 0]]")
    soon(lambda: close(shown(root, "predictions"), told(page, "predictions"), 1e-9))
    assert not root.evaluate("(root) => root.parentElement.model.here")
