"""Which files of a folder are images, and of which classes: one answer for every command.

Names of classes are compared as people mean them: in Unicode's composed form. What is left out is
counted by kind, for the message.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from mixer_lite._support.words import listed

# Kinds of pictures that Pillow opens and that people keep as photographs, in small letters.
SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .jif .jp2 .png .apng .gif .tif .tiff .bmp .dib .webp .avif .ppm .pgm "
    ".pbm .pnm .tga".split()
)
# How such files begin, for those whose names have no suffix: JPEG, PNG, GIF, TIFF, BMP, WebP.
_BEGIN = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"RIFF")
_SYSTEM = frozenset(
    ("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "lost+found", "__pycache__",
     "system volume information")
)  # fmt: skip
_TABLES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".mat")


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is the system's or a program's own."""
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM


def composed(name: str) -> str:
    """A name in Unicode's composed form, in which equal names are equal."""
    return unicodedata.normalize("NFC", name)


def _other_kind(path: Path) -> str:
    """What a message calls a file that is no image; empty for an image."""
    suffix = path.suffix.lower()
    if suffix in SUFFIXES:
        return ""
    if not suffix:
        try:
            with path.open("rb") as file:
                if file.read(8).startswith(_BEGIN):
                    return ""
        except OSError:
            pass
    return suffix or "without a suffix"


def image_files(folder: Path, skipped: Counter[str]) -> list[Path]:
    """All images in a folder and in the folders in it, by name; ``skipped`` counts the others."""
    found: list[Path] = []
    been: set[str] = set()
    for root, folders, names in os.walk(
        folder, onerror=lambda _: skipped.update(["unreadable folders"]), followlinks=True
    ):
        real = os.path.realpath(root)
        if real in been:  # links can form a loop
            folders.clear()
            continue
        been.add(real)
        skipped.update("hidden" for name in [*folders, *names] if is_hidden(name))
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for path in (Path(root, name) for name in names if not is_hidden(name)):
            kind = _other_kind(path)
            if kind:
                skipped[kind] += 1
            else:
                found.append(path)
    return sorted(found)


def told(skipped: Counter[str]) -> str:
    """What was skipped, as the end of a sentence: ``"; 16 files skipped: .gif 8, .txt 8"``."""
    if not skipped:
        return ""
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in skipped.most_common())
    return f"; {skipped.total():,} file{'s' * (skipped.total() > 1)} skipped: {kinds}"


@dataclass(frozen=True)
class ClassFiles:
    """The images of a folder of class folders.

    Attributes:
        folder: where they lie.
        files: the images of each class, classes and files by name.
        loose: images that lie in no class folder.
        empty: class folders without images.
        skipped: files of other kinds, counted by kind.
    """

    folder: Path
    files: dict[str, list[Path]]
    loose: list[Path] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def told(self) -> str:
        """What was found and what was not taken, in a sentence."""
        count, classes = sum(map(len, self.files.values())), len(self.files)
        sentence = f"{count:,} images of {classes} class{'es' * (classes != 1)} in {self.folder}"
        sentence += told(self.skipped)
        if self.loose:
            sentence += f"; {len(self.loose):,} images outside of class folders skipped"
        if self.empty:
            sentence += f"; no images in {_some(self.empty)}"
        return f"{sentence}."

    @property
    def deeper(self) -> str:
        """A question, where the classes seem to lie one folder deeper; else empty."""
        inner = {name: self._inner(name) for name in self.files}
        first = next(iter(inner.values()))
        if len(first) < 2 or any(names != first for names in inner.values()):
            return ""
        (name, *others) = inner
        holds = f"hold{'' if others else 's'} folders {_some(first)}"
        if others:
            return f"{_some([name, *others])} each {holds}: give one of them, {self.folder / name}?"
        return f"only one class, {name}, which {holds}: give {self.folder / name}?"

    def _inner(self, name: str) -> list[str]:
        # The folders in a class folder that hold all of its images.
        parts = [path.relative_to(self.folder).parts[1:] for path in self.files[name]]
        return sorted({p[0] for p in parts}) if all(len(p) > 1 for p in parts) else []


def class_folder(folder: str | Path) -> ClassFiles:
    """The images of a folder of class folders; a class is named after its folder.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no class folder with images; says what it holds.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise FileNotFoundError(
            f"There is no folder {folder} (it {what}): give one that holds a folder of images for "
            f"each class, or hf:NAME for a data set of the Hugging Face hub."
        )
    files: dict[str, list[Path]] = {}
    loose: list[Path] = []
    skipped: Counter[str] = Counter()
    for child in sorted(folder.iterdir(), key=lambda path: (composed(path.name), path.name)):
        if is_hidden(child.name):
            skipped["hidden"] += 1
        elif child.is_dir():
            files.setdefault(composed(child.name), []).extend(image_files(child, skipped))
        elif kind := _other_kind(child):
            skipped[kind] += 1
        else:
            loose.append(child)
    empty = [name for name, paths in files.items() if not paths]
    found = ClassFiles(folder, {k: v for k, v in files.items() if v}, loose, empty, skipped)
    if not found.files:
        raise ValueError(f"{folder} holds no folders of images{''.join(_instead(found))}: put each "
                         f"class's images into a folder named after it.")  # fmt: skip
    return found


def _instead(found: ClassFiles) -> Iterator[str]:
    # What a folder holds in place of class folders.
    if found.loose:
        yield f"; {len(found.loose):,} images lie directly in it, which tells no class"
        kinds = [kind for kind in found.skipped if kind in _TABLES]
        with suppress(OSError):  # Kaggle puts them beside the folder
            beside = {path.suffix.lower() for path in found.folder.absolute().parent.iterdir()}
            kinds += sorted(beside.intersection(_TABLES).difference(kinds))
        if kinds:
            yield f" (labels in tables, {' or '.join(kinds)}, are not read)"
    if found.empty:
        yield f"; there are none in {_some(found.empty)}"
    yield told(found.skipped)


def _some(names: list[str]) -> str:
    return listed(names, 8)
