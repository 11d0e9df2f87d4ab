"""The kernel built again from its source computes what the committed one does: make kernel."""

import importlib.util
import shutil
from pathlib import Path

import pytest
import torch
from playwright.sync_api import sync_playwright

from mixer_lite.explorers import engine

TOOLS = Path(__file__).parents[2] / "tools"
ASK = """([kernel, m, k, n, a, b, y, x]) => {
    const math = arithmetic(Uint8Array.from(kernel), 1 << 18);
    const put = (from) => { const to = math.floats(from.length); to.set(from); return to; };
    const [A, B, Y, X] = [a, b, y, x].map(put), normed = math.floats(m * k);
    math.gemm(A, B, Y, m, k, n);
    math.gelu(X, "exact");
    math.layerNorm(A, B, B, normed, m, k, 1e-6);
    return [math.name, ...[Y, X, normed].map((values) => Array.from(values))];
}"""


def tool(name):
    spec = importlib.util.spec_from_file_location(name, TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def page():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=tool("browser").find(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page()
        page.add_script_tag(content=(engine.HERE / "arithmetic.js").read_text())
        yield page
        browser.close()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernel") / "kernel.wasm"
    tool("kernel").build(path)
    return path


@pytest.mark.parametrize("m,k,n", [(64, 128, 512), (5, 700, 19), (1, 3, 2)])
def test_the_same_answers(page, built, m, k, n):
    a, b, y, x = (torch.randn(size) for size in (m * k, k * n, m * n, 1001))
    inputs = [m, k, n, *(values.tolist() for values in (a, b, y, 4 * x))]
    old, new = (
        page.evaluate(ASK, [list(path.read_bytes()), *inputs])
        for path in (engine.HERE / "kernel.wasm", built)
    )
    assert old[0] == new[0] == "WebAssembly"
    for before, after in zip(old[1:], new[1:], strict=True):
        assert after == pytest.approx(before, rel=1e-5, abs=1e-5)
    wanted = y.view(m, n) + a.view(m, k) @ b.view(k, n)
    assert new[1] == pytest.approx(wanted.flatten().tolist(), rel=1e-4, abs=1e-4)


def test_the_source_is_marked(built):
    committed = (engine.HERE / "kernel.wasm").read_bytes()
    assert built.read_bytes()[-64:] == committed[-64:]
    shutil.rmtree(built.parent)
