"""watch_training during a real run in JupyterLab, and explore_training in a saved page."""

import json

import numpy as np
import pytest
from lab import drag, pixels, shot, soon, until
from shown import colours, soon_equal

import mixer_lite as ml

CELLS = [
    "import threading, time, torch, mixer_lite as ml\n"
    "from dataclasses import replace\n"
    "from mixer_lite.explorers.training.page import TrainingExplorer\n"
    "from mixer_lite.training.recipe import Recipe\n"
    "from mixer_lite.training.loop import train\n"
    # S = 16, C = 12, 7 units: a step takes a few hundredths of a second.
    'ml.specs.SPECS["mixer_tiny_cifar10"] = dict(\n'
    "    image_size=32, patch_size=8, num_classes=10, num_blocks=2,\n"
    "    hidden_dim=12, tokens_mlp_dim=7, channels_mlp_dim=20)\n"
    "images, labels = ml.datasets.cifar10_sample()\n"
    "recipe = replace(Recipe(), epochs=20, batch_size=50, auto_augment=0.0, snapshots=5)\n"
    "data = dict(images=images, labels=labels, recipe=recipe)\n"
    # On a fast machine it would be done before a hand is at the button.
    "see, hurry = TrainingExplorer._see, threading.Event()\n"
    "def unhurried(self, moment):\n"
    "    see(self, moment)\n"
    "    hurry.is_set() or time.sleep(0.15)\n"
    "TrainingExplorer._see = unhurried\n"
    'run = ml.watch_training("mixer_tiny_cifar10", "run", **data)\n'
    "run",
    "model = run.wait()\nprint(run.state)",
]
STEPS = 20 * 10


@pytest.fixture(scope="module")
def page(lab, browser):
    with lab.notebook(browser, CELLS) as opened:
        opened.run(0)
        opened.locator(".training canvas.units").wait_for()
        yield opened


def stand(page):
    """State, and the step that is shown."""
    return page.locator(".mixer-lite.training").evaluate(
        "(node) => [node.dataset.state, Number(node.dataset.step)]"
    )


def soon_stands(page, state, least=0):
    def check():
        now, step = stand(page)
        assert now == state and step >= least, (now, step)
        return step

    return soon(check)


def told(page):
    """The measures that are written below the last chart."""
    words = page.locator(".training .readout").last.locator("span").all_inner_texts()
    return [float(word.replace("−", "-").split()[-1]) for word in words]


def maps_of(page, code):
    """Filters that the kernel holds."""
    return np.array(json.loads(page.python(f"print(({code}).tolist())")), np.float32)


def wait_in_a_cell(page):
    """Begin to run the cell that waits; the kernel is busy from here on."""
    page.evaluate(
        """() => {
            window.panel.content.activeCellIndex = 1;
            window.waiting = window.jupyterapp.commands.execute("notebook:run-cell");
        }"""
    )
    page.wait_for_function("window.panel.sessionContext.session.kernel.status === 'busy'")


def test_a_run_is_seen_stopped_and_gone_on_with_and_nothing_is_lost(page):
    # It goes on by itself while the kernel is free for other cells.
    soon_stands(page, "running", 5)
    assert page.python("print(6 * 7, run.state)").split() == ["42", "running"]
    readout = page.locator(".training .readout").first
    assert 0.5 < float(readout.inner_text().removeprefix("loss ")) < 5
    shot(page, "training_running")

    page.get_by_role("button", name="Stop").click()
    step = soon_stands(page, "stopped", 5)
    assert (
        step < STEPS and f"Stopped at step {step} of {STEPS}" in page.locator(".told").inner_text()
    )
    assert page.python("print(run._run.last.step)").strip() == str(step)
    drag(page.get_by_label("block", exact=True), 1)
    canvas = page.locator(".training canvas.units")
    until(page, "run.block", "1")

    page.get_by_role("button", name="Go on").click()
    soon_stands(page, "running", step + 1)

    # The button is heard while a cell waits, and the cell ends.
    wait_in_a_cell(page)
    page.get_by_role("button", name="Stop").click()
    step = soon_stands(page, "stopped", step + 1)
    page.evaluate("window.waiting")
    assert page.printed(1).strip() == "stopped"
    maps = maps_of(page, "ml.filters.token_filters(run.model, 1)")
    soon_equal(canvas, colours_of(maps, range(7)))

    # So is the notebook's own stop button.
    page.get_by_role("button", name="Go on").click()
    soon_stands(page, "running", step + 1)
    wait_in_a_cell(page)
    page.evaluate("window.panel.sessionContext.session.kernel.interrupt()")
    page.evaluate("window.waiting")
    with pytest.raises(Exception, match="KeyboardInterrupt"):
        page.printed(1)
    step = soon_stands(page, "stopped", step + 1)

    page.python("hurry.set()")
    page.get_by_role("button", name="Go on").click()
    assert page.run(1).strip() == "done"
    soon_stands(page, "done", STEPS)
    assert page.get_by_role("button", name="Go on").count() == 0
    shot(page, "training_done")
    same = page.python(
        'alone = train("mixer_tiny_cifar10", "alone", **data).state_dict()\n'
        "print(all(torch.equal(v, alone[k]) for k, v in model.state_dict().items()))"
    )
    assert same.strip() == "True"


def colours_of(maps, order):
    import torch

    return colours(torch.from_numpy(maps), order, 4)


def test_afterwards_every_snapshot_can_be_gone_back_to(page):
    soon_stands(page, "done", STEPS)
    steps = json.loads(page.python("print([f.step for f in run.history.frames])"))
    assert len(steps) > 3 and steps[0] == 0 and steps[-1] == STEPS
    slider = page.get_by_label("snapshot", exact=True)
    canvas = page.locator(".training canvas.units")
    page.get_by_label("order").select_option("pairs")
    for frame in (len(steps) - 2, 1):
        drag(slider, frame)
        until(page, "run.frame", str(frame))
        order = json.loads(page.python("print(run.shown_order())"))
        soon_equal(canvas, colours_of(maps_of(page, "run.shown.filters[1]"), order))
        assert stand(page)[1] == steps[frame]
        measured = json.loads(page.python("print(run.shown.measures[1].tolist())"))
        assert told(page) == pytest.approx(measured, abs=0.0051)
    drag(slider, len(steps) - 1)
    until(page, "run.frame", "None")
    # Pictures: what the trained model takes them for.
    chances = maps_of(page, "run.history.frames[-1].chances")
    figures = page.locator(".training .pictures figure").all()
    for figure, row in zip(figures, chances, strict=True):
        name = figure.locator("canvas").get_attribute("aria-label")
        top = ml.specs.CIFAR10_CLASSES[row.argmax()]
        sign, label, share, _ = figure.locator("figcaption").inner_text().split()[1:]
        assert (sign, label) == ("✓" if top == name else "✗", top)
        assert abs(int(share) - 100 * row.max()) < 0.51


def test_a_run_that_fails_says_why(page):
    page.python(
        'bad = ml.watch_training("mixer_tiny_cifar10", "run", seed=1, **data)\n'
        "try: bad.wait()\n"
        "except ValueError as error: told = str(error)"
    )
    assert page.python("print(bad.state, bad.message == told)").split() == ["failed", "True"]


@pytest.fixture(scope="module")
def nano():
    return ml.explore_training()


def test_bundled_snapshots_in_a_saved_page(saved_page, tmp_path, nano):
    page = saved_page(
        nano.save_html(tmp_path / "nano.html"),
        viewport={"width": 1000, "height": 900}, color_scheme="dark",
    )  # fmt: skip
    canvas = page.locator("canvas.units")
    canvas.wait_for()
    order = nano.shown_order()
    frames, block = nano.history.frames, nano.block
    soon_equal(canvas, colours(frames[-1].filters[block], order, 8))
    shot(page, "training_replay_dark")
    slider = page.get_by_label("snapshot", exact=True)
    for frame in (18, 4):
        drag(slider, frame)
        soon_equal(canvas, colours(frames[frame].filters[block], order, 8))
        assert told(page) == pytest.approx(frames[frame].measures[block].tolist(), abs=0.0051)
    # It plays from where it stands to the end.
    seen = set()
    page.get_by_role("button", name="Play").click()

    def ended():
        seen.add(stand(page)[1])
        assert stand(page)[1] == frames[-1].step
        assert page.get_by_role("button", name="Play").is_visible()

    soon(ended)
    assert len(seen) > 3
    # A click in a chart goes to the nearest snapshot: on the left to the first one.
    chart = page.locator(".training svg").last
    box = chart.bounding_box()
    chart.click(position={"x": box["width"] * 42 / 340, "y": box["height"] / 2})

    def at_the_start():
        assert stand(page) == ["done", 0]

    soon(at_the_start)
    soon_equal(canvas, colours(frames[0].filters[block], order, 8))
    shot(page, "training_replay_noise")
    # One colour scale for all steps: noise is pale.
    page.get_by_label("colours").select_option("block")
    nano.frame = 0
    soon(lambda: pale(canvas))
    nano.frame = None
    assert page.get_by_role("button", name="Stop").count() == 0


def pale(canvas):
    shown = pixels(canvas)[..., :3].astype(int)
    assert (shown.max(axis=2) - shown.min(axis=2)).max() < 20


def test_narrow(saved_page, tmp_path, nano):
    path = nano.save_html(tmp_path / "nano.html")
    page = saved_page(path, viewport={"width": 320, "height": 900})
    page.locator("canvas.units").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    shot(page, "training_narrow")
