"""The one table printer: records and columns to texts and lines of text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

__all__ = ["Table", "number", "table_of"]

Record = TypeVar("Record")
Columns = Mapping[str, Callable[[Record], str]]  # heading to the text of a record's cell
NONE = "–"


@dataclass(frozen=True, slots=True)
class Table:
    """Texts in rows and columns; the first column names the row.

    Attributes:
        head: Headings of the columns.
        rows: Cells, as many in each row as there are headings.
        title: Shown above; empty for none.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    title: str = ""

    @property
    def widths(self) -> list[int]:
        """Characters of the widest text of each column."""
        return [max(map(len, column)) for column in zip(self.head, *self.rows, strict=True)]

    def text(self) -> str:
        """Return aligned lines: names to the left, all else to the right."""
        lines = [self.title] if self.title else []
        for row in (self.head, *self.rows):
            first, *others = zip(row, self.widths, strict=True)
            cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)


def table_of(records: Sequence[Record], columns: Columns[Record], /, title: str = "") -> Table:
    """Return the table with a row per record and a column per entry of `columns`."""
    rows = tuple(tuple(cell(record) for cell in columns.values()) for record in records)
    return Table(tuple(columns), rows, title)


def number(value: float | None, /, form: str = ".2f") -> str:
    """Return a number in a format, with a minus sign; a dash for None."""
    return NONE if value is None else format(value, form).replace("-", "−")
