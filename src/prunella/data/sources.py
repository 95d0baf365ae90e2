"""Raw text in: documents out of files, globs and Hub data sets, read in constant memory.

Plain text holds one paragraph a line and a blank line between documents; a file without blank
lines holds one document a line. JSON lines hold one document a row, in the column "text".
"""

import bz2
import glob
import gzip
import hashlib
import io
import json
import lzma
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from prunella.data.digests import contents_digest
from prunella.errors import InputError

PIECE_BYTES = 1 << 16
"""Longer paragraphs are handed out in pieces of about this size, cut at a space."""

_OPENERS: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open, ".bz2": bz2.open}
_ROW_SUFFIXES = {".jsonl", ".ndjson", ".json"}
_TABLES = {".csv", ".tsv", ".parquet", ".conll"}
"""Read as plain text, they would teach a model their separators and labels."""
_DAMAGE = (EOFError, lzma.LZMAError, zlib.error, OSError)


class Piece(NamedTuple):
    """A paragraph, or a part of a very long one."""

    text: str
    starts_document: bool
    position: int
    """How much of the source is read: bytes on disk of a file, rows of a Hub data set."""


@dataclass(frozen=True)
class TextFile:
    """A text or JSON-lines file, perhaps compressed (.gz, .xz, .bz2)."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def digest(self) -> str:
        """Return what identifies the text: the hash of the bytes and how they are read."""
        try:
            contents = contents_digest(self.path)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read: {error.strerror}.") from error
        return f"{self._compression()}:{'rows' if self._has_rows() else 'plain'}:{contents}"

    def pieces(self) -> Iterator[Piece]:
        """Yield the text in order.

        Raises:
            InputError: No text, broken UTF-8 or JSON (with the line), a damaged archive.
        """
        empty = True
        try:
            separated = not self._has_rows() and self._has_separated_documents()
            with self.path.open("rb", buffering=0) as raw, self._open(raw) as stream:
                texts = (
                    _row_texts(stream, self.name)
                    if self._has_rows()
                    else _plain_texts(stream, self.name, separated)
                )
                for text, starts in texts:
                    empty = False
                    yield Piece(text, starts, raw.tell())
        except _DAMAGE as error:
            raise InputError(f"{self.path}: cannot be read ({error}). Is it whole?") from error
        if empty:
            raise InputError(f"{self.path}: holds no text. Give a file that does, or leave it out.")

    def _compression(self) -> str:
        suffix = self.path.suffix.lower()
        return suffix if suffix in _OPENERS else ""

    def _has_rows(self) -> bool:
        path = self.path.with_suffix("") if self._compression() else self.path
        return path.suffix.lower() in _ROW_SUFFIXES

    def _open(self, raw: io.FileIO) -> IO[bytes]:
        opener = _OPENERS.get(self._compression())
        return cast(IO[bytes], opener(raw) if opener else io.BufferedReader(raw))

    def _has_separated_documents(self) -> bool:
        """Whether a blank line stands between two lines of text; stops reading at the first."""
        text_seen = blank_seen = False
        with self.path.open("rb", buffering=0) as raw, self._open(raw) as stream:
            for line in _line_pieces(stream):
                blank = not line.raw.strip()
                if blank_seen and not blank:
                    return True
                text_seen = text_seen or not blank
                blank_seen = text_seen and blank and line.first
        return False


@dataclass(frozen=True)
class HubText:
    """One text column of the training split of a Hub data set."""

    name: str
    rows: Any
    column: str

    @property
    def size(self) -> int:
        return len(self.rows)

    def digest(self) -> str:
        return f"hub:{self.rows._fingerprint}:{self.column}"

    def pieces(self) -> Iterator[Piece]:
        empty = True
        for number, row in enumerate(self.rows, start=1):
            for text, starts in _document_texts(row[self.column], f"{self.name}, row {number}"):
                empty = False
                yield Piece(text, starts, number)
        if empty:
            raise InputError(f"{self.name}: the column {self.column!r} holds no text.")


Source = TextFile | HubText


def resolve(sources: Sequence[str]) -> list[Source]:
    """Find what the sources name: a file, a glob (`**` too), or hub:NAME[/CONFIG][:COLUMN].

    The matches of a glob are sorted; a file that several sources name is read once, where it is
    named first. In hub:A/B the two parts are owner and name; a third one is the configuration.

    Raises:
        InputError: A missing file, a glob without match, a folder, a table, an unknown data set or
            column.
    """
    if not sources:
        raise InputError("No text source was given. Give a file, a glob or hub:NAME.")
    found: dict[str, Source] = {}
    for source in sources:
        if source.startswith("hub:"):
            found.setdefault(source, _hub_text(source))
            continue
        for path in _matches(source):
            _refuse_table(path)
            found.setdefault(str(path.resolve()), TextFile(path))
    return list(found.values())


def content_hash(sources: Sequence[str]) -> str:
    """Return a hash of what the sources hold, whatever their files are called.

    Data sets of the Hub count by their name: to look inside, they would have to be loaded.

    Raises:
        InputError: As `resolve` and `TextFile.digest`.
    """
    hub = [source for source in sources if source.startswith("hub:")]
    files = [source for source in sources if not source.startswith("hub:")]
    digests = [found.digest() for found in resolve(files)] if files else []
    return hashlib.sha256("\n".join([*digests, *hub]).encode()).hexdigest()


def _matches(source: str) -> list[Path]:
    path = Path(source).expanduser()
    if path.is_dir():
        raise InputError(f"{source}: is a folder. Name its files, e.g. '{path / '**' / '*.txt'}'.")
    if path.exists():
        return [path]
    if not glob.has_magic(source):
        raise InputError(f"{source}: there is no such file.")
    paths = sorted(map(Path, glob.glob(str(path), recursive=True)))
    files = [path for path in paths if path.is_file()]
    if not files:
        raise InputError(f"{source}: no file matches this pattern.")
    return files


def _refuse_table(path: Path) -> None:
    kept = path.with_suffix("") if path.suffix.lower() in _OPENERS else path
    if kept.suffix.lower() in _TABLES:
        raise InputError(
            f"{path}: is a table, not text. Write its texts to a .txt file, a paragraph a line, "
            'or to a .jsonl file, {"text": ...} a line.'
        )


def _hub_text(source: str) -> HubText:
    from prunella.data.formats.hub import load_hub

    address, _, column = source.removeprefix("hub:").partition(":")
    parts = address.split("/")
    if not all(parts) or len(parts) > 3:
        raise InputError(f"{source}: write hub:NAME[/CONFIG][:COLUMN].")
    configuration = parts.pop() if len(parts) == 3 else None
    name, column = "/".join(parts), column or "text"
    try:
        rows: Any = load_hub(name, configuration, "train")
    # Not found, offline, no such configuration or split; a script that nobody converted.
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{source}: cannot be loaded: {error}") from error
    if column not in rows.column_names:
        raise InputError(
            f"{source}: has no column {column!r}; it has {', '.join(rows.column_names)}. "
            "Name one after a colon."
        )
    return HubText(source, rows.select_columns([column]), column)


class _LinePiece(NamedTuple):
    number: int
    first: bool
    raw: bytes


def _line_pieces(stream: IO[bytes]) -> Iterator[_LinePiece]:
    """Yield lines, those over PIECE_BYTES in several pieces: memory stays bounded.

    A cut falls before a space, so that neither WordPiece nor byte-level BPE see it; in text
    without spaces it falls between two characters.
    """
    number, first, rest = 1, True, b""
    while block := stream.readline(PIECE_BYTES):
        whole = block.endswith(b"\n") or len(block) < PIECE_BYTES
        block, rest = rest + block, b""
        if not whole:
            cut = block.rfind(b" ", 1)
            cut = cut if cut > 0 else _last_character(block)
            block, rest = block[:cut], block[cut:]
        yield _LinePiece(number, first, block)
        number, first = (number + 1, True) if whole else (number, False)
    if rest:
        yield _LinePiece(number, first, rest)


def _last_character(block: bytes) -> int:
    """Where the last UTF-8 character of the block begins."""
    start = len(block) - 1
    while start > len(block) - 4 and block[start] & 0xC0 == 0x80:
        start -= 1
    return start


def _decode(raw: bytes, name: str, number: int) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}, line {number}: is not UTF-8 ({error.reason}, byte "
            f"0x{raw[error.start]:02x}). Convert the file, e.g. with iconv -t UTF-8."
        ) from error


def _plain_texts(stream: IO[bytes], name: str, separated: bool) -> Iterator[tuple[str, bool]]:
    starts = True
    for line in _line_pieces(stream):
        text = _decode(line.raw, name, line.number).rstrip()
        starts = starts or (line.first and (not separated or not text))
        if text:
            yield (text.lstrip() if line.first else text), starts
            starts = False


def _row_texts(stream: IO[bytes], name: str) -> Iterator[tuple[str, bool]]:
    for number, raw in enumerate(stream, start=1):
        if not raw.strip():
            continue
        where = f"{name}, line {number}"
        try:
            row = json.loads(_decode(raw, name, number))
        except (json.JSONDecodeError, RecursionError) as error:
            raise InputError(f"{where}: is not JSON ({error}). One object a line.") from error
        if not isinstance(row, dict) or "text" not in row:
            raise InputError(f'{where}: is no object with a "text" column.')
        yield from _document_texts(row["text"], where)


def _document_texts(text: object, where: str) -> Iterator[tuple[str, bool]]:
    """Cut one document into paragraphs, exactly as a plain file would give them."""
    if not isinstance(text, str):
        raise InputError(f"{where}: the text is {type(text).__name__}, not a string.")
    try:
        stream = io.BytesIO(text.encode())
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: the text holds half a surrogate pair.") from error
    starts = True
    for paragraph, _ in _plain_texts(stream, where, separated=False):
        yield paragraph, starts
        starts = False
