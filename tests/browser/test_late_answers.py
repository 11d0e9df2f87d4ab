"""A slow engine, and a reader who goes on: what is shown at the end belongs to the last choice."""

import io

import pytest
from lab import drag, soon
from PIL import Image
from shown import agree, blended, soon_says, soon_shares, soon_shows
from test_explore_filters import answers_as, shares_without

import mixer_lite as ml
from mixer_lite import explain, images
from mixer_lite.images import preprocess

LATE = 250  # milliseconds that each question is on its way, in its turn

SLOWLY = f"""() => {{
    const post = Worker.prototype.postMessage;
    Worker.prototype.postMessage = function (question) {{
        setTimeout(() => post.call(this, question), {LATE});
    }};
}}"""

# Questions of one kind wait until they are let go, all at once.
HOLD = """() => {
    const post = Worker.prototype.postMessage;
    window.held = [];
    Worker.prototype.postMessage = function (question) {
        const send = () => post.call(this, question);
        if (window.held && question.kind === "explain") window.held.push(send);
        else send();
    };
    window.release = () => {
        const all = window.held;
        window.held = null;
        all.forEach((send) => send());
    };
}"""


@pytest.fixture(scope="module")
def model():
    return ml.load_pretrained("mixer_nano_cifar10")


@pytest.fixture
def opened(saved_page, tmp_path):
    """A saved page whose questions are kept back from now on."""

    def open_page(explorer, ready, how=SLOWLY):
        page = saved_page(explorer.save_html(tmp_path / "page.html"))
        page.locator(ready).first.wait_for()
        page.evaluate(how)
        return page

    return open_page


def give(page, name):
    """Give one of the photographs as a file: its bytes."""
    png = io.BytesIO()
    images.photo(name).save(png, "PNG")
    file = {"name": f"my {name}.png", "mimeType": "image/png", "buffer": png.getvalue()}
    page.locator("input[type=file]").set_input_files(file)
    return png


def goes_on(page, canvas, steps):
    """Choose the next one, and the next, while answers are on their way."""
    for _ in range(steps):
        page.wait_for_timeout(LATE // 3)
        canvas.press("ArrowRight")


def test_units_are_chosen_while_a_photograph_is_read(opened, model):
    page = opened(ml.explore_filters(model, images.photo("eagle")), "canvas.units")
    page.get_by_label("order").first.select_option("index")
    image = preprocess(give(page, "coffee"), model.config)
    goes_on(page, page.locator("canvas.units"), 17)
    soon_shares(page, shares_without(model, image, []))
    soon(lambda: answers_as(page, model, image, 0, 17))


def test_blocks_are_chosen_while_a_photograph_is_read(opened, model):
    page = opened(ml.explore_influence(model, images.photo("cat"), row=2, column=5), "canvas")
    image = preprocess(give(page, "dahlia"), model.config)
    slider = page.get_by_label("block", exact=True).first
    for block in (1, 2, 3):
        page.wait_for_timeout(LATE // 3)
        drag(slider, block)
    matrix = explain.influence(model, image, 3).numpy()
    soon(lambda: agree(page, matrix[21], 21))


def test_a_question_between_does_not_lose_a_photograph(opened, model):
    explorer = ml.explore_predictions(model, images.photo("cat"))
    page = opened(explorer, "canvas.seen", HOLD)
    png = give(page, "coffee")
    page.wait_for_function("window.held.length === 1")  # what the network says of it
    page.get_by_role("button", name="Shuffle patches").click()
    page.wait_for_function("window.held.length === 2")
    page.evaluate("window.release()")
    thumbnails = page.locator(".thumbnails button")
    soon(lambda: _reads(thumbnails.last, "my coffee"))
    explorer.image = explorer.add(Image.open(png), "my coffee")  # as it is: it was not shuffled
    soon_says(page, model, explorer)
    soon_shows(page, blended(model, explorer, explorer.chosen_class, 50))


def test_of_two_photographs_the_last_is_shown(opened, model):
    explorer = ml.explore_influence(model, images.photo("cat"), block=3, row=2, column=5)
    page = opened(explorer, "canvas")
    give(page, "coffee")
    image = preprocess(give(page, "dahlia"), model.config)
    matrix = explain.influence(model, image, 3).numpy()
    soon(lambda: agree(page, matrix[21], 21))
    page.wait_for_timeout(3 * LATE)
    agree(page, matrix[21], 21)


def _reads(locator, text):
    assert text in locator.inner_text()
