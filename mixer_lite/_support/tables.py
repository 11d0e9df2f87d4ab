"""Tables in CSV files that a program adds to, and goes on with after a stop."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixer_lite._support.files import replaced


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """All rows as a CSV file, whole or not at all; what a row lacks is left empty.

    Raises:
        OSError: the disk takes no more, or there is no such folder.
    """
    with replaced(path) as file:
        file.write(_encoded(rows, columns, header=True))


class Table:
    """A CSV file of these columns that a program fills, and goes on with after a stop.

    Args:
        path: the file; its folder is made when something is written.
        columns: all of them, in their order.
        key: the columns that tell rows apart.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str]):
        self.path, self.columns, self.key = path, list(columns), tuple(key)

    def rows(self) -> list[dict[str, str]]:
        """All rows; a last line that was cut short by a stop is left out.

        Raises:
            ValueError: the file has other columns, or is damaged.
        """
        if not self.path.exists():
            return []
        text = self.path.read_bytes().decode(errors="surrogateescape")
        try:
            records = list(csv.reader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise ValueError(f"{self.path} is damaged or no table ({error}).") from error
        header = ",".join(self.columns)
        if not text.endswith("\n") and header.startswith(text):
            return []  # not even the header is whole
        if records and records[0] == self.columns:
            if not text.endswith("\n") or len(records[-1]) != len(self.columns):
                records.pop()
        elif records:
            raise ValueError(f"{self.path} is no table of this kind: it has other columns.")
        for record in records:
            if len(record) != len(self.columns):
                raise ValueError(f"{self.path} is damaged: a line has {len(record)} columns.")
        return [dict(zip(self.columns, record, strict=True)) for record in records[1:]]

    def has(self, **facts: object) -> bool:
        """Whether a row says all of this."""
        return any(all(row[k] == str(v) for k, v in facts.items()) for row in self.rows())

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """More rows at the end, in one write: at worst the last line is cut short."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            file.write(_encoded(rows, self.columns, header=file.tell() == 0))

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """These rows and no others, whole or not at all."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_table(self.path, rows, self.columns)

    def put(
        self,
        rows: Iterable[Mapping[str, Any]],
        order: Callable[[Mapping[str, str]], Any] | None = None,
    ) -> None:
        """Rows, each in place of an earlier one of the same key, at the end or in an order."""
        kept = {tuple(row[k] for k in self.key): row for row in self.rows()}
        for new in rows:
            row = {k: "" if new.get(k) is None else str(new[k]) for k in self.columns}
            mark = tuple(row[k] for k in self.key)
            kept.pop(mark, None)
            kept[mark] = row
        self.write(sorted(kept.values(), key=order) if order else kept.values())


def _encoded(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], *, header: bool) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="surrogateescape")  # file names may be any bytes
