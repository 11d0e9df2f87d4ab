"""How quick the web book is, by Chromium's own clocks: python tests/benchmarks/book.py [folder].

For the home page and two lessons, from a server of this machine, the median of five fresh visits:
megabytes of the first view, seconds to the first and the largest paint, how far things jump,
seconds of scripts and of the whole page's thread, and how long an explorer takes from coming into
view to its answers.
"""

from __future__ import annotations

import functools
import http.server
import statistics
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "browser"))

from lab import chromium  # noqa: E402

PAGES = "index.html", "lessons/01_images_as_tokens.html", "lessons/06_why_this_prediction.html"
WATCH = """
window.seen = { jumps: 0 };
const watch = (type, see) => new PerformanceObserver((list) => list.getEntries().forEach(see))
    .observe({ type, buffered: true });
watch("layout-shift", (entry) => (seen.jumps += entry.hadRecentInput ? 0 : entry.value));
watch("largest-contentful-paint", (entry) => (seen.largest = entry.startTime / 1000));
new MutationObserver((all) => all.forEach(({ target }) => {
    if (target.dataset?.ready) seen.alive ??= performance.now() / 1000;
})).observe(document, { subtree: true, attributes: true, attributeFilter: ["data-ready"] });
"""
LOADED = """() => {
    const entries = ["navigation", "resource"].flatMap((t) => performance.getEntriesByType(t));
    const { startTime } = performance.getEntriesByName("first-contentful-paint")[0];
    const megabytes = entries.reduce((sum, entry) => sum + entry.decodedBodySize, 0) / 1e6;
    return { megabytes, first: startTime / 1000, ...seen };
}"""
COME = """async (place) => {
    const start = performance.now();
    place.scrollIntoView({ behavior: "instant", block: "center" });
    while (!place.dataset.ready) await new Promise((go) => setTimeout(go, 5));
    return (performance.now() - start) / 1000;
}"""


def visit(browser, address: str) -> dict[str, float]:
    """One visit of a page, nothing kept from before."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.add_init_script(WATCH)
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    page.goto(address, wait_until="networkidle")
    if address.endswith("index.html"):  # its explorer is in the first view
        page.wait_for_function("seen.alive")
    found = page.evaluate(LOADED)
    metrics = session.send("Performance.getMetrics")["metrics"]
    clocks = {metric["name"]: metric["value"] for metric in metrics}
    found |= {"scripts": clocks["ScriptDuration"], "thread": clocks["TaskDuration"]}
    waiting = page.query_selector_all(".explorer:not([data-ready])")
    for k, place in enumerate(waiting, 1):
        found[f"explorer {k}"] = place.evaluate(COME)
    context.close()
    return found


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_) -> None:
        """Say nothing."""


def main() -> None:
    """Print a line a page."""
    book = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "book")
    handler = functools.partial(_Quiet, directory=str(book))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with chromium() as browser:
            for name in PAGES:
                address = f"http://127.0.0.1:{server.server_port}/{name}"
                visits = [visit(browser, address) for _ in range(5)]
                told = {key: statistics.median(v[key] for v in visits) for key in visits[0]}
                print(name, ", ".join(f"{key} {value:.2f}" for key, value in told.items()))
        server.shutdown()


if __name__ == "__main__":
    main()
