"""Every notebook of the course runs from clean without a network and gives what it stores."""

import base64
import importlib.util
import io
import re

import nbformat
import pytest
import torch
from lessons import COURSE, ROOT, check_run, tool, with_answers
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image, ImageDraw

import mixer_lite as ml


@pytest.mark.parametrize("path", COURSE, ids=[path.stem for path in COURSE])
def test_code_and_outputs_belong_together_and_answers_work(path, pictures):
    check_run(path, tool.execute(with_answers(path)), pictures)


@pytest.mark.parametrize("path", COURSE, ids=[path.stem for path in COURSE])
def test_pictures_are_real_and_described(path):
    described = 0
    for cell in tool.read(path).cells:
        for output in cell.get("outputs", []):
            if picture := tool._picture(output):
                assert len(picture.getcolors(1 << 24)) > 2, "an empty picture"
                (alt,) = [m["alt"] for m in output.metadata.values()]
                assert len(alt.split()) >= 5
                described += 1
    assert described >= 5


# What the reader writes in lessons 01 to 03, by the check that it has to pass.
PIECES = [("01", "patchify"), ("02", "mlp_block"), ("02", "mixer_block"), ("03", "mixer")]
PRELUDE = """
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn
import mixer_lite as ml
from mixer_lite import check
"""


def test_the_readers_own_pieces_become_a_mixer_that_says_cat():
    own = {}
    exec(PRELUDE, own)
    for number, name in PIECES:
        (path,) = tool.find([number])
        for cell in tool.read(path).cells:
            if cell.cell_type == "code" and f"check.{name}(" in cell.source:
                assert "ml." not in cell.source, "nothing of the course's model is used"
                exec(cell.source, own)
    trained = ml.load_pretrained("mixer_nano_cifar10")
    sizes = ml.specs.spec("mixer_nano_cifar10") | {"image_size": (32, 32)}
    mine = own["Mixer"](**sizes)
    assert str(mine.load_state_dict(trained.state_dict())) == "<All keys matched successfully>"
    with torch.no_grad():
        logits = mine(ml.images.preprocess(ml.images.photo("cat"), trained.config))
    assert trained.config.class_names[logits.argmax()] == "cat"


def test_maps_are_those_that_the_tool_draws():
    _spec = importlib.util.spec_from_file_location("course_map", ROOT / "tools" / "course_map.py")
    course_map = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(course_map)
    for name, (title, lit) in course_map.LESSONS.items():
        stored = (ROOT / "notebooks" / "maps" / f"{name}.svg").read_text(encoding="utf-8")
        photographs = r'href="[^"]*"'  # a JPEG's bytes depend on the release of Pillow
        drawn = re.sub(photographs, "", course_map.draw(title, lit))
        assert re.sub(photographs, "", stored) == drawn, name


# The rest holds the tool itself to what it promises.


def lesson(*sources, words=80):
    cells = [c for s in sources for c in (new_markdown_cell("word " * words), new_code_cell(s))]
    return new_notebook(cells=cells)


@pytest.fixture(scope="module")
def ran():
    """A notebook with many faults, executed once for all tests below."""
    return tool.execute(
        lesson(
            "x = 2\nprint(x)   ",
            "import sys\nprint('oh', file=sys.stderr)",
            "object()",
            "print('a')\nprint('b  ')",
            "import ipywidgets\nipywidgets.interactive(lambda a: a, a=3)",
            "import os, urllib.request\nprint(os.environ['HF_HUB_OFFLINE'])\n"
            "for url in ['http://192.0.2.1', 'https://example.org']:\n"
            "    try:\n        urllib.request.urlopen(url, timeout=5)\n"
            "    except OSError as error:\n        print(error)",
            "import subprocess\n"
            "code = \"import socket; socket.create_connection(('192.0.2.1', 80), 5)\"\n"
            "print(subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)"
            ".stderr.splitlines()[-1])",
            "1 / 0",
            "print('never reached')",
        )
    )


def texts(cell):
    return [o.get("text") or o.get("data", {}).get("text/plain") for o in cell.outputs]


def test_execution_is_normalised(ran):
    code = [c for c in ran.cells if c.cell_type == "code"]
    assert [c.execution_count for c in code] == list(range(1, 10))
    assert texts(code[0]) == ["2\n"]
    assert texts(code[3]) == ["a\nb\n"]
    assert texts(code[4]) == [tool.WIDGET_NOTE]
    assert code[0].source == "x = 2\nprint(x)"
    assert dict(ran.metadata) == tool.METADATA
    assert len({c.id for c in ran.cells}) == len(ran.cells)
    assert nbformat.writes(tool.normalise(ran)) == nbformat.writes(ran)
    nbformat.validate(ran)


def test_network_is_blocked_in_the_kernel_and_its_children(ran):
    said = texts([c for c in ran.cells if c.cell_type == "code"][5])[0].splitlines()
    assert said[0] == "1"
    assert "network is blocked" in said[1] and "192.0.2.1" in said[1]
    assert "network is blocked" in said[2] and "example.org" in said[2]
    assert "network is blocked" in texts([c for c in ran.cells if c.cell_type == "code"][6])[0]


def test_faults_of_a_run_are_named(ran):
    found = "\n".join(tool.faults(ran))
    assert "Code cell 2 writes to stderr: oh" in found
    assert "Code cell 3 prints a memory address" in found
    assert "Code cell 8 raises ZeroDivisionError: division by zero" in found
    assert len(tool.faults(ran)) == 3


def test_cells_after_an_error_are_not_run(ran):
    assert ran.cells[-1].outputs == []


def test_stale_outputs_are_found():
    stored = tool.execute(lesson("print(1)", "2 + 2", "print(3)"))
    assert tool.faults(stored) == [] and tool.differences(stored, stored) == []
    stored.cells[1].source = "print(7)"
    stored.cells[5].outputs = []
    assert tool.differences(stored, tool.execute(stored)) == [
        "Code cell 1 stores '1\\n', gives '7\\n'.",
        "Code cell 3 stores 0 outputs, gives 1.",
    ]


def test_what_varies_is_not_compared_but_must_run():
    notebook = lesson("import time\nprint(time.time_ns())", "print(2)", "1 / 0")
    notebook.cells[1].metadata["tags"] = ["varies"]
    notebook.cells[5].metadata["tags"] = ["varies"]
    stored, fresh = tool.execute(notebook), tool.execute(notebook)
    assert texts(stored.cells[1]) != texts(fresh.cells[1])
    assert tool.differences(stored, fresh) == []
    assert "raises ZeroDivisionError" in "\n".join(tool.faults(fresh))
    fresh.cells[3].outputs[0].text = "3\n"
    assert tool.differences(stored, fresh) == ["Code cell 2 stores '2\\n', gives '3\\n'."]


def test_only_the_bundled_data_is_there_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("MIXER_LITE_CACHE", str(tmp_path))
    asked = lesson("import os\nprint(os.environ['MIXER_LITE_CACHE'])")
    assert texts(tool.execute(asked).cells[1]) != [f"{tmp_path}\n"]
    assert texts(tool.execute(asked, cifar10=True).cells[1]) == [f"{tmp_path}\n"]


def picture_cell(picture, kind="png", alt="a line"):
    data = io.BytesIO()
    picture.save(data, kind)
    mime = f"image/{kind}"
    bundle = {mime: base64.b64encode(data.getvalue()).decode(), "text/plain": f"[{alt}]"}
    output = new_output("display_data", data=bundle, metadata={mime: {"alt": alt}} if alt else {})
    cell = new_code_cell("draw()", outputs=[output], execution_count=1)
    return new_notebook(cells=[new_markdown_cell("word " * 80), cell])


def drawing(shift=0, heights=(20, 90, 40)):
    picture = Image.new("RGB", (400, 120), "white")
    pen = ImageDraw.Draw(picture)
    for k, height in enumerate(heights):
        pen.rectangle((100 * k + 20 + shift, 110 - height, 100 * k + 60 + shift, 110), "#0072b2")
    pen.text((20 + shift, 5), "a title of this picture", fill="black")
    return picture


def test_pictures_are_compared_by_what_one_sees():
    stored = picture_cell(drawing())
    assert tool.differences(stored, picture_cell(drawing(shift=1))) == []
    assert tool.differences(stored, picture_cell(drawing(), "jpeg")) == []
    (sentence,) = tool.differences(stored, picture_cell(drawing(heights=(90, 20, 40))))
    assert "another picture" in sentence
    assert tool.differences(stored, picture_cell(drawing(heights=(90, 20, 40))), False) == []
    (sentence,) = tool.differences(stored, picture_cell(drawing(heights=(20, 80, 40))))
    assert "another picture" in sentence
    (sentence,) = tool.differences(stored, picture_cell(Image.new("RGB", (400, 60))))
    assert "another picture" in sentence


def test_pictures_need_alt_text():
    assert tool.faults(picture_cell(drawing())) == []
    assert tool.faults(picture_cell(drawing(), alt="")) == [
        "Code cell 1 shows a picture without alt text."
    ]


def counted(notebook):
    for number, cell in enumerate((c for c in notebook.cells if c.cell_type == "code"), 1):
        cell.execution_count = number
    return notebook


@pytest.mark.parametrize(
    ("notebook", "fault"),
    [
        (lesson("\n".join(["x = 1"] * 31), "y = 1", "z = 1"), "has 31 lines"),
        (lesson("\n".join(["x = 1"] * 8), "\n\n".join(["x = 1"] * 8), "z = 1"), "have 8 lines"),
        (lesson("x = 1", words=59), "59 words"),
        (lesson("x = 1", words=151), "151 words"),
        (new_notebook(cells=[new_markdown_cell("word " * 80)]), "no code"),
        (lesson(f"x = {'1' * 600_000}"), "KB, more than 600"),
    ],
)
def test_limits(notebook, fault):
    (sentence,) = tool.faults(counted(notebook))
    assert fault in sentence


def test_limits_are_not_narrower_than_said():
    longest = lesson("\n\n".join(["x = 1"] * 30), "\n".join(["x = 1"] * 7), "z = 1", words=60)
    assert tool.faults(counted(longest)) == []


def test_wrong_counts_and_widget_state_are_faults():
    notebook = lesson("x = 1")
    notebook.cells[1].execution_count = 4
    notebook.metadata["widgets"] = {"state": {}}
    assert tool.faults(notebook) == [
        "Code cell 1 is counted 4: run from clean.",
        "The notebook stores widget state.",
    ]


@pytest.fixture
def course(tmp_path, monkeypatch):
    monkeypatch.setattr(tool, "COURSE", tmp_path)
    nbformat.write(lesson("print(1)"), tmp_path / "01_one.ipynb")
    nbformat.write(lesson("print(2)", "oops"), tmp_path / "02_two.ipynb")
    return tmp_path


def test_command(course, capsys):
    assert tool.main(["--check", "01"]) == 1
    assert "stores 0 outputs, gives 1" in capsys.readouterr().out
    assert tool.main(["01"]) == 0
    assert tool.main(["--check", "01"]) == 0
    before = (course / "02_two.ipynb").read_bytes()
    assert tool.main(["02"]) == 1
    assert "raises NameError" in capsys.readouterr().out
    assert (course / "02_two.ipynb").read_bytes() == before
    with pytest.raises(SystemExit, match="there are: 01_one, 02_two"):
        tool.main(["03"])
