"""data/README.md against the files of data/, both ways."""

import hashlib
import json
import re

import pytest

from mixer_lite._support.files import data_path

FOLDER = data_path("README.md").parent
TEXT = (FOLDER / "README.md").read_text(encoding="utf-8")
# | file | sha256 | source | licence |
ROWS = re.findall(r"^\| (\S+) \| ([0-9a-f]{64}) \| (.+?) \| (.+?) \|$", TEXT, flags=re.MULTILINE)
PHOTOS = json.loads((FOLDER / "photos" / "photos.json").read_text(encoding="utf-8"))


def files() -> list[str]:
    paths = (path for path in FOLDER.rglob("*") if path.is_file() and path.name[0] != ".")
    return sorted(path.relative_to(FOLDER).as_posix() for path in paths)


def test_the_table_lists_every_file_and_no_other():
    listed = [row[0] for row in ROWS]
    assert sorted(listed) == [name for name in files() if name != "README.md"]
    assert len(listed) == TEXT.count("\n| ") - 1, "a row of another form than the rest"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_digest(row):
    name, digest, _, _ = row
    assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest


def test_photographs_are_described_alike_in_both_places():
    said = {name: (source, licence) for name, _, source, licence in ROWS}
    assert len(PHOTOS) >= 12
    for photo in PHOTOS:
        assert said[f"photos/{photo['file']}"] == (photo["source"], photo["licence"])
        assert photo["licence"].startswith(("CC0", "CC BY", "Public domain"))
        assert f"`{photo['name']}`" in TEXT
    assert {f"photos/{photo['file']}" for photo in PHOTOS} | {"photos/photos.json"} == {
        name for name in files() if name.startswith("photos/")
    }


def test_it_stays_small():
    photographs = [(FOLDER / "photos" / photo["file"]).stat().st_size for photo in PHOTOS]
    assert sum(photographs) < 1_000_000 and max(photographs) < 100_000
    assert (FOLDER / "cifar10_test_500.png").stat().st_size < 1_200_000
