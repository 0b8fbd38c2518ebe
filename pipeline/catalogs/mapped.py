"""Columns of large catalogs on local disk, mapped by all processes of a machine: in memory once, not once for each.

    <cache>/columns/<key>/000.arrow …   a column each: one uncompressed Arrow batch, in the order of the schema
    <cache>/columns/<key>/checked       the columns were held against all laws of a catalog
    <cache>/columns/<key>.lock          held by the process that writes them

The key is a hash of the catalog's metadata and seal, so another catalog has another folder. Whoever maps the columns
holds them against the catalog's hashes again; a folder may be removed at any time.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from filelock import FileLock

from drawstream.samplers.files import atomic

LARGE = 1 << 20  # rows of a catalog whose columns are mapped: some 60 MB for each process
_CHECKED = "checked"


@dataclass(frozen=True, slots=True)
class MappedColumns:
    """The mapped columns of one catalog.

    Attributes:
        folder: Where they lie.
        schema: Names and types.
        load: Gives a column by its name, as pyarrow array or column; called where it is written.
    """

    folder: Path
    schema: pa.Schema
    load: Callable[[str], Any]

    @property
    def checked(self) -> bool:
        """Whether somebody has held these columns against all laws."""
        return (self.folder / _CHECKED).exists()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the lock of the folder.

        Raises:
            OSError: The cache folder cannot be written to.
        """
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_name(f"{self.folder.name}.lock"), mode=0o666):
            yield

    def map(self) -> pa.Table:
        """Map the columns.

        Raises:
            OSError: They are not there.
            ValueError: They are not as they were written.
        """
        columns = []
        for number, field in enumerate(self.schema):
            file = self.folder / f"{number:03d}.arrow"
            with pa.memory_map(str(file)) as source:
                table = pa.ipc.open_file(source).read_all()
            if table.num_columns != 1 or table.schema.field(0).type != field.type:
                raise ValueError(f"{file}: another column than {field}")
            columns.append(table.column(0))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def write(self) -> None:
        """Write the columns one by one, then give their folder its name.

        Raises:
            OSError: No room, or no permission.
        """
        self.discard()
        for left in self.folder.parent.glob(f".{self.folder.name}.*"):  # by a killed process: the lock is ours
            shutil.rmtree(left, ignore_errors=True)
        part = atomic.temporary_name(self.folder)
        part.mkdir()
        try:
            for number, field in enumerate(self.schema):
                _write(part / f"{number:03d}.arrow", field, self.load(field.name))
                pa.default_memory_pool().release_unused()
            part.rename(self.folder)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise

    def confirm(self) -> None:
        """Note that the columns hold all laws."""
        (self.folder / _CHECKED).touch()

    def discard(self) -> None:
        """Remove the columns; processes that have mapped them keep them."""
        shutil.rmtree(self.folder, ignore_errors=True)


def whole_column(column: pa.ChunkedArray, /) -> Any:
    """Return a column as one array; one of a single chunk is not copied."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _write(path: Path, field: pa.Field, column: Any) -> None:
    """Write a column as a file of one batch."""
    array = whole_column(column) if isinstance(column, pa.ChunkedArray) else column
    batch = pa.RecordBatch.from_arrays([array.cast(field.type)], names=["column"])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
