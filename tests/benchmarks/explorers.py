"""How fast explorers are, in a real JupyterLab and browser: python tests/benchmarks/explorers.py.

With --saved: saved pages alone, from a pointer's event to the painted answer of their network.

Prints a table. Latency: from a slider's input event to the painted picture, for all units of a
block, beside ipywidgets.interact and matplotlib drawing the same units in the same page. Random
weights cost the same as trained ones. Close other programs first: all times are wall-clock.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "browser"))

import lab as laboratory

EVENTS, SLOW_EVENTS, CLICKS = 200, 12, 20

CELLS = [
    "%matplotlib inline\n"
    "import time, matplotlib.pyplot as plt, mixer_lite as ml\n"
    "from ipywidgets import IntSlider, interact\n"
    "from mixer_lite.explorers.filters.page import explore_filters\n"
    'b16, l16 = ml.create_model("mixer_b16_224"), ml.create_model("mixer_l16_224")\n'
    'nano = ml.load_pretrained("mixer_nano_cifar10")\n'
    'cat = ml.images.photo("cat")\n'
    "ml.explore_filters(nano, cat)",
    "start = time.perf_counter()\n"
    "explorer = ml.explore_filters(b16)\n"
    "print(time.perf_counter() - start)\n"
    "explorer",
    "explorer._ordering.join()\nlarge = ml.explore_filters(l16)\nlarge",
    "large._ordering.join()\n"
    "def sheet(explorer, block):\n"
    "    explorer.block = block\n"
    "    return explorer.figure().axes[0].images[0].get_array()\n"
    "sheets = [sheet(explorer, block) for block in range(12)]\n"
    "@interact(block=IntSlider(0, 0, 11))\n"
    "def draw(block):\n"
    "    figure, axes = plt.subplots(figsize=(7.2, 4.8))\n"
    "    axes.imshow(sheets[block], cmap='RdBu_r', vmin=-1, vmax=1, interpolation='nearest')\n"
    "    axes.axis('off')\n"
    "    plt.show()",
    "ml.explore_filters(nano, cat)",
]

# In a frame, where browsers deliver input: the event, all that it calls, and the frame's painting.
DRAG = """async ([slider, events]) => {
    const own = [], painted = [];
    for (let i = 0; i < events; i++) {
        slider.value = (Number(slider.value) + 1) % (Number(slider.max) + 1);
        await new Promise((done) => requestAnimationFrame(() => {
            const start = performance.now();
            slider.dispatchEvent(new Event("input", { bubbles: true }));
            own.push(performance.now() - start);
            const { port1, port2 } = new MessageChannel();
            port1.onmessage = () => { painted.push(performance.now() - start); done(); };
            port2.postMessage(0);
        }));
    }
    return { own, painted };
}"""

# A key on interact's slider, until another picture has come and is painted.
INTERACT = """async ([cell, events]) => {
    const handle = cell.querySelector(".noUi-handle"), times = [];
    const source = () => cell.querySelector("img")?.src;
    for (let i = 0; i < events; i++) {
        const before = source(), start = performance.now();
        const key = i % 22 < 11 ? "ArrowRight" : "ArrowLeft";
        handle.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        while (!source() || source() === before)
            await new Promise((done) => requestAnimationFrame(done));
        await cell.querySelector("img").decode();
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
        times.push(performance.now() - start);
    }
    return times;
}"""

# A cell's run until its canvas is there and painted.
FIRST = """async (index) => {
    const { content } = window.panel;
    content.activeCellIndex = index;
    content.widgets[index].node.scrollIntoView();
    const start = performance.now();
    const run = window.jupyterapp.commands.execute("notebook:run-cell");
    while (!content.widgets[index].node.querySelector("canvas.units"))
        await new Promise((done) => requestAnimationFrame(done));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const shown = performance.now() - start;
    await run;
    return shown;
}"""

# What the explorer of a cell takes for its model.
MODEL = 'cell.querySelector("div.mixer-lite").parentElement.model'

# A click on the button until the bars change.
CLICK = """async ([cell, clicks]) => {
    const bars = cell.querySelector(".bars"), times = [];
    const button = cell.querySelector("button[aria-pressed]");
    for (let i = 0; i < clicks; i++) {
        const before = bars.innerHTML, start = performance.now();
        button.click();
        while (bars.innerHTML === before)
            await new Promise((done) => requestAnimationFrame(done));
        times.push(performance.now() - start);
    }
    return times;
}"""


# Patch after patch is covered: from the pointer's event until the network's answer is painted.
COVER = """async (events) => {
    const root = document.querySelector("div.mixer-lite"), times = [];
    const canvas = root.querySelector("canvas.seen");
    const frame = () => new Promise((done) => requestAnimationFrame(done));
    const painted = () => new Promise((done) => {  // a task after the frame's own painting
        const { port1, port2 } = new MessageChannel();
        port1.onmessage = done;
        requestAnimationFrame(() => port2.postMessage(0));
    });
    for (let i = 0; i < events; i++) {
        await frame();
        const { left, top, width, height } = canvas.getBoundingClientRect();
        const clientX = left + ((i % 8) + 0.5) * width / 8;
        const clientY = top + ((i >> 3) % 8 + 0.5) * height / 8;
        const { drawn } = root.dataset, start = performance.now();
        for (const kind of ["pointerdown", "pointerup"])
            canvas.dispatchEvent(new PointerEvent(kind, { clientX, clientY, bubbles: true }));
        do await painted();
        while (root.getAttribute("aria-busy") !== "false" || root.dataset.drawn === drawn);
        times.push(performance.now() - start);
    }
    return times;
}"""


def saved(browser, folder: Path) -> list[str]:
    """Lines of the table for saved pages, by the SIMD kernel and in plain JavaScript."""
    import mixer_lite as ml

    lines = []
    for name in ("mixer_nano_cifar10", "mixer_grid16_cifar10"):
        model = ml.load_pretrained(name)
        path = ml.explore_mixer(model).save_html(folder / f"{name}.html")
        text = path.read_text()
        plain = folder / f"{name}_plain.html"
        plain.write_text(re.sub(r'"kernel": "[^"]+"', '"kernel": "AAAA"', text), encoding="utf-8")
        for opened, kind in ((path, "SIMD"), (plain, "JavaScript")):
            page = browser.new_page(viewport={"width": 1300, "height": 1200})
            page.goto(opened.as_uri())
            page.locator("canvas.seen").wait_for()
            ready = page.evaluate("performance.now()")
            page.evaluate(COVER, 5)
            lines.append(row(f"explore_mixer, {name}, {kind}: painted", page.evaluate(COVER, 64)))
            lines.append(
                f"{'':4}ready {ready:.0f} ms after it was opened, {len(text) / 1e6:.1f} MB"
            )
            page.close()
    return lines


def row(what: str, times: list[float]) -> str:
    """A line of the table: median and 95th percentile of milliseconds."""
    middle, high = np.percentile(times, [50, 95])
    return f"{what:58s} {middle:9.1f} {high:9.1f} {len(times):6d}"


def drag(page, slider, events: int = EVENTS) -> dict[str, list[float]]:
    """Milliseconds of the event's own code, and until the picture was painted."""
    return page.evaluate(DRAG, [slider.element_handle(), events])


def memory(page) -> tuple[float, float]:
    """MB that the page's scripts hold: objects, and the buffers of arrays."""
    session = page.context.new_cdp_session(page.page)
    session.send("HeapProfiler.collectGarbage")
    usage = session.send("Runtime.getHeapUsage")
    return usage["usedSize"] / 1e6, usage.get("backingStorageSize", float("nan")) / 1e6


def measure(page) -> list[str]:
    """Lines of the table."""
    lines = [f"{'milliseconds':58s} {'median':>9s} {'95 %':>9s} {'n':>6s}"]
    page.run(0)
    objects, buffers = memory(page)
    first = page.evaluate(FIRST, 1)
    built = 1000 * float(page.printed(1))
    page.run(2)
    page.cell(2).locator("canvas.units").wait_for()
    page.python("large._ordering.join()")  # or its work would run beside what is measured
    more_objects, more_buffers = memory(page)
    for index, name in ((1, "B/16, 384 units of 14 x 14"), (2, "L/16, 512 units of 14 x 14")):
        page.cell(index).scroll_into_view_if_needed()
        slider = page.cell(index).get_by_label("block", exact=True)
        times = drag(page, slider)
        lines.append(row(f"explore_filters, {name}: its own code", times["own"]))
        lines.append(row(f"explore_filters, {name}: painted", times["painted"]))
    page.run(3)
    page.cell(3).locator("img").wait_for()
    cell = page.cell(3).element_handle()
    lines.append(
        row("interact and matplotlib, the same B/16", page.evaluate(INTERACT, [cell, SLOW_EVENTS]))
    )
    page.run(4)
    page.cell(4).locator(".bar").first.wait_for()
    cell = page.cell(4).element_handle()
    page.wait_for_function(f"(cell) => {MODEL}.here", arg=cell)
    # By the engine in the page; and by Python, as for larger models.
    for answers in ("the page", "Python"):
        times = page.evaluate(CLICK, [cell, CLICKS])
        lines.append(row(f"unit off or on, nano, answered by {answers}: new bars", times))
        page.wait_for_timeout(1000)
        page.evaluate(f"(cell) => {{ {MODEL}.here = false; }}", cell)
    lines += [
        f"first paint of explore_filters on B/16 after the cell's run: {first:.0f} ms, "
        f"of which Python builds it in {built:.0f} ms",
        f"page's memory before B/16 and L/16: {objects:.1f} MB of objects, {buffers:.1f} MB of "
        f"buffers; with both: {more_objects:.1f} and {more_buffers:.1f} MB",
    ]
    return lines


def main() -> None:
    """Start JupyterLab and the browser, measure, print the table and keep it."""
    if "--saved" in sys.argv:
        with tempfile.TemporaryDirectory() as folder, laboratory.chromium() as browser:
            print("\n".join(saved(browser, Path(folder))))
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        laboratory.chromium() as browser,
        laboratory.jupyterlab(Path(folder)) as lab,
        lab.notebook(browser, CELLS) as page,
    ):
        lines = measure(page)
        laboratory.shot(page, "benchmark")
    text = "\n".join(lines)
    laboratory.ARTIFACTS.joinpath("benchmark_explorers.txt").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
