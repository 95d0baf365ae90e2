"""Near-duplicate paragraphs, found while text streams by, in bounded memory.

Paragraphs are compared by their shingles: three words that follow each other, whatever their case
and punctuation. The share J of shingles that two paragraphs have in common (of those of either,
Jaccard) is estimated by MinHash (Broder, "On the resemblance and containment of documents", 1997),
and 14 bands of 8 minima make it a question of equal keys, as in FineWeb (arXiv 2406.17557). A later
paragraph is found with probability 1 - (1 - J^8)^14: always when it is the same, 99.9 % at J = 0.9,
92 % at 0.8, 56 % at 0.7, 5 % at 0.5, 0.1 % at 0.3. Shingles are shorter than the five words usual
for documents because a paragraph is: with one of 30 words changed, J is 0.8.
"""

import re
import unicodedata
from collections.abc import Sequence

import numpy as np

SHINGLE = 3
BANDS, ROWS = 14, 8

LEAST_WORDS = 8
"""Shorter paragraphs are never duplicates: headings and items of lists recur for good reasons."""

_LEAST_BITS, _MOST_BITS, _KEY_BITS = 16, 22, 48

METHOD = (1, SHINGLE, BANDS, ROWS, LEAST_WORDS, _MOST_BITS)
"""What decides which paragraphs are found; raise the first number when anything else does."""

# What is no letter or digit becomes a space: ASCII by this table, other characters by the pattern.
_WORD_BYTES = bytes(c if c >= 128 or chr(c).isalnum() else 32 for c in range(256))
_NO_WORD = re.compile(r"[^\w\x00-\x7f]+")
# Scripts without spaces: each character is a word, as in BERT's tokenizer.
_ALONE = re.compile("[\u0e00-\u0eff\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]")

_ODD = np.random.Generator(np.random.Philox(key=1)).integers(
    0, 1 << 31, BANDS * ROWS, np.uint32
) * np.uint32(2) + np.uint32(1)
_PRIME, _OTHER = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
_BAND_SEEDS = np.arange(1, BANDS + 1, dtype=np.uint64)


class SeenParagraphs:
    """The paragraphs that were kept so far, as keys.

    Each band has a table with one place for each value of a key's first bits, which holds the next
    bits of the last key that went there. Tables grow up to 4 million places, 235 MB in all. From
    some millions of paragraphs on new keys thus displace old ones, and what is found gets less by
    and by: of 8 million paragraphs the first is still found again with 80 %, a middling one
    with 99.9 %.
    """

    def __init__(self) -> None:
        self._bits = _LEAST_BITS
        self._count = 0
        self._tags = np.zeros((BANDS, 1 << _LEAST_BITS), np.uint32)  # 0: nothing there yet

    def unseen(self, texts: Sequence[str]) -> np.ndarray:
        """Tell which paragraphs are new, and remember those.

        Args:
            texts: The next paragraphs of the text, in order.

        Returns:
            (n,) bool: False where an earlier kept paragraph is nearly the same.
        """
        new = np.ones(len(texts), dtype=bool)
        rows, keys = band_keys(texts)
        known = self._known(keys).tolist()
        here: set[int] = set()
        kept: list[int] = []
        for place, (row, own) in enumerate(zip(rows.tolist(), keys.tolist(), strict=True)):
            if known[place] or not here.isdisjoint(own):
                new[row] = False
            else:
                here.update(own)
                kept.append(place)
        self._remember(keys[kept])
        return new

    def _known(self, keys: np.ndarray) -> np.ndarray:
        """(n,) bool: whether any band of these (n, BANDS) keys is in its table."""
        places, tags = self._addresses(keys)
        return (self._tags[np.arange(BANDS), places] == tags).any(axis=1)

    def _remember(self, keys: np.ndarray) -> None:
        self._count += len(keys)
        while 2 * self._count > 1 << self._bits and self._bits < _MOST_BITS:
            self._grow()
        places, tags = self._addresses(keys)
        self._tags[np.arange(BANDS), places] = tags

    def _addresses(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        keys = keys >> np.uint64(64 - _KEY_BITS)
        rest = np.uint64(_KEY_BITS - self._bits)
        tags = (keys & ((np.uint64(1) << rest) - np.uint64(1))).astype(np.uint32)
        return (keys >> rest).astype(np.int64), tags

    def _grow(self) -> None:
        """Twice the places: the first bit of each tag becomes the last one of its place."""
        first = np.uint32(1 << (_KEY_BITS - self._bits - 1))
        grown = np.zeros((BANDS, 2 << self._bits), np.uint32)
        for old, new in zip(self._tags, grown, strict=True):
            rest, upper = old & (first - np.uint32(1)), (old & first) != 0
            new[0::2], new[1::2] = np.where(upper, 0, rest), np.where(upper, rest, 0)
        self._tags, self._bits = grown, self._bits + 1


def band_keys(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Sketch paragraphs; those that share a key in the same band are near duplicates.

    Args:
        texts: n paragraphs.

    Returns:
        The m places in `texts` of those that are long enough, (m,) int64, and their keys,
        (m, BANDS) uint64.
    """
    words, counts = _word_hashes(texts)
    rows = np.flatnonzero(counts >= LEAST_WORDS)
    if not len(rows):
        return rows, np.empty((0, BANDS), np.uint64)
    ends = np.cumsum(counts)
    # From here to there go the shingles of a paragraph; between paragraphs lie some of no use.
    borders = np.stack([ends[rows] - counts[rows], ends[rows] - SHINGLE + 1], axis=1).ravel()
    shingles = _mixed(words[:-2] + words[1:-1] * _PRIME + words[2:] * _OTHER)
    shingles = np.append(shingles >> np.uint64(32), [0, 0]).astype(np.uint32)
    minima = [np.minimum.reduceat(shingles * odd, borders)[::2] for odd in _ODD]
    keys = np.repeat(_BAND_SEEDS[None], len(rows), axis=0)
    for row in range(ROWS):
        keys = _mixed(keys * _PRIME + np.stack(minima[row::ROWS], axis=1))
    return rows, keys


def _word_hashes(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash every word by its length and its first and last eight bytes.

    Returns:
        The hashes of all words in a row, uint64, and how many each text has, (n,) int64.
    """
    lines = b"\n" + b"".join(_bare(text) + b"\n" for text in texts)
    letters = np.frombuffer(lines, np.uint8)
    inside = letters > 32
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    begins, ends = edges[::2], edges[1::2]
    counts = np.diff(np.searchsorted(begins, np.flatnonzero(letters == 10)))
    eight = np.ndarray(len(lines), "<u8", lines + bytes(8), strides=(1,))  # the bytes from each on
    lengths = ends - begins
    unused = np.maximum(8 - lengths, 0).astype(np.uint64) * np.uint64(8)
    head = eight[begins] & (np.uint64(2**64 - 1) >> unused)
    tail = np.where(lengths > 8, eight[np.maximum(ends - 8, 0)], 0)
    return _mixed(head * _PRIME + tail * _OTHER + lengths.astype(np.uint64)), counts


def _bare(text: str) -> bytes:
    """The words of a text, in lower case, spaces around them."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
        text = _ALONE.sub(r" \g<0> ", _NO_WORD.sub(" ", text))
    return text.lower().encode().translate(_WORD_BYTES)


def _mixed(values: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
