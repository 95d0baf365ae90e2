"""Parquet."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from prunella.errors import InputError


def parse_parquet(data: bytes, source: str) -> pa.Table:
    """A parquet file; categories become plain values."""
    try:
        table = pq.read_table(pa.BufferReader(data))
        table.validate(full=True)  # is the text UTF-8?
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source} is not a whole parquet file: {error}") from None
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{source}: a column name occurs twice: {table.column_names}")
    for i, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):  # pandas categories; `datasets` refuses them
            plain = table.column(i).cast(field.type.value_type)
            table = table.set_column(i, field.name, plain)
    return table
