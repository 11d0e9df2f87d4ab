"""A real JupyterLab in a temporary folder, and notebooks in it driven through a real browser."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import numpy as np
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
ARTIFACTS = ROOT / ".artifacts"  # screenshots, to be looked at
PATIENCE = 120  # seconds for anything that a busy machine may delay
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def _tool(name):
    spec = importlib.util.spec_from_file_location(f"{name}_tool", ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tool, notebooks = _tool("browser"), _tool("notebooks")


@contextmanager
def chromium():
    """The browser, headless; it reaches this machine alone."""
    path = tool.find()
    assert path, "No browser was found: run python tools/browser.py, which installs one."
    args = ["--disable-gpu", "--disable-background-networking", "--enable-precise-memory-info"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        args.append("--no-sandbox")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=args, timeout=1000 * PATIENCE
        )
        yield browser
        browser.close()


@contextmanager
def jupyterlab(folder: Path):
    """JupyterLab on a free port, all that it writes under ``folder``: its address with token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, work = secrets.token_hex(16), folder / "work"
    work.mkdir()
    _settings(folder, "apputils-extension/notification", fetchNews="false", checkForUpdates=False)
    environment = {
        **os.environ,
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
        "JUPYTER_DATA_DIR": str(folder / "data"),
        "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
        "IPYTHONDIR": str(folder / "ipython"),
        **notebooks.alone(folder / "empty"),
    }
    if environment.pop("PYTHONDONTWRITEBYTECODE", None):  # else every kernel compiles torch again
        environment["PYTHONPYCACHEPREFIX"] = os.environ.get(
            "PYTHONPYCACHEPREFIX", str(folder / "pycache")
        )
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}",
        "--ServerApp.port_retries=0", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={work}",
        f"--IdentityProvider.token={token}", "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        _await_server(server, f"http://127.0.0.1:{port}/api/status?token={token}", folder)
        yield Lab(f"http://127.0.0.1:{port}", token, work)
    finally:
        server.terminate()
        server.wait(60)


def _settings(folder: Path, plugin: str, **values) -> None:
    path = folder / "config" / "lab" / "user-settings" / "@jupyterlab"
    path = path / f"{plugin}.jupyterlab-settings"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def _await_server(server: subprocess.Popen, address: str, folder: Path) -> None:
    end = time.monotonic() + 3 * PATIENCE  # a cold start reads many files
    while time.monotonic() < end and server.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start: {(folder / 'server.log').read_text()[-2000:]}")


class Lab:
    """A running JupyterLab."""

    def __init__(self, address: str, token: str, work: Path):
        self.address, self.token, self.work = address, token, work
        self.count = 0

    @contextmanager
    def notebook(self, browser, cells, *, dark=False, width=1280, height=1400, classic=False):
        """A :class:`Page` with a notebook of these cells (sources, or a whole notebook) open.

        In JupyterLab, or (classic) in Notebook 7. At the end the kernel is shut down, and an error
        in the console fails the test.
        """
        self.count += 1
        name = f"notebook_{self.count}.ipynb"
        if isinstance(cells, NotebookNode):
            notebook = cells
        else:
            notebook = new_notebook(cells=[new_code_cell(source) for source in cells])
        notebook.metadata["kernelspec"] = KERNEL
        nbformat.write(notebook, self.work / name)
        context = browser.new_context(viewport={"width": width, "height": height})
        context.set_default_timeout(1000 * PATIENCE)
        try:
            page = Page(context.new_page())
            page.file, page.opening = self.work / name, True
            place = f"notebooks/{name}" if classic else f"lab/workspaces/w{self.count}"
            page.goto(f"{self.address}/{place}?token={self.token}")
            page.open(name, dark)
            yield page
            page.close_notebook()
            assert page.errors == [], "\n".join(page.errors)
        finally:
            context.close()


class Page:
    """A browser's page with a notebook; unknown names are those of Playwright's page."""

    def __init__(self, page):
        self.page, self.errors, self.opening = page, [], False
        page.on("console", self._note)
        page.on("pageerror", self._raised)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def _raised(self, error) -> None:
        # While it opens, Jupyter's own code raises now and then (as it changes the theme, or where
        # a plug-in lacks its settings): no code of the course has run then.
        if not self.opening:
            self.errors.append(f"{error} {error.stack}")

    def _note(self, message) -> None:
        if message.type == "error":
            self.errors.append(f"{message.text} ({message.location.get('url', '')})")

    def open(self, name: str, dark: bool) -> None:
        self.page.wait_for_function("window.jupyterapp?.commands")
        self.page.evaluate(
            """async ([name, dark]) => {
                const app = window.jupyterapp;
                await app.restored;
                const theme = "JupyterLab Dark";
                if (dark) await app.commands.execute("apputils:change-theme", { theme });
                const panel = location.pathname.includes("/notebooks/")
                    ? app.shell.currentWidget  // Notebook 7: one page, one notebook
                    : await app.commands.execute("docmanager:open", { path: name });
                await panel.context.ready;
                await panel.sessionContext.ready;
                window.panel = panel;
            }""",
            [name, dark],
        )
        self.opening = False

    def close_notebook(self) -> None:
        self.page.evaluate("window.panel.sessionContext.shutdown()")

    @contextmanager
    def busy(self, folder: Path):
        """Keep the kernel busy for as long as the block lasts, and see that it was to the end."""
        flag = folder / f"go_on_{secrets.token_hex(4)}"  # a name of its own: none is there yet
        self.page.evaluate(
            "(code) => { window.busy = window.panel.sessionContext.session.kernel"
            ".requestExecute({ code }); window.idle = false;"
            "window.busy.done.then(() => (window.idle = true)); }",
            f"import os, time\nwhile not os.path.exists({str(flag)!r}): time.sleep(0.05)",
        )
        try:
            yield
            # The kernel's own status is that of its last message, also of another thread's.
            assert not self.page.evaluate("window.idle")
        finally:
            flag.touch()
            self.page.evaluate("window.busy.done")

    def run(self, index: int) -> str:
        """Run a cell, wait for its end, and return the text that it printed."""
        self.page.evaluate(
            """async (index) => {
                window.panel.content.activeCellIndex = index;
                await window.jupyterapp.commands.execute("notebook:run-cell");
            }""",
            index,
        )
        return self.printed(index)

    def run_all(self) -> None:
        """Run all cells, to the end."""
        self.page.evaluate('window.jupyterapp.commands.execute("notebook:run-all-cells")')

    def saved(self) -> NotebookNode:
        """The notebook as JupyterLab saves it."""
        self.page.evaluate("window.panel.context.save()")
        return nbformat.read(self.file, as_version=4)

    def index(self, text: str) -> int:
        """Number of the first code cell whose source holds a text."""
        return self.page.evaluate(
            """(text) => window.panel.content.widgets.findIndex(
                ({ model }) => model.type === "code" && model.sharedModel.source.includes(text))""",
            text,
        )

    def show(self, index: int) -> None:
        """Scroll to a cell: JupyterLab may leave away the ones out of sight."""
        self.page.evaluate(
            """async (index) => {
                window.panel.content.activeCellIndex = index;
                await window.panel.content.scrollToItem(index, "start");
            }""",
            index,
        )

    def printed(self, index: int) -> str:
        """What a cell has printed until now; an exception in it is one here."""
        return self.page.evaluate(
            """(index) => {
                const { outputs } = window.panel.content.widgets[index].model;
                let text = "";
                for (let i = 0; i < outputs.length; i++) {
                    const output = outputs.get(i).toJSON();
                    if (output.output_type === "error")
                        throw new Error(`${output.ename}: ${output.evalue}`);
                    if (output.output_type === "stream") text += [].concat(output.text).join("");
                }
                return text;
            }""",
            index,
        )

    def cell(self, index: int):
        """Locator of a cell."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(index)

    def python(self, code: str) -> str:
        """Run code in the notebook's kernel beside its cells: what it prints."""
        return self.page.evaluate(
            """async (code) => {
                const future = window.panel.sessionContext.session.kernel.requestExecute({ code });
                let text = "";
                future.onIOPub = ({ header, content }) => {
                    if (header.msg_type === "stream") text += content.text;
                };
                const { content } = await future.done;
                if (content.status !== "ok") throw new Error(`${content.ename}: ${content.evalue}`);
                return text;
            }""",
            code,
        )


def soon(check):
    """Wait until an assertion holds; raise it when it never does.

    A choice in the page takes its time to Python, and may reach it on another thread than code.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.1)


def soon_told(ask, wanted) -> None:
    """Wait until a function returns what is wanted."""

    def check():
        told = ask()
        assert told == wanted

    soon(check)


def until(page, expression, wanted):
    """Wait until an expression in the kernel prints this."""
    end = time.monotonic() + PATIENCE
    while (said := page.python(f"print({expression})").strip()) != wanted:
        assert time.monotonic() < end, f"{expression} is {said}, not {wanted}"
        time.sleep(0.1)


def pixels(canvas) -> np.ndarray:
    """A canvas's own pixels, whatever size it is shown in: RGBA bytes ``(h, w, 4)``."""
    # As text: Playwright takes seconds for a list of as many numbers.
    width, text = canvas.evaluate(
        """(canvas) => {
            const { width, height } = canvas;
            const bytes = canvas.getContext("2d").getImageData(0, 0, width, height).data;
            let text = "";
            for (let i = 0; i < bytes.length; i += 8192)
                text += String.fromCharCode(...bytes.subarray(i, i + 8192));
            return [width, btoa(text)];
        }"""
    )
    return np.frombuffer(base64.b64decode(text), np.uint8).reshape(-1, width, 4)


def at_rest(locator) -> dict:
    """Where an element lies, once it neither moves nor grows."""
    box = locator.bounding_box()
    while True:
        locator.page.wait_for_timeout(150)
        now = locator.bounding_box()
        if now == box:
            return box
        box = now


def drag(slider, value: int) -> None:
    """Move a range input as a reader does: with the keyboard, one step at a time."""
    slider.focus()
    now = int(slider.input_value())
    for _ in range(abs(value - now)):
        slider.press("ArrowRight" if value > now else "ArrowLeft")


def shot(page, name: str) -> Path:
    """Keep a screenshot under ``.artifacts/``."""
    ARTIFACTS.mkdir(exist_ok=True)
    path = ARTIFACTS / f"{name}.png"
    page.screenshot(path=path)
    return path
