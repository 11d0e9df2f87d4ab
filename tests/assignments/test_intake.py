"""What platforms, browsers and other programs make of a folder of submissions: all is found."""

from __future__ import annotations

import csv
import importlib
import io
import os
import stat
import sys
import time
import zipfile

import pytest

from tests.assignments.submissions import ROOT, graded, solutions, students, zipped

sys.path.insert(0, str(ROOT / "tools" / "grading"))
grade = importlib.import_module("grade")
archives = importlib.import_module("archives")
intake = importlib.import_module("intake")
layouts = importlib.import_module("layouts")
reading = importlib.import_module("reading")

RIGHT = solutions("A1")


PDF = b"%PDF-1.7"
# What lies there: who is found.
LAYOUTS = {
    "nbgrader's": (
        {"ann/A1/A1.ipynb": "N", "ben/A1/A1.ipynb": "N", "ben/A2/A2.ipynb": "N"},
        ["ann", "ben"],
    ),
    "the assignment first": (
        {f"A1/{name}/A1.ipynb": "N" for name in ("ann", "ben", "cem")},
        ["ann", "ben", "cem"],
    ),
    "an outer folder": (
        {f"download 3/{name}/A1.ipynb": "N" for name in ("ann", "ben", "cem")},
        ["ann", "ben", "cem"],
    ),
    "two outer folders": (
        {f"course/week 1/{name}/A1.ipynb": "N" for name in ("ann", "ben")},
        ["ann", "ben"],
    ),
    "an outer folder, the assignment inside": (
        {f"course/{name}/A1/A1.ipynb": "N" for name in ("ann", "ben")},
        ["ann", "ben"],
    ),
    "an outer folder with numbers": (
        {f"course/{n:03}/A1.ipynb": "N" for n in range(5)},
        ["000", "001", "002", "003", "004"],
    ),
    "sections": (
        {"s1/ann/A1.ipynb": "N", "s1/ben/A1.ipynb": "N", "s2/cem/A1.ipynb": "N"},
        ["ann", "ben", "cem"],
    ),
    "two of one name in sections": (
        {"s1/ann/A1.ipynb": "N", "s1/ben/A1.ipynb": "N", "s2/ann/A1.ipynb": "N",
         "s2/cem/A1.ipynb": "N"},
        ["ann (s1)", "ann (s2)", "ben", "cem"],
    ),
    "one student": ({"ann/A1.ipynb": "N"}, ["ann"]),
    "one student's work, deep": ({"ann/homework/final/A1.ipynb": "N"}, ["ann"]),
    "an outer folder, one with a PDF": (
        {"course/ann/A1.ipynb": "N", "course/ben/A1.pdf": PDF},
        ["ann", "ben"],
    ),
    "versions": (
        {"ann/draft/A1.ipynb": "O", "ann/final/A1.ipynb": "N", "ben/A1.ipynb": "N"},
        ["ann", "ben"],
    ),
    "flat": (
        {"ann_A1.ipynb": "N", "A1-ben.ipynb": "N", "Cem Fox - A1 (1).ipynb": "N"},
        ["Cem Fox", "ann", "ben"],
    ),
    "flat, in a folder": (
        {f"hand-ins/{name}_A1.ipynb": "N" for name in ("ann", "ben")},
        ["ann", "ben"],
    ),
    "flat, of the assignment's folder": (
        {f"A1/{name}.ipynb": "N" for name in ("ann", "ben")},
        ["ann", "ben"],
    ),
    "Google Classroom": (
        {"Ann Lee - A1.ipynb": "N", "Ben Fox - Copy of A1.ipynb": "N", "Cem - A1 (2).ipynb": "N"},
        ["Ann Lee", "Ben Fox", "Cem"],
    ),
    "Moodle, folders": (
        {"Ann Lee_411_assignsubmission_file_/A1.ipynb": "N",
         "Ben Fox_412_assignsubmission_file/A1.ipynb": "N",
         "Ben Fox_412_assignsubmission_onlinetext/onlinetext.html": "<p>hello",
         "Dan Roe_414_assignsubmission_onlinetext/onlinetext.html": "<p>hello"},
        ["Ann Lee", "Ben Fox", "Dan Roe"],
    ),
    "Moodle, flat": (
        {"Ann Lee_411_assignsubmission_file_A1.ipynb": "N",
         "Ben Fox_412_assignsubmission_file_A1_final.ipynb": "N"},
        ["Ann Lee", "Ben Fox"],
    ),
    "Moodle, two of one name": (
        {"Ann Lee_411_assignsubmission_file_/A1.ipynb": "N",
         "Ann Lee_412_assignsubmission_file_/A1.ipynb": "N"},
        ["Ann Lee (411)", "Ann Lee (412)"],
    ),
    "Canvas": (
        {"benfox_LATE_4412_98102_A1-1.ipynb": "N", "leeann_4413_98107_A1.ipynb": "N",
         "roedan_4414_98110_A1.pdf": PDF},
        ["benfox", "leeann", "roedan"],
    ),
    "Canvas, anonymous": (
        {"anon_X2b9K_98111_A1.ipynb": "N", "anon_a77cQ_LATE_98112_A1.ipynb": "N"},
        ["anon_X2b9K", "anon_a77cQ"],
    ),
    "Canvas, in a folder": (
        {"submissions/benfox_4412_98102_A1.ipynb": "N",
         "submissions/foxann_4417_98109_A1.ipynb": "N"},
        ["benfox", "foxann"],
    ),
    "Blackboard": (
        {"Week_1_bfox_attempt_2026-11-20-14-33-21_A1.ipynb": "N",
         "Week_1_bfox_attempt_2026-11-20-14-33-21.txt": "Name: Ben Fox",
         "Week_1_a_lee_attempt_2026-11-20-14-35-00_A1.ipynb": "N",
         "Week_1_t_lee_attempt_2026-11-20-14-35-00_my A1.ipynb": "N"},
        ["a_lee", "bfox", "t_lee"],
    ),
    "Brightspace": (
        {"98102-4412 - Ben Fox - Nov 20, 2026 233 PM/A1.ipynb": "N",
         "98103-4412 - Ann Lee - 20 November, 2026 1435/A1.ipynb": "N", "index.html": "<p>"},
        ["Ann Lee", "Ben Fox"],
    ),
    "Sakai": (
        {"Homework 1/Fox, Ben(bfox)/Submission attachment(s)/A1.ipynb": "N",
         "Homework 1/Fox, Ben(bfox)/timestamp.txt": "20261120",
         "Homework 1/Lee, Ann(alee)/Submission attachment(s)/A1.ipynb": "N",
         "Homework 1/grades.csv": "x"},
        ["Fox, Ben(bfox)", "Lee, Ann(alee)"],
    ),
    "zips": (
        {"ann/A1.zip": ("A1.ipynb",), "ben/hw.zip": ("A1/A1.ipynb",), "cem_A1.zip": ("A1.ipynb",)},
        ["ann", "ben", "cem"],
    ),
    "a class's zip": (
        {"download.zip": ("A1/ann/A1.ipynb", "A1/ben/A1.ipynb", "A1/cem/A1.ipynb")},
        ["ann", "ben", "cem"],
    ),
    "Canvas with zips": (
        {"benfox_4412_98102_A1.zip": ("A1.ipynb", "helpers/cut.py"),
         "leeann_4413_98107_hw.zip": ("A1.ipynb",)},
        ["benfox", "leeann"],
    ),
    "without a notebook": (
        {"ann/A1.ipynb": "N", "ben/": "", "cem/A1.pdf": PDF, "dan/A1/": "", "eve/A1.docx": b"x",
         "fay/A1.rar": b"Rar!", "gil.zip": b"broken", "notes.txt": "mine"},
        ["ann", "ben", "cem", "dan", "eve", "fay", "gil"],
    ),
    "flat, without a notebook": (
        {"ann_A1.ipynb": "N", "ben_A1.pdf": PDF, "marks.csv": "x"},
        ["ann", "ben"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYOUTS)
def test_everybody_is_found_and_every_file_accounted_for(name, found, texts):
    files, wanted = LAYOUTS[name]
    packed = {
        path: zipped(**dict.fromkeys(what, texts["right"])) if isinstance(what, tuple) else what
        for path, what in files.items()
    }
    result = found(packed)
    assert students(result) == wanted
    assert not set(graded(result)) & {(student, name) for student, name, _ in result.named}
    for path, what in files.items():
        inside = [f"{path}/{one}" for one in what] if isinstance(what, tuple) else []
        for one in [path.rstrip("/"), *inside]:
            assert one in result.files
    right = sum(1 for fate in result.files.values() if fate[2] == "graded")
    assert right == len(result.submissions)
    notebooks = [p for p, what in files.items() if what == "N"]
    assert {result.files[path][2] for path in notebooks} <= {"graded"}


@pytest.mark.parametrize(
    "name",
    ["A1.ipynb.json", "A1.ipynb.txt", "A1.IPYNB", "A1.ipynb.ipynb", "A1.json", "A1 (3).Ipynb",
     "A1.ipynb.download", "homework", "A1.ipynb (1).txt"],
)  # fmt: skip
def test_a_notebook_is_one_whatever_it_is_called(name, found):
    result = found({f"ann/{name}": "N"})
    assert graded(result) == {("ann", "A1"): f"ann/{name}"}


@pytest.mark.parametrize(
    "name, content, why",
    [
        ("A1.pdf", PDF, "No notebook: found: A1.pdf"),
        ("A1.html", b"<html>", "No notebook: found: A1.html"),
        ("A1.py", b"x = 1", "No notebook: found: A1.py"),
        ("A1.zip", b"broken", "A1.zip was not unpacked: it cannot be unpacked"),
        ("data.json", b'{"cells": 1}', "No notebook: found: data.json"),
    ],
)
def test_what_is_no_notebook_is_named(name, content, why, found):
    result = found({"ann/A1.ipynb": "N", f"ben/{name}": content})
    ((student, assignment, told),) = result.named
    assert (student, assignment) == ("ben", "A1")
    assert told.startswith(why)


# Which of several


def _age(tmp_path, name, seconds):
    path = tmp_path / "in" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    when = time.time() - seconds
    os.utime(path, (when, when))
    return path


@pytest.mark.parametrize(
    "files, best",
    [
        ({"A1.ipynb": ("O", 0), "A1 (1).ipynb": ("N", 0)}, "A1 (1).ipynb"),
        ({"A1.ipynb": ("O", 0), "A1 (1).ipynb": ("N", 9000)}, "A1 (1).ipynb"),
        ({"A1.ipynb": ("N", 0), "A1 (1).ipynb": ("O", 0)}, "A1.ipynb"),
        ({"A1.ipynb": ("N", 9000), "old.ipynb": ("N", 0)}, "old.ipynb"),
        ({"A1.ipynb": ("N", 5), "A1 (2).ipynb": ("N", 0), "A1 (1).ipynb": ("N", 0)},
         "A1 (2).ipynb"),
        ({"A1.ipynb": ("{", 0), "copy.ipynb": ("N", 9000)}, "copy.ipynb"),
        ({"A1.ipynb": ("{", 0), "copy.ipynb": ("O", 9000)}, "copy.ipynb"),
    ],
)  # fmt: skip
def test_of_several_the_latest_with_answers_is_graded(files, best, found, tmp_path, releases):
    found({f"ann/{name}": what for name, (what, _) in files.items()})
    for name, (_, age) in files.items():
        _age(tmp_path, f"ann/{name}", age)
    result = intake.find(tmp_path / "in", releases, tmp_path / "temporary")
    (one,) = result.submissions
    assert one.called == f"ann/{best}"
    for name in files:
        assert f"ann/{name}" in "; ".join(one.notes)
        if name != best:
            assert result.files[f"ann/{name}"][2] == f"not graded: ann/{best} was"


def test_the_latest_attempt_counts_by_the_platforms_own_time(found):
    folder = "98102-4412 - Ben Fox - Nov {}, 2026 {} PM"
    result = found({f"{folder.format(9, 130)}/A1.ipynb": "N",
                    f"{folder.format(21, 1230)}/A1.ipynb": "N",
                    f"{folder.format(21, 1110)}/A1.ipynb": "N"})  # fmt: skip
    # 11:10 and 12:30 PM: noon is 12
    assert list(graded(result).values()) == [f"{folder.format(21, 1110)}/A1.ipynb"]


def test_several_people_in_one_folder_are_not_merged(found, texts):
    ann, ben = (texts["right"].replace(r"STUDENT = \"right\"", rf"STUDENT = \"{n}\"")
                for n in ("ann", "ben"))  # fmt: skip
    result = found({"zoe/A1.ipynb": "N", "team/x/A1.ipynb": ann, "team/y/A1.ipynb": ben})
    assert students(result) == ["x", "y", "zoe"]
    same = found({"zoe/A1.ipynb": "N", "ann/x/A1.ipynb": ann, "ann/y/A1.ipynb": ann}, place="b")
    assert students(same) == ["ann", "zoe"]
    assert "2 notebooks: " in next(s for s in same.submissions if s.student == "ann").notes[0]


# --names


@pytest.mark.parametrize(
    "pattern, path, student",
    [
        ("{assignment}/{student}", "A1/b.fox/deep/x.ipynb", "b.fox"),
        ("{student}+{id}+{file}", "bfox+12+x.ipynb", "bfox"),
        ("*/{student}-{id}", "2026/bfox-77/A1.ipynb", "bfox"),
        ("**/{student}.ipynb", "a/b/bfox.ipynb", "bfox"),
        ("moodle", "export/Ben Fox_9_assignsubmission_file_/A1.ipynb", "Ben Fox"),
        ("canvas", "x/benfox_LATE_4412_98102_A1-1.ipynb", "benfox"),
        ("brightspace", "1-2 - Ben Fox - Nov 2, 2026 233 PM/A1.ipynb", "Ben Fox"),
    ],
)
def test_a_pattern_says_where_the_name_stands(pattern, path, student, found):
    assert students(found({path: "N"}, pattern)) == [student]


def test_what_does_not_fit_the_pattern_is_named(found):
    result = found({"A1/ann/A1.ipynb": "N", "ben.ipynb": "N"}, "{assignment}/{student}")
    assert graded(result) == {("ann", "A1"): "A1/ann/A1.ipynb"}
    assert result.named == [("ben.ipynb", "A1", "ben.ipynb does not fit --names.")]


@pytest.mark.parametrize("pattern, told", [("A1/*", "needs {student}"), ("{who}", "no {who}")])
def test_a_pattern_without_a_student_is_refused(pattern, told):
    with pytest.raises(reading.Refused, match=told):
        layouts.pattern_of(pattern)


def test_the_preview_says_who_was_found_and_from_what(found):
    lines = []
    files = {"A1/ann/A1.ipynb": "N", "A1/ben/A1.ipynb": "N", "A1/cem/x.pdf": PDF, "x.csv": "1"}
    found(files).preview(lines.append)
    assert lines[0] == "3 students found (1 by no notebook, 2 by the folder):"
    assert [line.split() for line in lines[1:3]] == [
        ["ann", "A1", "A1/ann/A1.ipynb"], ["ben", "A1", "A1/ben/A1.ipynb"],
    ]  # fmt: skip
    assert "No notebook: found: x.pdf." in lines[3]
    assert lines[4].strip() == "unassigned: x.csv"


# Beside the notebook


def test_folders_are_taken_along(found, texts):
    result = found({
        "ann/A1.ipynb": "N", "ann/helpers/cut.py": "x = 1", "ann/helpers/deep/a.csv": "1",
        "ann/.git/config": "x", "ann/__pycache__/x.pyc": b"x", "ann/fast.so": b"x",
        "ben/A1.zip": zipped(**{"A1/A1.ipynb": texts["right"], "A1/helpers/cut.py": "x = 2"}),
    })  # fmt: skip
    ann, ben = result.submissions
    assert [name for name, _ in ann.extra] == ["helpers/cut.py", "helpers/deep/a.csv"]
    assert [name for name, _ in ben.extra] == ["helpers/cut.py"]
    assert ben.extra[0][1].read_text() == "x = 2"
    assert result.files["ann/helpers/cut.py"] == ("ann", "A1", "given to the notebook")
    assert result.files["ann/fast.so"][2] == "left out: it is compiled code"
    assert "fast.so was left out" in "; ".join(ann.notes)
    for path in ("ann/.git", "ann/__pycache__"):
        assert result.files[path][2] == f"not looked at: {archives.HIDDEN}"


def test_files_of_a_flat_download_are_their_owners(found):
    result = found({
        "benfox_4412_98102_A1.ipynb": "N", "benfox_4412_98103_helpers-1.py": "x = 1",
        "leeann_4413_98104_A1.ipynb": "N", "leeann_4413_98105_helpers.py": "x = 2",
    })  # fmt: skip
    assert {s.student: [name for name, _ in s.extra] for s in result.submissions} == {
        "benfox": ["helpers.py"], "leeann": ["helpers.py"],
    }  # fmt: skip
    flat = found({"ann_A1.ipynb": "N", "ben_A1.ipynb": "N", "x.py": "1"}, place="b")
    assert not any(s.extra for s in flat.submissions)
    assert flat.files["x.py"][2] == "unassigned"


# Archives of strangers


def _member(name, mode=0, content=b"x", **more):
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    for key, value in more.items():
        setattr(info, key, value)
    return info, content


def test_archives_lead_nowhere_and_take_no_more_than_they_may(found, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "ARCHIVE_BYTES", 3_000_000)
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("A1.ipynb", texts["right"])
        for info, content in (
            _member("../../outside"), _member("/absolute"), _member("..\\windows"),
            _member("link", stat.S_IFLNK | 0o777, b"/etc/passwd"),
            _member("packed.txt", compress_type=zipfile.ZIP_LZMA),
            _member("big", content=bytes(3_500_000), compress_type=zipfile.ZIP_DEFLATED),
        ):  # fmt: skip
            archive.writestr(info, content)
    nested = texts["right"].encode()
    for _ in range(6):
        nested = zipped(**{"A1.ipynb" if nested[:1] == b"{" else "inner.zip": nested})
    before = sorted(p.name for p in tmp_path.parent.iterdir())
    result = found({"ann/A1.zip": held.getvalue(), "ben/A1.zip": nested})
    assert graded(result) == {("ann", "A1"): "ann/A1.zip/A1.ipynb"}
    files = result.files
    for name in ("../../outside", "absolute", "../windows"):
        assert files[f"ann/A1.zip/{name}"][2] == "left out: its path leads out of the archive"
    assert "it is a link" in files["ann/A1.zip/link"][2]
    assert "packed in a way" in files["ann/A1.zip/packed.txt"][2]
    assert "3,500,000 bytes" in files["ann/A1.zip/big"][2]
    assert sorted(p.name for p in tmp_path.parent.iterdir()) == before
    ((student, _, why),) = result.named
    assert student == "ben"
    assert "archive in 3 archives" in why


def test_a_bomb_is_stopped(found, texts):
    bomb = zipped(**{f"{n}.bin": bytes(40_000_000) for n in range(8)})
    result = found({"ann/A1.ipynb": "N", "ann/bomb.zip": bomb})
    told = [fate for path, fate in result.files.items() if path.startswith("ann/bomb.zip/")]
    assert len(told) == 8
    assert sum("are taken" in fate[2] for fate in told) == 3
    assert graded(result) == {("ann", "A1"): "ann/A1.ipynb"}


def test_a_list_of_files_may_not_fill_the_memory(found, monkeypatch):
    monkeypatch.setattr(archives, "LIST_BYTES", 1000)
    long = zipped(**{f"{n:0100}": "" for n in range(20)})
    result = found({"ann/A1.ipynb": "N", "ben/A1.zip": long})
    assert result.named[0][2] == "A1.zip was not unpacked: its list of files is too long."


HOSTILE = ["\x1b[31mred", "two\nlines", "=1+1", "-_.", "a b ", "..", "x" * 250, "%2F", "\udcf6",
           "<b>", "C:", "_1_2_A1", "({student})", "A1", "con", "\u202e", "a\\b"]  # fmt: skip


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
@pytest.mark.parametrize("where", ["{}/A1.ipynb", "{}_A1.ipynb", "in.zip/{}/A1.ipynb", "ann/{}"])
def test_hostile_names_are_names(where, found, texts, tmp_path):
    names = [n for n in HOSTILE if n != ".." or "zip" in where]
    if "zip" in where:
        inside = {
            where.split("/", 1)[1].format(n): texts["empty"] for n in names if n.isprintable()
        }
        result = found({"in.zip": zipped(**inside), "zoe/A1.ipynb": "O"})
    else:
        result = found({where.format(n)[-250:]: "O" for n in names})
    lines: list[str] = []
    result.preview(lines.append)
    assert all(line.isprintable() for line in lines)
    for name in students(result):
        assert name.strip(". ") and name.isprintable() and not set(name) & set('/\\<>"')
    result.write(tmp_path / "files.csv")
    with (tmp_path / "files.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = [row for row in csv.reader(file)][1:]
    assert len(rows) == len(result.files)
    assert not any(cell[:1] in ("=", "@", "+") for row in rows for cell in row)
    if where == "{}/A1.ipynb":
        assert len(students(result)) >= len(names) - 2  # the assignment's own name is nobody's
