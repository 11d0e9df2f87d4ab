"""Whose a file is, from the folders and names that learning platforms give it."""

from __future__ import annotations

import contextlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from archives import Entry
from reading import MAX_BYTES, Refused, load

# What the common platforms call a student's folder, or a file; the file's own name comes last.
PLATFORMS = {
    "moodle": r"(?P<student>.+?)_(?P<id>\d+)_assignsubmission_[a-z]+_?(?P<file>.*)",
    "canvas anonymous": r"(?P<student>anon_[A-Za-z0-9]+)(_LATE)?_\d+_(?P<file>.+)",
    "canvas": r"(?P<student>[^_]+?)(_LATE)?_(?P<id>\d+)_(\d+_(?P<file>.+)|text\.html)",
    "blackboard": r".*?(?P<student>[^_]+)_attempt_(?P<when>[\d-]+)(_(?P<file>.+)|\.txt)?",
    "brightspace": r"(?P<id>\d+)-\d+ - (?P<student>.+?) ?- (?P<when>[^-]*\b\d{4}\b[^-]*?)"
    r"( - (?P<file>.+))?",
}
DOCUMENTS = (".ipynb", ".pdf", ".zip", ".html", ".docx", ".doc", ".odt", ".txt", ".json")
TABLES = (".csv", ".xlsx", ".xls", ".html", ".htm", ".xml", ".yml", ".css", ".js", ".md")
WHEN = ("%Y-%m-%d-%H-%M-%S", "%b %d, %Y %I%M %p", "%B %d, %Y %I%M %p", "%d %B, %Y %H%M")
ENDINGS = re.compile(
    r"(\.(ipynb|json|txt|zip|pdf|html?|py|docx?|odt|rtf|md|tar|gz|tgz|rar|7z|download|png|jpe?g))+$",
    re.I,
)
# What people write beside a name, which is then no name.
COPY_OF = r"\b(copy of|kopie von|copie de|copia de)\b"
VERSION = re.compile(
    r"(copy|kopie|final(ly)?|draft|old|new|latest|backup|fixed|"
    r"sol(ved|ution|utions)?|answers?|submissions?|submitted|attempt|homework|hw|assignment|"
    r"exercise|notebook|my|v?\d{1,3}|\(\d+\)|work|done|src|code)",
    re.I,
)
DATE = re.compile(
    r"(20\d\d[-_. ]?[01]\d[-_. ]?[0-3]\d|[0-3]?\d[-_. ][01]?\d[-_. ]20\d\d)([T_ -].*)?"
)
AROUND = " _-.,()"
GRADESCOPE = "submission_metadata.yml"  # beside the folders of an export: who handed each in


@dataclass(frozen=True)
class Owner:
    """Whose an entry is.

    Attributes:
        student: the name, as the platform gives it.
        area: the folder or archive that is the student's, or what its files have in common.
        place: the entry's path in the area.
        id: the platform's number for the student, or the folders around the student's.
        assignment: what the folders or the file's name say; may be empty.
        when: when it was handed in, in seconds, if the name says so.
        source: how this was found out.
    """

    student: str
    area: tuple[str, ...]
    place: tuple[str, ...]
    id: str = ""
    assignment: str = ""
    when: float = 0.0
    source: str = ""


def pattern_of(names: str) -> re.Pattern[str]:
    """The expression for ``--names``: a platform's name, or a path with the parts in braces.

    Raises:
        Refused: it names no student, or something unknown.
    """
    if names in PLATFORMS:
        one = PLATFORMS[names].replace("[^_]", "[^_/]").replace("<student>.", "<student>[^/]")
        return re.compile(f"(?:[^/]+/)*?{one}", re.S)
    pieces, seen = [], set()
    for piece in re.split(r"(\{\w+\}|\*\*?)", names.strip("/")):
        name = piece.strip("{}")
        if piece == "{file}":
            pieces.append("(?P<file>.+)")
        elif piece in ("{student}", "{assignment}", "{id}"):
            pieces.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)")
            seen.add(name)
        elif piece.startswith("{"):
            raise Refused(
                f"--names knows {{student}}, {{assignment}}, {{id}}, {{file}}: no {piece}."
            )
        else:
            pieces.append({"*": "[^/]*?", "**": ".*?"}.get(piece, re.escape(piece)))
    if "student" not in seen:
        known = ", ".join(PLATFORMS)
        raise Refused(f"--names needs {{student}} in its pattern, or is one of {known}.")
    end = "" if "{file}" in names else r"(?:/(?P<file>.*))?"
    return re.compile("".join(pieces) + end, re.S)


def assignment_in(text: str, releases: Iterable[str]) -> str:
    """The assignment whose name stands in a text as a word; else empty."""
    for name in sorted(releases, key=len, reverse=True):
        if re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", text, re.I):
            return name
    return ""


def student_in(name: str, assignment: str) -> str:
    """What a file's name says beside the assignment's: ``ann`` in ``ann_A1 (2).ipynb``."""
    stem = ENDINGS.sub("", name)
    stem = re.sub(COPY_OF, "", stem, flags=re.I)
    named = rf"(?<![A-Za-z0-9]){re.escape(assignment)}(?![A-Za-z0-9])"
    for part in re.split(named, stem, maxsplit=1, flags=re.I):
        words = re.split(r"([ _-]+)", part)
        while words and (not words[0].strip(AROUND) or VERSION.fullmatch(words[0].strip(AROUND))):
            words.pop(0)
        while words and (not words[-1].strip(AROUND) or VERSION.fullmatch(words[-1].strip(AROUND))):
            words.pop()
        rest = "".join(words).strip(AROUND)
        if rest and not VERSION.fullmatch(rest):
            return rest
    return ""


def seconds_of(when: str) -> float:
    """The time that a platform writes into a name; 0 if it cannot be read."""
    when = re.sub(r"\b(\d{3}) ?([AP]M)", r"0\1 \2", when.strip())
    for form in WHEN:
        with contextlib.suppress(ValueError, OverflowError):
            return datetime.strptime(when, form).timestamp()
    return 0.0


class Layout:
    """Says whose each entry is.

    Args:
        entries: all that was handed in.
        notebooks: those that are notebooks, and the assignment of each (may be empty).
        releases: names of the assignments.
        names: a pattern, or empty: the platforms' and the usual ways.
        named_inside: what ``STUDENT`` is in a notebook; asked only where folders are not clear.
    """

    def __init__(
        self,
        entries: list[Entry],
        notebooks: dict[Entry, str],
        releases: Iterable[str],
        names: str = "",
        named_inside: Callable[[Entry], str] = lambda entry: "",
    ) -> None:
        self.entries, self.notebooks, self.releases = entries, notebooks, list(releases)
        self.lower = {name.lower(): name for name in releases}
        self.pattern = pattern_of(names) if names else None
        self.named_inside = named_inside
        self.owners: dict[Entry, Owner] = {}
        self._title = _title([e.parts[-1] for e in entries if e.parts])
        self._spoken = {} if names else self._platforms()
        self._told = {} if names else gradescope(entries, notebooks)

    def find(self) -> dict[Entry, Owner]:
        """The owner of each entry that has one."""
        for entry in self.entries:
            owner = self._by_pattern(entry) if self.pattern else self._by_platform(entry)
            if owner:
                self.owners[entry] = owner
        if not self.pattern:
            self._by_folders([e for e in self.notebooks if e not in self.owners], 0)
            self._namesakes()
        self._without_notebooks()
        return self.owners

    def _by_pattern(self, entry: Entry) -> Owner | None:
        assert self.pattern
        path = "/".join(entry.parts)
        if not (found := self.pattern.fullmatch(path)):
            return None
        said = found.groupdict()
        rest = said.get("file") or ""
        area = path[: len(path) - len(rest)] if path.endswith(rest) else path
        if entry.kind == "folder" and not rest:
            area += "/"
        return Owner(
            said["student"].strip(AROUND) or said["student"], tuple(area.split("/")),
            tuple(filter(None, rest.split("/"))) or entry.parts[-1:],
            said.get("id") or "", self.lower.get((said.get("assignment") or "").lower(), ""),
            seconds_of(said.get("when") or ""), "--names",
        )  # fmt: skip

    def _platforms(self) -> dict[tuple[str, ...], str]:
        # By folder, whose names its contents have: those of most of them, and of all notebooks.
        inside: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
        for entry in self.entries:
            if entry.kind != "out" and entry.parts:
                inside[entry.parts[:-1]].append(entry)
        found = {}
        for folder, entries in inside.items():
            for platform, expression in PLATFORMS.items():
                fit = [e for e in entries if _fits(expression, platform, e)]
                rest = [e for e in self.notebooks if e in entries and e not in fit]
                if 2 * len(fit) > len(entries) and not rest:
                    found[folder] = platform
                    break
        return found

    def _by_platform(self, entry: Entry) -> Owner | None:
        for at, part in enumerate(entry.parts):
            if said := self._told.get(entry.parts[: at + 1]):
                area, place = entry.parts[: at + 1], entry.parts[at + 1 :] or (part,)
                return Owner(said[0], area, place, said[1], "", said[2], "gradescope")
            platform = self._spoken.get(entry.parts[:at], "")
            found = re.fullmatch(PLATFORMS[platform], part) if platform else None
            if not found:
                continue
            said = found.groupdict()
            student, file = said["student"].strip(AROUND) or part, said.get("file") or ""
            if platform == "blackboard":
                student = part[len(self._title) :].split("_attempt_")[0] or student
            key = part[: len(part) - len(file)]
            if platform == "canvas":  # each of a student's files has another number
                key = f"{student}_{said['id']}"
                file = re.sub(r"-\d+(\.\w+)$", r"\1", file)
            above = [self.lower[p.lower()] for p in entry.parts[:at] if p.lower() in self.lower]
            return Owner(
                student, (*entry.parts[:at], key), entry.parts[at + 1 :] or (file or part,),
                said.get("id") or "", above[0] if above else "",
                seconds_of(said.get("when") or ""), platform,
            )  # fmt: skip
        return None

    # Where no platform's name helps: folders and files of the usual kind.

    def _chain(self, entry: Entry) -> list[int]:
        # Which of an entry's folders may be a student's: none called as an assignment is, if there
        # are others; never one called as its own; no dates where something else gives a name.
        assignment = self.notebooks.get(entry, "")
        names = {i: ENDINGS.sub("", part).lower() for i, part in enumerate(entry.parts[:-1])}
        inside = [i for i, name in names.items() if name not in self.lower]
        if assignment and not inside:
            inside = [i for i, name in names.items() if name != assignment.lower()]
        rest = [i for i in inside if not DATE.fullmatch(entry.parts[i])]
        return rest if rest or student_in(entry.parts[-1], assignment) else inside

    def _by_folders(self, notebooks: list[Entry], level: int) -> None:
        groups: dict[tuple[str, ...], list[Entry]] = defaultdict(list)
        for entry in notebooks:
            chain = self._chain(entry)
            if len(chain) > level:
                groups[entry.parts[: chain[level] + 1]].append(entry)
            else:
                self._own(entry, len(entry.parts) - 1, level)
        merged: dict[str, list[Entry]] = defaultdict(list)  # ann/A1 and A1/ann are both ann's
        for area, inside in groups.items():
            merged[area[-1]].extend(inside)
        parted = {name for name, inside in merged.items() if self._parted(inside, level)}
        only = len(merged) == 1 and not level and self._only_folders(next(iter(groups)))
        outer = only or (parted and self._are_outer(list(merged.values()), level))
        divided = {name for name in parted if self._several(merged[name], level)}
        divided = set(merged) if outer else divided
        for name, inside in merged.items():
            if name in divided:
                self._by_folders(inside, level + 1)
                continue
            for entry in inside:
                self._own(entry, self._chain(entry)[level], level)

    def _parted(self, inside: list[Entry], level: int) -> bool:
        # Whether one folder holds an assignment several times, under names that may be students'.
        for assignment in set(map(self.notebooks.get, inside)):
            same = [e for e in inside if self.notebooks[e] == assignment]
            names = {self._name_below(e, level) for e in same} - {""}
            below = {e.parts[self._chain(e)[level + 1]] for e in same if self._deeper(e, level)}
            if len(names) > 1 or len(below) > 3:
                return True
        return False

    def _several(self, inside: list[Entry], level: int) -> bool:
        # Whether these are several students': files say so by their names, if STUDENT in them does
        # not say otherwise; folders may be versions as well, so there STUDENT has to say so.
        said = [name for e in inside if (name := self.named_inside(e).strip().lower())]
        if len({tuple(e.parts[i] for i in self._chain(e)[level + 1 :]) for e in inside}) > 1:
            return len(set(said)) > 1
        return len(said) < 2 or len(set(said)) > 1

    def _deeper(self, entry: Entry, level: int) -> bool:
        return len(self._chain(entry)) > level + 1

    def _name_below(self, entry: Entry, level: int) -> str:
        # What may be a student's name below a folder: of the next ones, or of the file.
        chain, assignment = self._chain(entry), self.notebooks[entry]
        found = student_in(entry.parts[-1], assignment).lower() if assignment else ""
        found = "" if found == entry.parts[chain[level]].lower() else found
        names = [*(entry.parts[i] for i in chain[level + 1 :]), found]
        return "/".join(n for n in names if n and not VERSION.fullmatch(n.strip(AROUND)))

    def _only_folders(self, area: tuple[str, ...]) -> bool:
        # Whether the one folder that there is holds nothing but folders, several with documents.
        inner = [e for e in self.entries if e.parts[:-1] == area and e.kind != "out"]
        if any(e.kind != "folder" for e in inner):
            return False
        deep = [e for e in self.entries if e.parts[-1].lower().endswith(DOCUMENTS)
                and e.parts[: len(area)] == area]  # fmt: skip
        filled = {e.parts[len(area)] for e in deep if len(e.parts) > len(area) + 1}
        names = [e.parts[-1] for e in inner]
        usual = all(n.lower() in self.lower or VERSION.fullmatch(n.strip(AROUND)) for n in names)
        return len(filled) > 1 and not usual

    def _are_outer(self, groups: list[list[Entry]], level: int) -> bool:
        # Whether all folders of a level hold students' folders: nothing lies in them directly, and
        # few names are there twice, as names of versions would be.
        names: list[str] = []
        for inside in groups:
            if not all(self._deeper(e, level) for e in inside):
                return False
            names += {e.parts[self._chain(e)[level + 1]] for e in inside}
        return 2 * (len(names) - len(set(names))) < len(set(names))

    def _own(self, entry: Entry, at: int, level: int) -> None:
        name = entry.parts[at]
        outer = ", ".join(entry.parts[i] for i in self._chain(entry)[:level])
        named = [self.lower[p.lower()] for p in entry.parts[:-1] if p.lower() in self.lower]
        assignment = named[0] if named else ""
        is_file = at == len(entry.parts) - 1
        if is_file or name.lower().endswith(".zip"):
            said = assignment_in(ENDINGS.sub("", name), self.releases)
            student = (student_in(name, said) if said else "") or ENDINGS.sub("", name)
            assignment = assignment or said
        else:
            student = name
        place = entry.parts[at + 1 :] or (name,)
        source = "the file's name" if is_file else "the folder"
        self.owners[entry] = Owner(
            student, entry.parts[: at + 1], place, outer, assignment, 0.0, source
        )

    def _namesakes(self) -> None:
        # A student may be called as an assignment is: then the folder lies among students' folders.
        areas = {o.area for o in self.owners.values() if o.source == "the folder"}
        beside = {area[:-1] for area in areas}
        for entry in self.notebooks:
            owner, stem = self.owners[entry], ENDINGS.sub("", entry.parts[-1])
            if owner.source != "the file's name" or stem.lower() not in self.lower:
                continue
            for depth in range(1, len(entry.parts)):
                area = entry.parts[:depth]
                if area in areas or area[:-1] in beside:
                    self.owners[entry] = Owner(
                        area[-1], area, entry.parts[depth:], owner.id, self.notebooks[entry], 0.0,
                        "the folder",
                    )  # fmt: skip
                    break

    def _without_notebooks(self) -> None:
        # Everything else: what lies in a student's folder, and students that have no notebook.
        areas = {owner.area: owner for owner in self.owners.values() if owner.place}
        parents = {area[:-1] for area in areas} or {()}
        inside_of = {area[:depth] for area in areas for depth in range(len(area))}
        flat = {o.area[:-1] for o in self.owners.values() if o.source == "the file's name"}
        for entry in self.entries:
            if entry in self.owners or not entry.parts or entry.parts in inside_of:
                continue
            for depth in range(1, len(entry.parts) + 1):
                area = entry.parts[:depth]
                if owner := areas.get(area):
                    self.owners[entry] = Owner(
                        owner.student, area, entry.parts[depth:], owner.id, owner.assignment,
                        owner.when, owner.source,
                    )  # fmt: skip
                    break
                if area[:-1] in parents and area not in inside_of and not self.pattern:
                    self._newcomer(entry, depth, bool(flat) or not areas)
                    break

    def _newcomer(self, entry: Entry, depth: int, flat: bool) -> None:
        # The first that is seen of a student without a notebook.
        name, last = entry.parts[depth - 1], depth == len(entry.parts)
        stem = ENDINGS.sub("", name)
        if stem.lower() in self.lower or (entry.kind == "out" and last):
            return
        student = name
        if last and entry.kind in ("file", "archive"):
            said = assignment_in(stem, self.releases)
            student = student_in(name, said) if said else ""
            if entry.kind == "archive" or (flat and name.lower().endswith(DOCUMENTS)):
                student = student or stem
            if not student or (not flat and name.lower().endswith(TABLES)):
                return
        elif name.lower().endswith(".zip"):
            student = stem
        self.owners[entry] = Owner(
            student, entry.parts[:depth], entry.parts[depth:] or (name,), "",
            assignment_in("/".join(entry.parts), self.releases), 0.0, "no notebook",
        )  # fmt: skip


def gradescope(
    entries: list[Entry], notebooks: Iterable[Entry]
) -> dict[tuple[str, ...], tuple[str, str, float]]:
    """Name, number and time of those whose folders an export of Gradescope holds.

    Only an export that holds all notebooks counts: a student could hand in such a file as well.
    """
    found = {}
    for entry in entries:
        *above, name = entry.parts
        if entry.kind != "file" or name != GRADESCOPE:
            continue
        if any([*other.parts[: len(above)]] != above for other in notebooks):
            continue
        with contextlib.suppress(Refused, yaml.YAMLError, UnicodeError, ValueError):
            told = yaml.load(
                load(entry.path, MAX_BYTES).decode(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
            )
            for folder, said in told.items() if isinstance(told, dict) else ():
                people = _people(said)
                names = [str(p[":name"]) for p in people if p.get(":name")]
                if names:
                    number = "+".join(str(p.get(":sid") or p.get(":email", "")) for p in people)
                    when = said.get(":created_at")
                    when = when.timestamp() if isinstance(when, datetime) else 0.0
                    area = (*entry.parts[:-1], str(folder))
                    found[area] = " + ".join(names), number, when
    return found


def _people(said: Any) -> list[dict[str, Any]]:
    people = said.get(":submitters") if isinstance(said, dict) else None
    return [one for one in people if isinstance(one, dict)] if isinstance(people, list) else []


def _fits(expression: str, platform: str, entry: Entry) -> bool:
    folders = platform in ("moodle", "brightspace")
    return (folders or entry.kind != "folder") and bool(re.fullmatch(expression, entry.parts[-1]))


def _title(names: list[str]) -> str:
    # What the names of a Blackboard download begin with: the assignment's title.
    attempts = [n.split("_attempt_")[0] + "_attempt_" for n in names if "_attempt_" in n]
    if len(set(attempts)) < 2:
        title = max(attempts, default="").removesuffix("_attempt_").rpartition("_")[0]
        return f"{title}_" if title else ""
    shared = attempts[0]
    for one in attempts[1:]:
        while not one.startswith(shared):
            shared = shared[:-1]
    return shared[: shared.rfind("_") + 1]
