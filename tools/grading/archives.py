"""A folder of submissions as a list of all that lies in it, archives looked into.

No link is followed, nothing is written under a name that somebody else chose, and what one archive
may take is limited: what is left out is in the list as well, with the reason.
"""

from __future__ import annotations

import contextlib
import os
import stat
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pages import one_line
from reading import MAX_BYTES, NOTEBOOK_BYTES, Refused

DEPTH, ENTRIES, NESTED = 12, 20_000, 3  # of folders, of things in one, of archives in archives
ARCHIVE_BYTES, CLASS_BYTES = 200_000_000, 8_000_000_000  # unpacked: of a student, of a class
LIST_BYTES = 4_000_000  # of an archive's list of files
CLASS = 50  # times as many things may lie in an archive of a whole class
SYSTEM = ("__MACOSX", "Thumbs.db", "desktop.ini", "__pycache__", "node_modules")
FOREIGN = (".tar", ".tgz", ".gz", ".bz2", ".xz", ".rar", ".7z")
HIDDEN = "hidden, or a system's own"


@dataclass(frozen=True)
class Entry:
    """A file, folder or link that was handed in.

    Attributes:
        parts: its path in the folder of submissions, through archives too.
        path: where it lies now.
        kind: ``"file"``, ``"folder"``, ``"archive"`` or ``"link"``; ``"out"`` for what is not
            looked at.
        why: it is not looked at.
        size: in bytes.
        time: of its last change, in seconds.
    """

    parts: tuple[str, ...]
    path: Path
    kind: str
    why: str = ""
    size: int = 0
    time: float = 0.0

    @property
    def shown(self) -> str:
        """Its path, for people."""
        return one_line("/".join(self.parts), 1000)


@dataclass
class Looker:
    """Walks through a folder of submissions.

    Attributes:
        temporary: a new or empty folder, for what archives hold.
    """

    temporary: Path
    left: int = ENTRIES
    unpacked: int = 0
    entries: list[Entry] = field(default_factory=list)

    def look(self, place: Path) -> list[Entry]:
        """Everything in a folder, or in an archive of a whole class."""
        if place.is_file():
            self.left = ENTRIES * CLASS
            self._unpack(Entry((), place, "archive"), CLASS_BYTES, 0)
            return self.entries
        inside = [entry for entry in _inside(place, ()) if entry.kind != "out"]
        whole = len(inside) == 1 and inside[0].kind == "archive"
        for entry in _inside(place, ()):
            self.left = ENTRIES * (CLASS if whole else 1)
            self._take(entry, CLASS_BYTES if whole else ARCHIVE_BYTES, 0)
        return self.entries

    def _take(self, entry: Entry, most: int, nested: int) -> None:
        self.left -= 1
        if entry.kind == "archive":
            self._unpack(entry, most, nested)
            return
        self.entries.append(entry)
        if entry.kind != "folder":
            return
        if len(entry.parts) > DEPTH or self.left <= 0:
            why = f"folders are looked through {DEPTH} deep, {ENTRIES:,} things for each student"
            self.entries[-1] = Entry(entry.parts, entry.path, "out", why)
            return
        for inner in _inside(entry.path, entry.parts):
            if self.left <= 0:
                why = f"not looked through to the end: more than {ENTRIES:,} things are in it"
                self.entries.append(Entry((*entry.parts, "..."), entry.path, "out", why))
                return
            self._take(inner, most, nested)

    def _unpack(self, entry: Entry, most: int, nested: int) -> None:
        at = len(self.entries)
        self.entries.append(entry)
        why = ""
        if nested == NESTED:
            why = f"an archive in {NESTED} archives is not opened"
        else:
            try:
                for inner in self._members(entry, most):
                    self._take(inner, ARCHIVE_BYTES, nested + 1)
            except Refused as error:
                why = str(error)
            except Exception as error:
                why = f"it cannot be unpacked ({one_line(error or type(error).__name__, 100)})"
        if why:
            self.entries[at] = Entry(entry.parts, entry.path, "archive", why, entry.size)

    def _members(self, entry: Entry, most: int) -> Iterator[Entry]:
        # Each file of an archive, under a number; its name stands in the list alone.
        left, folders, times = most, set(), CLASS if most == CLASS_BYTES else 1
        with open(entry.path, "rb") as file:
            told = zipfile._EndRecData(file)  # as ZipFile itself will see it
            if told and told[5] > LIST_BYTES * times:
                raise Refused("its list of files is too long")
            with zipfile.ZipFile(file) as archive:
                for number, info in enumerate(archive.infolist()):
                    if number == ENTRIES * times:
                        raise Refused(f"the rest was left out: more than {number:,} files")
                    names = [n for n in info.filename.replace("\\", "/").split("/") if n]
                    parts = (*entry.parts, *(name for name in names if name != "."))
                    if why := _refused(info, names, left):
                        yield Entry(parts, entry.path, "out", why, info.file_size)
                        continue
                    for depth in range(len(entry.parts) + 1, len(parts) + info.is_dir()):
                        if parts[:depth] not in folders:
                            folders.add(parts[:depth])
                            yield Entry(parts[:depth], self.temporary / "none", "folder")
                    if not info.is_dir():
                        one = self._extract(archive, info, parts, min(left, _most(parts[-1])))
                        left -= one.size
                        yield one

    def _extract(
        self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, parts: tuple[str, ...], most: int
    ) -> Entry:
        target, size = self._target(), 0
        try:
            with archive.open(info) as source, target.open("xb") as file:
                while piece := source.read(1 << 20):
                    size += len(piece)
                    if size > most:
                        raise Refused("it holds more than it says")
                    file.write(piece)
        except (Refused, zipfile.BadZipFile, zlib.error, EOFError) as error:
            why = f"it cannot be unpacked ({one_line(error, 100)})"
            return Entry(parts, target, "out", why, size)
        when = 0.0
        with contextlib.suppress(ValueError, OverflowError):
            when = time.mktime((*info.date_time, 0, 0, -1))
        return Entry(parts, target, _kind(parts[-1]), "", size, when)

    def _target(self) -> Path:
        self.unpacked += 1
        folder = self.temporary / f"{self.unpacked // 1000}"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{self.unpacked}"


def _inside(folder: Path, parts: tuple[str, ...]) -> list[Entry]:
    found: list[Entry] = []
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for one in sorted(entries, key=lambda e: e.name):
            told = one.stat(follow_symlinks=False)
            kind, why = _kind(one.name), ""
            if stat.S_ISLNK(told.st_mode):
                kind = "link"
            elif stat.S_ISDIR(told.st_mode):
                kind = "folder"
            elif not stat.S_ISREG(told.st_mode):
                kind, why = "out", "it is a link, or no file"
            if one.name.startswith(".") or one.name in SYSTEM:
                kind, why = "out", HIDDEN
            path = Path(one.path)
            found.append(Entry((*parts, one.name), path, kind, why, told.st_size, told.st_mtime))
    return found


def _kind(name: str) -> str:
    return "archive" if name.lower().endswith(".zip") else "file"


def _refused(info: zipfile.ZipInfo, names: list[str], left: int) -> str:
    # Why a member of an archive is not taken out of it; else empty.
    if any(name.startswith(".") or name in SYSTEM for name in names if name not in (".", "..")):
        return HIDDEN
    mode = info.external_attr >> 16
    if not names or ".." in names or info.filename.startswith("/"):
        return "its path leads out of the archive"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link, or no file"
    if info.flag_bits & 1:
        return "it needs a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "it is packed in a way that is not opened"
    if len(names) > DEPTH:
        return f"folders are looked through {DEPTH} deep"
    if info.file_size > (most := min(left, _most(names[-1]))):
        return f"it has {info.file_size:,} bytes; {most:,} are taken"
    return ""


def _most(name: str) -> int:
    return NOTEBOOK_BYTES if name.lower().endswith(".ipynb") else MAX_BYTES
