"""Files that are replaced whole, and tables that outlive a stop."""

import os
import subprocess
import sys
import threading

import pytest

from mixer_lite._support.files import replaced, sweep
from mixer_lite._support.tables import Table


def test_a_file_is_replaced_whole_or_stays(tmp_path):
    path = tmp_path / "x.bin"
    with replaced(path) as file:
        file.write(b"first")
        assert not path.exists()
    with pytest.raises(RuntimeError), replaced(path) as file:
        file.write(b"second")
        raise RuntimeError
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["x.bin"]
    with replaced(path, before=tmp_path / "old.bin") as file:
        file.write(b"third")
    assert path.read_bytes() == b"third" and (tmp_path / "old.bin").read_bytes() == b"first"
    with pytest.raises(FileNotFoundError), replaced(tmp_path / "none/x.bin"):
        pass


def test_a_full_disk_raises_and_leaves_nothing(tmp_path):
    # A real refusal, in a process that may write no more than 1000 bytes a file.
    path = tmp_path / "x.bin"
    path.write_bytes(b"first")
    code = (
        "import resource, signal, sys; from mixer_lite._support.files import replaced\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n    with replaced(sys.argv[1]) as file: file.write(bytes(5000))\n"
        "except OSError as error: print(error.strerror)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout == "File too large\n"
    assert path.read_bytes() == b"first" and os.listdir(tmp_path) == ["x.bin"]


def test_a_link_in_the_way_is_not_written_through(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.write_bytes(b"not yours")
    monkeypatch.setattr("secrets.token_hex", lambda _: "0")
    (tmp_path / "x.bin.0.partial").symlink_to(other)
    with pytest.raises(FileExistsError), replaced(tmp_path / "x.bin"):
        pass
    assert other.read_bytes() == b"not yours"


def test_writers_at_once_do_not_mix(tmp_path):
    path, letters = tmp_path / "x.bin", [b"a", b"b", b"c", b"d"]

    def write(letter):
        for _ in range(20):
            with replaced(path) as file:
                for _ in range(50):
                    file.write(letter * 100)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in letters]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in [letter * 5000 for letter in letters]
    assert os.listdir(tmp_path) == ["x.bin"]


def test_what_killed_writers_left_is_swept(tmp_path):
    for name in ("a.bin.1f.partial", "b.bin.2e.partial", "a.bin"):
        (tmp_path / name).touch()
    sweep(tmp_path, "a.bin")
    assert sorted(os.listdir(tmp_path)) == ["a.bin", "b.bin.2e.partial"]
    sweep(tmp_path)
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_table_goes_on_wherever_it_was_cut(tmp_path):
    table = Table(tmp_path / "out/t.csv", ("name", "seed", "value"), key=("name", "seed"))
    assert table.rows() == [] and not table.has(name="a")
    table.append([dict(name='odd "name",\nof two lines', seed=0, value=1.5), dict(name="b")])
    whole = table.path.read_bytes()
    rows = table.rows()
    assert rows[0]["value"] == "1.5" and rows[1] == dict(name="b", seed="", value="")
    for cut in range(len(whole)):
        table.path.write_bytes(whole[:cut])
        assert table.rows() == rows[: len(table.rows())]
    table.path.write_bytes(whole)
    assert table.rows() == rows


def test_a_row_takes_the_place_of_an_earlier_one_of_its_key(tmp_path):
    table = Table(tmp_path / "t.csv", ("name", "seed", "value"), key=("name", "seed"))
    table.put([dict(name="b", seed=0, value=1), dict(name="a", seed=0, value=2)])
    table.put([dict(name="b", seed=0, value=3)], order=lambda row: row["name"])
    assert [(r["name"], r["value"]) for r in table.rows()] == [("a", "2"), ("b", "3")]
    assert table.has(name="b", seed=0) and not table.has(name="b", seed=1)


@pytest.mark.parametrize(
    "text", ["mine, and mine alone", "a,b\n1,2\n", "name,seed,value\n1,2\n3,4,5\n"]
)
def test_a_table_of_another_kind_is_refused(tmp_path, text):
    table = Table(tmp_path / "t.csv", ("name", "seed", "value"), key=("name",))
    table.path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.csv is"):
        table.put([dict(name="x")])
    assert table.path.read_text(encoding="utf-8") == text
