"""Tables of examples from files or from the Hub: what packs a file, which format it has.

Local files are parsed here and kept in memory, not through `datasets.load_dataset`: that keeps a
converted copy of every file in a cache folder, and it cannot say which line is broken.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa

from prunella.data.formats.cells import parse_csv
from prunella.data.formats.conll import parse_conll, parse_tsv_or_conll, parse_txt
from prunella.data.formats.hub import read_hub
from prunella.data.formats.objects import parse_json, parse_jsonl
from prunella.data.formats.parquet import parse_parquet
from prunella.errors import InputError

_DECOMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".xz": lzma.decompress,
}
_PARSERS: dict[str, Callable[[bytes, str], pa.Table]] = {
    ".csv": parse_csv,
    ".tsv": parse_tsv_or_conll,
    ".jsonl": parse_jsonl,
    ".json": parse_json,
    ".parquet": parse_parquet,
    ".conll": parse_conll,
    ".iob": parse_conll,
    ".bio": parse_conll,
    ".txt": parse_txt,
}


def read_table(source: str, split: str | None = None) -> datasets.Dataset:
    """Read one table of examples.

    Args:
        source: A file (csv and tsv with a header line; jsonl; json: a list of objects, an object
            of equally long lists, SQuAD's document, or objects one a line; parquet; CoNLL: .conll,
            .iob, .bio, and .tsv or .txt of that shape), plain or ending in .gz or .xz, UTF-8
            throughout; or `hub:NAME[/CONFIG]`, a data set of the Hugging Face Hub.
            In csv every cell is text; tsv has no quoting, as in GLUE's own files.
        split: The split of a Hub data set ("train", "validation[:100]"); None for a file.

    Returns:
        The rows, in order, in memory. A key that a JSON object lacks is None there; a column of
        mixed types is text. CoNLL gives lists of text, `tokens` and `tags`, one row a sentence;
        SQuAD `id`, `title`, `context`, `question`, `answers`, and `is_impossible` in version 2.

    Raises:
        InputError: The file is missing, empty, broken or of an unknown format.
    """
    if source.startswith("hub:"):
        return read_hub(source, split)
    if split is not None:
        raise InputError(f"{source}: a split ('{split}') is only for 'hub:' sources; leave it out")
    path = Path(source)
    parse = _parser(path)
    data = _read_bytes(path)
    if not data.removeprefix(codecs.BOM_UTF8).strip():
        raise InputError(f"{source} is empty: it must hold at least one example")
    table = parse(data, source)
    if not table.num_rows:
        raise InputError(f"{source} has no rows: it must hold at least one example")
    try:
        return datasets.Dataset(table, fingerprint=hashlib.sha256(data).hexdigest()[:16])
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # A parquet file may carry a description of its columns, written by `datasets`.
        raise InputError(f"{source}: broken description of its columns ({error})") from None


def content_hash(source: str) -> str:
    """A hash of what a file of rows holds; a data set of the Hub counts by its name.

    Raises:
        InputError: The file is missing or cannot be read.
    """
    data = source.encode() if source.startswith("hub:") else _read_bytes(Path(source))
    return hashlib.sha256(data).hexdigest()


def _parser(path: Path) -> Callable[[bytes, str], pa.Table]:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _DECOMPRESS:
        suffixes.pop()
    if not suffixes or suffixes[-1] not in _PARSERS:
        raise InputError(
            f"{path}: unknown format; use one of {', '.join(_PARSERS)}, each also with .gz or .xz"
        )
    return _PARSERS[suffixes[-1]]


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        siblings = [f.name for f in path.parent.iterdir()] if path.parent.is_dir() else []
        close = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise InputError(f"no such file: {path}{hint}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    suffix = path.suffix.lower()
    if suffix not in _DECOMPRESS or not data:
        return data
    try:
        return _DECOMPRESS[suffix](data)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise InputError(f"{path} is not a whole {suffix} file: {error}") from None
