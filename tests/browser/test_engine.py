"""The Mixer in the page, by the SIMD kernel and in plain JavaScript, held to Python's numbers."""

import hashlib
import io
import math

import numpy as np
import pytest
import torch
from einops import rearrange
from engine import Engine, text
from PIL import Image

import mixer_lite as ml
from mixer_lite import explain, images
from mixer_lite._support.files import data_path
from mixer_lite.datasets.cifar import cifar10_sample
from mixer_lite.explorers import engine as package
from mixer_lite.explorers.mixer import stations

MODELS = ("mixer_nano_cifar10", "mixer_grid16_cifar10")
KINDS = ((name, simd) for name in MODELS for simd in (True, False))


@pytest.fixture(scope="module")
def models():
    return {name: ml.load_pretrained(name) for name in MODELS}


@pytest.fixture(
    scope="module", params=KINDS, ids=lambda p: f"{p[0]}-{'simd' if p[1] else 'javascript'}"
)
def asked(request, browser, models, tmp_path_factory):
    """A model and the engine that holds it, from a file, with the network off."""
    name, simd = request.param
    context = browser.new_context(offline=True)
    folder = tmp_path_factory.mktemp("engine")
    yield models[name], Engine(context.new_page(), folder, models[name], simd=simd, workers=2)
    context.close()


def close(found, wanted, within):
    assert found.shape == tuple(wanted.shape)
    assert np.abs(found - wanted.detach().numpy()).max() < within


def pixels_of(image, model):
    """A photograph as the model sees it, ``(h, w, 3)``, and as it takes it, ``(1, 3, h, w)``."""
    batch = images.preprocess(image, model.config)
    return images.unnormalize(batch, model.config)[0], batch


def test_logits_of_all_photographs_and_test_images(asked):
    model, engine = asked
    photographs = [images.photo(name) for name in images.list_photos()]
    tests = cifar10_sample()[0]
    if not engine.simd:  # eight times as slow: every fourth image
        tests = tests[::4]
    batch = torch.cat([images.preprocess(some, model.config) for some in (photographs, tests)])
    found = engine.logits(images.unnormalize(batch, model.config))
    with torch.no_grad():
        wanted = torch.cat([model(part) for part in batch.split(64)])
    assert len(found) == (512 if engine.simd else 137)
    close(found, wanted, 2e-5)
    assert (found.argmax(axis=1) == wanted.argmax(dim=1).numpy()).all()


@pytest.mark.parametrize("name", ["cat", "galaxies"])
def test_evidence_depth_and_units(asked, name):
    model, engine = asked
    pixels, batch = pixels_of(images.photo(name), model)
    found = engine.ask("explain", pixels)
    evidence = explain.patch_evidence(model, batch)
    close(found["evidence"].reshape(evidence.shape), evidence, 5e-5)
    depth = explain.prediction_by_depth(model, batch)
    close(found["depth"].reshape(depth.shape), depth, 2e-5)
    for block in (0, model.num_blocks - 1):
        told = engine.ask("units", pixels, block=block, off=[])
        read, answers = explain.unit_responses(model, batch, block)
        close(told["read"].reshape(-1, model.hidden_dim), rearrange(read, "c h w -> (h w) c"), 1e-4)
        close(told["answers"].reshape(-1, model.hidden_dim), answers.T, 1e-4)


def test_units_off(asked):
    model, engine = asked
    pixels, batch = pixels_of(images.photo("dahlia"), model)
    off = [[0, 1], [0, 5], [2, 7], [model.num_blocks - 1, 0]]
    found = engine.ask("compare", pixels, off=off)
    close(found["before"], model(batch)[0], 2e-5)
    with explain.edit(model) as units, torch.no_grad():
        for block, unit in off:
            units.remove(block, unit)
        wanted = model(batch)[0]
        told = explain.unit_responses(model, batch, 2)[1]
    close(found["after"], wanted, 2e-5)
    answers = engine.ask("units", pixels, block=2, off=off)["answers"]
    close(answers.reshape(-1, model.hidden_dim), told.T, 1e-4)


def test_covering_and_shuffling(asked):
    model, engine = asked
    pixels, batch = pixels_of(images.photo("astronaut"), model)
    p, gw = model.patch_size, model.grid_size[1]
    covered, seed = [0, 9, 10, 33], 20211101
    order = torch.randperm(model.num_tokens, generator=torch.Generator().manual_seed(seed))
    for patch in covered:
        y, x = divmod(patch, gw)
        batch[..., y * p : (y + 1) * p, x * p : (x + 1) * p] = 0
    shuffled = explain.shuffle_patches(batch, p, patch_order=order)
    with torch.no_grad():
        close(engine.ask("logits", pixels, covered=covered)["logits"], model(batch)[0], 2e-5)
        found = engine.ask("explain", pixels, covered=covered, shuffle=seed)
        close(found["logits"], model(shuffled)[0], 2e-5)
    assert found["order"].tolist() == order.tolist()


def test_influence_of_one_block(asked):
    model, engine = asked
    pixels, batch = pixels_of(images.photo("eagle"), model)
    rows = [0, 27, model.num_tokens - 1]
    parts = engine.ask("influence", pixels, block=2, tokens=rows)["parts"]
    assert [part["token"] for part in parts] == rows and all(part["exact"] for part in parts)
    wanted = explain.influence(model, batch, 2, tokens=rows).numpy()
    assert np.array([part["row"] for part in parts]) == pytest.approx(wanted, rel=1e-4)


@pytest.fixture(scope="module", params=[True, False], ids=["simd", "javascript"])
def nano(request, browser, models, tmp_path_factory):
    """The small model alone, for what takes longer."""
    context = browser.new_context(offline=True)
    model = models[MODELS[0]]
    page = context.new_page()
    yield model, Engine(page, tmp_path_factory.mktemp("nano"), model, simd=request.param)
    context.close()


def test_influence_of_the_whole_network_is_estimated_and_then_exact(nano):
    model, engine = nano
    pixels, batch = pixels_of(images.photo("eagle"), model)
    parts = engine.ask("influence", pixels, block=None, tokens=[20], refine=True)["parts"]
    assert [part["exact"] for part in parts] == [False, True]
    wanted = explain.influence(model, batch, tokens=[20]).numpy()[0]
    assert np.array(parts[1]["row"]) == pytest.approx(wanted, rel=1e-4)
    off = np.array(parts[0]["row"]) / wanted - 1
    assert 0.01 < np.sqrt((off**2).mean()) < 0.6


def test_occlusion(nano):
    model, engine = nano
    pixels, batch = pixels_of(images.photo("cat"), model)
    found = engine.ask("occlusion", pixels, classIndex=3)
    wanted = explain.occlusion(model, batch, 3).flatten()
    close(found["falls"], wanted, 2e-5)
    known = [part["known"] for part in found["parts"]]
    assert known == sorted(known) and len(known) > 4
    early = np.array(found["parts"][0]["falls"])
    assert (early[: known[0]] == found["falls"][: known[0]]).all()


def test_every_station_s_sum(nano):
    model, engine = nano
    pixels, batch = pixels_of(images.photo("dahlia"), model)
    way = stations.tokens_on_the_way(model, batch)
    with torch.no_grad():
        assert torch.allclose(
            model.head(model.norm(way[-1]).mean(dim=0)), model(batch)[0], atol=1e-5
        )
    choice = dict(block=5, token=19, channel=77, unit=11, channel_unit=300, classIndex=4)
    wanted = {
        "stem": stations.stem_sum(model, batch, way, 19, 77),
        "tokens": stations.token_mixing_sum(model, way, 5, 77, 11),
        "channels": stations.channel_mixing_sum(model, way, 5, 19, 300),
        "classes": stations.class_sum(model, way, 4),
    }
    for station, parts in wanted.items():
        found = engine.ask("way", pixels, station=station, choice=choice)
        close(found["way"].reshape(way.shape), way, 2e-4)
        told = found["sum"].item()
        for name, value in parts._asdict().items():
            assert (value is None) == (name not in told)
            if value is not None:
                assert np.array(told[name]) == pytest.approx(value.detach().numpy(), abs=1e-4)


def test_a_newer_question_takes_the_place_of_an_older_one(nano):
    model, engine = nano
    pixels, batch = pixels_of(images.photo("cat"), model)
    answers = engine.page.evaluate(
        """async (text) => {
            const picture = { pixels: bytes(text) }, order = [];
            const covered = { ...picture, covered: [0] };
            const ask = (name, kind, question) =>
                made[0].ask(kind, question).then((answer) => (order.push(name), answer));
            const all = await Promise.all([
                ask("long", "occlusion", { picture, classIndex: 3 }),
                ask("rows", "influence", { picture, block: 0, tokens: [1, 2] }),
                ask("old", "logits", { picture }),
                ask("new", "logits", { picture: covered }),
            ]);
            return { order, logits: all.slice(2).map((a) => a && Array.from(a.logits)) };
        }""",
        text(pixels),
    )
    first, second = answers["logits"]
    assert first is None  # the newer one of its kind was answered instead
    batch[..., :4, :4] = 0
    close(np.array(second), model(batch)[0], 2e-5)
    # A short question does not wait for the end of a long one.
    assert answers["order"].index("new") < answers["order"].index("long")


def test_what_is_wrong_with_a_question_is_told(nano):
    _, engine = nano
    with pytest.raises(Exception, match="is not a function"):
        engine.page.evaluate("() => made[0].ask('nonsense', {})")
    assert engine.page.evaluate("() => made[0].ask('logits', {}).catch((e) => e.message)")


# --- arithmetic --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scripts(browser):
    """The engine's scripts, in an empty page."""
    context = browser.new_context(offline=True)
    page = context.new_page()
    for name in package.WORKER[:-1]:
        page.add_script_tag(content=(package.HERE / f"{name}.js").read_text())
    yield page
    context.close()


def test_the_error_function(scripts):
    x = np.linspace(-6, 6, 20_001)
    found = np.array(scripts.evaluate("(x) => x.map(erf)", x.tolist()))
    assert np.abs(found - [math.erf(v) for v in x]).max() < 1e-7


@pytest.mark.parametrize("simd", [True, False], ids=["simd", "javascript"])
def test_gelu(scripts, simd):
    kernel = list((package.HERE / "kernel.wasm").read_bytes()) if simd else []
    x = torch.linspace(-8, 8, 4_003)  # not a multiple of four
    for gelu in ("exact", "tanh"):
        found = scripts.evaluate(
            """([kernel, x, gelu]) => {
                const math = arithmetic(Uint8Array.from(kernel), 8192);
                const values = math.floats(x.length);
                values.set(x);
                math.gelu(values, gelu);
                return [math.name, Array.from(values)];
            }""",
            [kernel, x.tolist(), gelu],
        )
        assert found[0] == ("WebAssembly" if simd else "JavaScript")
        # In double precision: torch's own float32 is off by as much as the page's.
        wanted = torch.nn.functional.gelu(
            x.double(), approximate="none" if gelu == "exact" else "tanh"
        ).numpy()
        off = np.abs(np.array(found[1]) - wanted) / np.maximum(1, np.abs(wanted))
        assert off.max() < 6e-7


@pytest.mark.parametrize("m,k,n", [(1, 1, 1), (5, 3, 7), (64, 513, 10), (7, 1030, 19), (4, 8, 8)])
@pytest.mark.parametrize("simd", [True, False], ids=["simd", "javascript"])
def test_matrix_products_of_any_size(scripts, simd, m, k, n):
    kernel = list((package.HERE / "kernel.wasm").read_bytes()) if simd else []
    a, b, y = torch.randn(m, k), torch.randn(k, n), torch.randn(m, n)
    found = scripts.evaluate(
        """([kernel, sizes, ...matrices]) => {
            const math = arithmetic(Uint8Array.from(kernel), 1 << 16);
            const [a, b, y] = matrices.map((from) => {
                const to = math.floats(from.length);
                to.set(from);
                return to;
            });
            math.gemm(a, b, y, ...sizes);
            return Array.from(y);
        }""",
        [kernel, [m, k, n], *(x.flatten().tolist() for x in (a, b, y))],
    )
    close(np.array(found).reshape(m, n), (y.double() + a.double() @ b.double()), 2e-5 * k**0.5)


def test_half_precision(scripts):
    bits = np.arange(65536, dtype=np.uint16)
    bits = bits[np.isfinite(bits.view(np.float16))]
    found = scripts.evaluate("(bits) => Array.from(halvesToFloats(bits))", bits.tolist())
    assert (np.array(found) == bits.view(np.float16).astype(float)).all()


def test_the_kernel_is_that_of_its_source():
    # tools/kernel.py writes the source's digest behind what the compiler made: make kernel.
    digest = hashlib.sha256((package.HERE / "kernel.c").read_bytes()).hexdigest()
    assert (package.HERE / "kernel.wasm").read_bytes().endswith(digest.encode())


# --- photographs -------------------------------------------------------------------------------


def file_of(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    return exif


def opened_in(page, data):
    size = 32
    found = page.evaluate(
        """async (data) => {
            const model = new LiveModel({}, made[0]);
            return Array.from(await model.pixelsOf(Uint8Array.from(data)));
        }""",
        list(data),
    )
    return np.array(found, np.uint8).reshape(size, size, 3)


@pytest.mark.parametrize("name", images.list_photos())
def test_an_uploaded_photograph_is_prepared_as_python_does(nano, name):
    model, engine = nano
    data = data_path(f"photos/{images.photo_info(name).file}").read_bytes()
    wanted, _ = pixels_of(io.BytesIO(data), model)
    assert (opened_in(engine.page, data) == wanted).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned_upright(nano, orientation):
    model, engine = nano
    picture = images.photo("photographer").crop((20, 40, 320, 240))
    for data in (
        file_of(picture, "JPEG", exif=turned(orientation), quality=90),
        file_of(picture, "PNG", exif=turned(orientation)),
    ):
        wanted, _ = pixels_of(io.BytesIO(data), model)
        assert (opened_in(engine.page, data) == wanted).all()


def test_pngs_of_all_kinds(nano):
    model, engine = nano
    picture = images.photo("coffee")
    small = picture.resize((20, 13))  # enlarged
    for shown in (picture.convert("L"), picture.convert("P"), small, picture.resize((32, 32))):
        data = file_of(shown, "PNG")
        wanted, _ = pixels_of(io.BytesIO(data), model)
        assert (opened_in(engine.page, data) == wanted).all()
    clear = picture.copy()
    clear.putalpha(Image.linear_gradient("L").resize(picture.size))
    data = file_of(clear, "PNG")
    wanted, _ = pixels_of(io.BytesIO(data), model)
    # The browser rounds a half-transparent colour on white once more than Pillow.
    assert np.abs(opened_in(engine.page, data).astype(int) - wanted).max() <= 2


def test_what_is_no_photograph_is_one_sentence(nano):
    _, engine = nano
    for data, words in (
        (b"no picture", "not an image that this browser knows"),
        (file_of(Image.new("RGB", (2000, 3)), "PNG"), "too long and thin"),
    ):
        with pytest.raises(Exception, match=words):
            opened_in(engine.page, data)
