"""Who handed in what: every file in a folder of submissions, by student and assignment."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import time
import unicodedata
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from archives import FOREIGN, Entry, Looker
from frame import STUDENT, answered, likeness
from layouts import Layout, Owner, assignment_in
from pages import name_from, no_formula, one_line
from reading import Refused, is_notebook, read

EXTRA_BYTES, EXTRAS = 20_000_000, 100  # of the files beside a notebook
COMPILED = (".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib")
PLAIN = re.compile(r"[^\x00-\x1f\\/:*?\"<>|]{1,200}")
MINUTE = 60  # what was changed within one may have been unpacked together
LINK = "This is a link to another place: hand in the file itself."


@dataclass(frozen=True)
class Submission:
    """One student's files for one assignment.

    Attributes:
        student, assignment: whose, of what.
        notebook: the one to be graded.
        called: what it was called.
        extra: name, by which the notebook may read it, and place of each file beside it.
        notes: for the teacher.
        stamp: the file with the time of handing in, which nbgrader's exchange writes.
    """

    student: str
    assignment: str
    notebook: Path
    called: str = ""
    extra: tuple[tuple[str, Path], ...] = ()
    notes: tuple[str, ...] = ()
    stamp: Path | None = None


@dataclass
class Intake:
    """All that was handed in.

    Attributes:
        submissions: to be graded.
        named: student, assignment (may be empty) and the reason, of those that cannot be.
        files: path -> student, assignment, and what became of it; of every file.
        sources: how the students' names were found -> how many.
    """

    submissions: list[Submission] = field(default_factory=list)
    named: list[tuple[str, str, str]] = field(default_factory=list)
    files: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    sources: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def preview(self, say: Callable[[str], Any]) -> None:
        """Say who was found, from what."""
        students = {s.student for s in self.submissions} | {name for name, _, _ in self.named}
        how = ", ".join(f"{number} by {source}" for source, number in sorted(self.sources.items()))
        say(f"{len(students)} students found ({how}):")
        lines = [(s.student, s.assignment, s.called) for s in self.submissions]
        lines += [(student, name or "?", why) for student, name, why in self.named]
        for student, name, what in sorted(lines):
            say(f"  {student:30} {name:4} {what}")
        loose = [path for path, (student, _, _) in self.files.items() if not student]
        if loose:
            more = f" and {len(loose) - 5} more" if len(loose) > 5 else ""
            say(f"  unassigned: {', '.join(loose[:5])}{more}")

    def write(self, path: Path) -> None:
        """Write the table of all files."""
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["file", "student", "assignment", "what became of it"])
            for name, row in sorted(self.files.items()):
                writer.writerow(map(no_formula, [name, *row]))


@dataclass
class _Candidate:
    entry: Entry
    owner: Owner
    notebook: NotebookNode | None
    answers: int = 0
    time: float = 0.0

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        return self.entry.kind != "link", self.notebook is not None, self.answers > 0

    @property
    def copy(self) -> int:
        # 2 of "A1 (2).ipynb" and of Canvas's "A1-2.ipynb".
        found = re.search(r"(?:\((\d{1,3})\)|-(\d{1,3}))(?:\.\w+)+$", self.entry.parts[-1])
        return int(found[1] or found[2]) if found else 0


def find(
    folder: Path, releases: dict[str, NotebookNode], temporary: Path, names: str = ""
) -> Intake:
    """Everything in a folder of submissions, or in an archive of one. No link is followed.

    Args:
        folder: see the top of grade.py.
        releases: the student version of each assignment, by name.
        temporary: a new folder, for what archives hold.
        names: how students' names stand in paths, see :func:`layouts.pattern_of`; empty: as usual.

    Raises:
        Refused: the pattern is none.
    """
    return _Finder(folder, releases, temporary, names).run()


class _Finder:
    def __init__(
        self, folder: Path, releases: dict[str, NotebookNode], temporary: Path, names: str
    ) -> None:
        self.folder, self.releases, self.result = folder, releases, Intake()
        self.entries = [e for e in Looker(temporary).look(folder) if e.parts]
        self.read: dict[Entry, NotebookNode | None] = {}
        self.notebooks = {
            e: self._assignment(e) for e in self.entries
            if (e.kind == "file" and is_notebook(e.path, e.parts[-1]))
            or (e.kind == "link" and e.parts[-1].lower().endswith(".ipynb"))
        }  # fmt: skip
        layout = Layout(self.entries, self.notebooks, releases, names, self._named_inside)
        self.owners = layout.find()
        self.names = _distinct(self.owners)
        self.areas: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
        for entry, owner in self.owners.items():
            self.areas[owner.area].append(entry)
        self.filled = {entry.parts[:-1] for entry in self.entries}

    def _notebook(self, entry: Entry) -> NotebookNode | None:
        if entry not in self.read:
            self.read[entry] = None
            with contextlib.suppress(Refused):
                self.read[entry] = read(entry.path, entry.parts[-1])[0]
        return self.read[entry]

    def _named_inside(self, entry: Entry) -> str:
        notebook = self._notebook(entry)
        code = "\n".join(c.source for c in notebook.cells) if notebook else ""
        found = STUDENT.search(code)
        return found[1] if found else ""

    def _assignment(self, entry: Entry) -> str:
        # From the names of folders and of the file; where these say nothing, or not the same, from
        # what is in it.
        lower = {name.lower(): name for name in self.releases}
        *folders, name = (part.lower() for part in entry.parts)
        said = [lower[p] for p in [*folders, name.split(".ipynb")[0]] if p in lower]
        if len(set(said)) == 1:
            return said[0]
        shared = {}
        if entry.kind == "file" and (notebook := self._notebook(entry)):
            among = dict.fromkeys(said) or self.releases
            shared = {n: likeness(notebook, self.releases[n]) for n in among}
        best = max(shared, key=lambda n: shared[n], default="")
        if best and shared[best]:
            return best
        return said[0] if said else assignment_in(name, self.releases)

    def run(self) -> Intake:
        """Sort everything."""
        groups: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry, assignment in self.notebooks.items():
            if entry in self.owners:
                groups[self.names[entry], assignment].append(entry)
            else:
                self._fate(entry, "not graded: its name does not fit --names")
                student = name_from(entry.parts[0])
                why = f"{entry.shown} does not fit --names."
                self.result.named.append((student, assignment, why))
        seen: dict[tuple[int, int], str] = {}
        for (student, assignment), entries in sorted(groups.items()):
            self._submission(student, assignment, entries, seen)
        self._students_without({student for student, _ in groups})
        for entry in self.entries:
            if entry.kind == "folder" and entry.parts in self.filled:
                continue
            usual = {"out": f"not looked at: {entry.why}", "link": f"not looked at: {LINK}",
                     "archive": entry.why or "unpacked", "folder": "empty"}  # fmt: skip
            what = usual.get(entry.kind, "not used" if entry in self.owners else "unassigned")
            self.result.files.setdefault(entry.shown, (*self._of(entry), what))
        return self.result

    def _of(self, entry: Entry) -> tuple[str, str]:
        owner = self.owners.get(entry)
        assignment = self.notebooks.get(entry) or (owner.assignment if owner else "")
        return self.names.get(entry, ""), assignment

    def _fate(self, entry: Entry, what: str) -> None:
        self.result.files[entry.shown] = (*self._of(entry), what)

    def _submission(
        self, student: str, assignment: str, entries: list[Entry], seen: dict[tuple[int, int], str]
    ) -> None:
        best, notes = self._choose(entries, assignment)
        self.result.sources[best.owner.source] += 1
        if best.entry.kind == "link":
            self._fate(best.entry, f"not graded: {LINK}")
            self.result.named.append((student, assignment, LINK))
            return
        if not assignment:
            why = "This file could not be assigned to any assignment."
            with contextlib.suppress(Refused):
                read(best.entry.path, best.entry.parts[-1])
                why = f"{one_line(best.entry.parts[-1])} is of no assignment: it seems another one."
            self._fate(best.entry, f"not graded: {why}")
            self.result.named.append((student, "", why))
            return
        self._fate(best.entry, "graded")
        told = os.lstat(best.entry.path)
        same = seen.setdefault((told.st_dev, told.st_ino), student)
        if same != student:
            notes.append(f"the notebook is one file with that of {same} (a hard link)")
        extra, more, stamp = self._beside(best)
        self.result.submissions.append(Submission(
            student, assignment, best.entry.path, best.entry.shown, tuple(extra),
            tuple([*notes, *more]), stamp,
        ))  # fmt: skip

    def _choose(self, entries: list[Entry], assignment: str) -> tuple[_Candidate, list[str]]:
        # The notebook to be graded: one with answers, the latest of these.
        found = []
        for entry in entries:
            one = _Candidate(entry, self.owners[entry], None, 0, self.owners[entry].when)
            one.time = one.time or entry.time
            if len(entries) > 1 and entry.kind == "file":
                one.notebook = self._notebook(entry)
            if one.notebook and assignment:
                one.answers = answered(one.notebook, self.releases[assignment])
            found.append(one)
        top = max(one.rank for one in found)
        last = max(one.time for one in found if one.rank == top)
        best = max(
            (one for one in found if one.rank == top and last - one.time <= MINUTE),
            key=lambda one: (one.copy, one.answers, one.time, _stem(one.entry) == assignment),
        )
        if len(found) == 1:
            return best, []
        told = []
        for one in found:
            if one is not best:
                self._fate(one.entry, f"not graded: {best.entry.shown} was")
            told.append(self._told(one))
        more = f" and {len(told) - 6} more" if len(told) > 6 else ""
        listed = ", ".join(told[:6]) + more
        return best, [f"{len(found)} notebooks: {listed}; graded: {best.entry.shown}"]

    def _told(self, one: _Candidate) -> str:
        if one.notebook is None:
            return f"{one.entry.shown} (not readable)"
        when = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.time))
        return f"{one.entry.shown} ({one.answers} answers, {when})"

    def _beside(self, best: _Candidate) -> tuple[list[tuple[str, Path]], list[str], Path | None]:
        # The files that a notebook may read, and a sentence on each that is left out.
        extra: list[tuple[str, Path]] = []
        notes: list[str] = []
        whose = self.names[best.entry], self.notebooks[best.entry]
        stamp, room, above = None, EXTRA_BYTES, best.owner.place[:-1]
        for entry in self.areas[best.owner.area]:
            owner = self.owners[entry]
            if owner.place[: len(above)] != above or entry in self.notebooks:
                continue
            if best.owner.source == "the file's name" and entry is not best.entry:
                continue
            inner = owner.place[len(above) :]
            if entry.kind in ("folder", "archive") or not inner:
                if entry.why:
                    notes.append(f"{entry.shown}: {entry.why}")
                continue
            name, why = "/".join(inner), entry.why
            if why.startswith("hidden"):
                continue
            if entry.kind == "link":
                why = "it is a link, or no file"
            elif why:
                pass
            elif name.lower().endswith(COMPILED):
                why = "it is compiled code"
            elif name.lower().endswith(FOREIGN):
                why = "archives of this kind are not opened"
            elif not all(PLAIN.fullmatch(part) for part in inner):
                why = "its name cannot be used everywhere"
            elif entry.size > room:
                why = f"it has {entry.size:,} bytes, all files may have {EXTRA_BYTES:,}"
            elif len(extra) == EXTRAS:
                why = f"there are more than {EXTRAS}"
            elif not os.access(entry.path, os.R_OK):
                why = "it cannot be read"
            if why:
                self.result.files[entry.shown] = (*whose, f"left out: {why}")
                notes.append(f"the file {one_line(name, 60)} was left out: {why}")
                continue
            room -= entry.size
            extra.append((name, entry.path))
            self.result.files[entry.shown] = (*whose, "given to the notebook")
            if name == "timestamp.txt":
                stamp = entry.path
        return extra, notes[:5], stamp

    def _students_without(self, known: set[str]) -> None:
        # A row for everybody who was found, and handed in nothing that can be graded.
        mine: dict[str, list[Entry]] = defaultdict(list)
        for entry in self.owners:
            mine[self.names[entry]].append(entry)
        every = {s.assignment for s in self.result.submissions}
        for student in sorted(set(mine) - known):
            files = [e for e in mine[student] if e.kind not in ("folder", "out")]
            shown = ", ".join(one_line(e.parts[-1], 60) for e in files[:4])
            more = f" and {len(files) - 4} more" if len(files) > 4 else ""
            what = f"found: {shown}{more}" if files else "the folder is empty"
            out = [one_line(e.parts[-1], 60) for e in mine[student] if e.kind == "out"]
            if out and not files:
                what = f"{', '.join(out[:4])} alone, which is not looked at"
            why = f"No notebook: {what}."
            links = [e for e in files if e.kind == "link"]
            broken = [e for e in files if e.kind == "archive" and e.why]
            if links and len(links) == len(files):
                why = LINK
            elif broken:
                why = f"{one_line(broken[0].parts[-1], 60)} was not unpacked: {broken[0].why}."
            hints = {self._of(e)[1] for e in mine[student]} - {""}
            assignment = min(hints) if hints else next(iter(every)) if len(every) == 1 else ""
            self.result.named.append((student, assignment, why))
            self.result.sources["no notebook"] += 1
            for entry in files:
                self._fate(entry, entry.why or "no notebook")


def _stem(entry: Entry) -> str:
    return entry.parts[-1].split(".")[0]


def _distinct(owners: dict[Entry, Owner]) -> dict[Entry, str]:
    # A name for each entry's student; two people of one name are told apart by their numbers.
    # macOS writes an umlaut in two characters: one name, however it is written.
    names = {entry: unicodedata.normalize("NFC", o.student) for entry, o in owners.items()}
    numbers: dict[str, set[str]] = defaultdict(set)
    for entry, owner in owners.items():
        numbers[names[entry]].update({owner.id} - {""})
    return {
        entry: name_from(f"{names[entry]} ({o.id})" if len(numbers[names[entry]]) > 1 and o.id
                         else names[entry])
        for entry, o in owners.items()
    }  # fmt: skip
