"""What the kinds share that read a text or a pair of texts and give one output row for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import datasets
import numpy as np

from prunella.data.task_batches import EncodedTask, ends
from prunella.data.tasks import Columns, find_columns, find_texts, texts_of
from prunella.tasks.base import Reading, check_reading

_TOKENIZE_AT_ONCE = 1000  # texts; bounds the memory of the tokenizer's intermediate objects


@dataclass(frozen=True, eq=False)
class TextRows:
    """Texts with a label each.

    Attributes:
        texts: n texts, none empty.
        pairs: The second text of each row, "" where it has none; or None for single texts.
        labels: [n] int64 class ids or float32 scores, or [n, classes] of 0 and 1.
        names: The name of each class id; empty for scores.
        columns: Where labelled rows were found.
    """

    texts: list[str]
    pairs: list[str] | None
    labels: np.ndarray
    names: list[str]
    counts: Mapping[str, int] = field(default_factory=dict)
    columns: Columns = field(default_factory=Columns)

    @property
    def gold(self) -> np.ndarray:
        return self.labels

    def __len__(self) -> int:
        return len(self.texts)


def read_labelled(
    table: datasets.Dataset, columns: Columns, source: str
) -> tuple[list[str], list[str] | None, str, Columns]:
    """Texts, second texts, the column of the labels, and all columns as they were found."""
    text, pair, label = find_columns(
        table.column_names, columns.text, columns.pair, columns.label, source
    )
    return *_texts(table, text, pair, source), label, Columns(text, pair, label)


def read_unlabelled(
    table: datasets.Dataset, columns: Columns, source: str
) -> tuple[list[str], list[str] | None]:
    """Texts and second texts."""
    text, pair = find_texts(table.column_names, columns.text, columns.pair, source)
    return _texts(table, text, pair, source)


def _texts(
    table: datasets.Dataset, text: str, pair: str | None, source: str
) -> tuple[list[str], list[str] | None]:
    texts = texts_of(table, text, source)
    return texts, texts_of(table, pair, source, blanks=True) if pair else None


def encode_texts(
    texts: list[str], pairs: list[str] | None, labels: np.ndarray, reading: Reading
) -> EncodedTask:
    """Tokenises texts with special tokens, cut to `max_length` tokens.

    Of a pair the longer text is cut first (`longest_first`).

    Raises:
        InputError: If `max_length` does not fit.
    """
    check_reading(reading, pairs is not None)
    ids: list[list[int]] = []
    types: list[list[int]] = []
    cut = 0
    backend = reading.tokenizer.backend_tokenizer
    truncation, padding = backend.truncation, backend.padding
    try:
        for start in range(0, len(texts), _TOKENIZE_AT_ONCE):
            part = slice(start, start + _TOKENIZE_AT_ONCE)
            out = reading.tokenizer(
                texts[part],
                None if pairs is None else pairs[part],
                truncation="longest_first",
                max_length=reading.max_length,
                return_attention_mask=False,
                return_token_type_ids=reading.token_types,
            )
            ids += out["input_ids"]
            types += out["token_type_ids"] if reading.token_types else []
            cut += sum(bool(encoding.overflowing) for encoding in out.encodings or [])
    finally:  # else the limit set here would be saved with the tokenizer
        backend.no_truncation() if truncation is None else backend.enable_truncation(**truncation)
        backend.no_padding() if padding is None else backend.enable_padding(**padding)
    offsets = ends([len(row) for row in ids])
    return EncodedTask(
        flat(ids, np.int32, offsets[-1]),
        offsets,
        flat(types, np.uint8, offsets[-1]) if reading.token_types else None,
        labels,
        reading.max_length,
        counts={"rows_cut": cut},
    )


def flat(rows: Sequence[Sequence[int]], dtype: type[np.generic], total: int) -> np.ndarray:
    """Rows end to end."""
    return np.fromiter(chain.from_iterable(rows), dtype=dtype, count=total)
