"""The project as a whole: style, types, the wheel, and what README says."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import mixer_lite as ml

ROOT = Path(__file__).resolve().parents[1]


def run(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.lint
@pytest.mark.parametrize("command", [["check"], ["format", "--check"]])
def test_ruff_is_content(command):
    result = run(sys.executable, "-m", "ruff", *command, ".")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.lint
def test_mypy_is_content():
    result = run(sys.executable, "-m", "mypy")
    assert result.returncode == 0, result.stdout


def test_public_names_exist_and_are_documented():
    for name in ml.__all__:
        assert getattr(ml, name).__doc__, name
    with pytest.raises(AttributeError, match="mixer_lite has no 'nonsense'"):
        _ = ml.nonsense


def test_wheel_carries_the_weights_and_the_course(tmp_path):
    result = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path))
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for wanted in (
        "mixer_lite/_data/mixer_nano_cifar10.safetensors",
        "mixer_lite/_data/photos/cat.jpg",
        "mixer_lite/_book/notebooks/01_images_as_tokens.ipynb",
        "mixer_lite/_book/notebooks/maps/lesson_01.svg",
        "mixer_lite/model.py",
        "mixer_lite/_support/jupyter/labconfig/default_setting_overrides.json",
    ):
        assert wanted in names
    # Run from the wheel alone, away from the checkout.
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import mixer_lite as ml; "
        "assert ml.__file__.startswith(sys.argv[1]), ml.__file__; "
        "m = ml.load_pretrained('mixer_nano_cifar10'); "
        "print(ml.predict(m, ml.images.photo('cat'), top_k=1)[0].label)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in ml.specs.CIFAR10_CLASSES


def test_code_in_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    assert blocks
    for block in blocks:
        result = run(sys.executable, "-c", block)
        assert result.returncode == 0, block + result.stderr


def test_files_named_in_readme_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [x for x in re.findall(r"\]\(([^)#]+)\)", text) if not x.startswith("http")]
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link
