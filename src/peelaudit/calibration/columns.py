"""Texts and chats out of columns: .parquet files, and the .arrow files of Hugging Face's datasets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from peelaudit.calibration.arrow_stream import check_messages
from peelaudit.calibration.rows import Row, advice_on, columns_of, row_of
from peelaudit.calibration.sources import SourceFile
from peelaudit.calibration.texts import Texts
from peelaudit.errors import CalibrationError
from peelaudit.escape import printable

__all__ = ["read_arrow", "read_parquet"]

_BATCH = 256
_STRINGS = ("string", "large_string", "string_view")
_CHATS = ("list<", "large_list<", "struct<")


def read_parquet(source: SourceFile, field: str, budget: int) -> Texts:
    """The texts of the column `field`, or the chats, one document a row. Nulls and blanks are skipped.

    Rows are read until they hold `budget` bytes.

    Raises:
        CalibrationError: pyarrow isn't installed, the file is damaged, or there is no such column of texts or chats.
    """
    with _arrow(source), source.path.open("rb") as opened:
        from pyarrow.parquet import ParquetFile

        file = ParquetFile(opened)
        columns = _columns(source, file.schema_arrow, field)
        batches = file.iter_batches(batch_size=_BATCH, columns=[*columns])
        return _read(source, batches, columns, field, budget)


def read_arrow(source: SourceFile, field: str, budget: int) -> Texts:
    """The same of an .arrow file: Arrow's stream, which datasets write, or its file format, which has one in it.

    Raises:
        CalibrationError: as for `read_parquet`.
    """
    with _arrow(source), source.path.open("rb") as opened:
        from pyarrow.ipc import open_stream

        try:
            opened.seek(check_messages(opened, source.bytes))
        except ValueError as error:
            raise CalibrationError(f"{source}: the arrow file can't be read: {error}") from error
        reader = open_stream(opened)
        columns = _columns(source, reader.schema, field)
        return _read(source, _sound(reader, columns), columns, field, budget)


@contextmanager
def _arrow(source: SourceFile) -> Iterator[None]:
    """Where pyarrow is used: that it isn't there, and what it raises, as one sentence."""
    try:
        import pyarrow
    except ImportError as error:
        needs = f"reading .{source.kind} needs pyarrow: pip install 'peelaudit[parquet]'"
        raise CalibrationError(f"{source}: {needs}") from error
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        first = printable(str(error).strip().split("\n")[0])[:200]
        raise CalibrationError(f"{source}: the {source.kind} file can't be read: {first}") from error


def _columns(source: SourceFile, schema: Any, field: str) -> tuple[str, ...]:
    """The columns to read, by the schema's names and types."""
    columns = columns_of(schema.names, field)
    if not columns:
        names = ", ".join(printable(name)[:40] for name in schema.names[:8])
        raise CalibrationError(f"{source}: there is no column {field!r} ({names}); {advice_on(schema.names)}")
    if len(twice := schema.get_all_field_indices(columns[0])) > 1:
        raise CalibrationError(f"{source}: there are {len(twice)} columns {columns[0]!r}")
    kind = str(schema.field(columns[0]).type)
    if kind not in _STRINGS and not kind.startswith(_CHATS):
        raise CalibrationError(f"{source}: the column {columns[0]!r} is {printable(kind)[:80]}, not string")
    return columns


def _sound(batches: Iterator[Any], columns: tuple[str, ...]) -> Iterator[Any]:
    """The columns in small batches, their offsets checked: Arrow's readers believe what a file says of them."""
    for batch in batches:
        chosen = batch.select([*columns])
        chosen.validate(full=True)
        for start in range(0, chosen.num_rows, _BATCH):
            yield chosen.slice(start, _BATCH)


def _read(source: SourceFile, batches: Iterator[Any], columns: tuple[str, ...], field: str, budget: int) -> Texts:
    documents: list[Row] = []
    number, used = 0, 0
    for batch in batches:
        if used >= budget:
            return _texts(source, documents, columns, complete=False)
        used += batch.nbytes
        for record in batch.to_pylist():
            number, where = number + 1, f"{source}, row {number + 1}"
            if record[columns[0]] is None:
                continue
            try:
                row = row_of(record, field, where)
            except ValueError as error:
                raise CalibrationError(f"{where}: {error}") from error
            if row is not None:
                documents.append(row)
    return _texts(source, documents, columns, complete=True)


def _texts(source: SourceFile, documents: list[Row], columns: tuple[str, ...], *, complete: bool) -> Texts:
    if not documents:
        raise CalibrationError(f"{source}: the column {columns[0]!r} holds no text")
    return Texts(documents, divided=True, complete=complete)
