"""Text to ids by remembering words: most of a text is words that came before.

Where a space always separates, as in the tokenizers of BERT and its like, the ids of a text are
those of its words, end to end. A table of words that were met then answers for nine words of ten,
and the Rust encoder, which takes a third of a second for a megabyte, only sees new ones.
"""

import json

import numpy as np
from tokenizers import Tokenizer

WORDS_KEPT = 1 << 18
"""Above this many words the table begins anew; it takes about 40 MB."""

# They stand alone for the pre-tokenizer; set apart first, "word" and "word," are one word.
_MARKS = ",.()\"'-"


def spaces_separate(encoder: Tokenizer) -> bool:
    """Whether the ids of a text are those of its parts between spaces, whatever the text.

    BertNormalizer changes characters one by one, BertPreTokenizer splits at white space, and
    WordPiece reads what lies between. Added tokens may hold spaces, but the special ones are
    ordinary text here.
    """
    parts = json.loads(encoder.to_str())
    kinds = {key: (parts.get(key) or {}).get("type") for key in ("normalizer", "pre_tokenizer")}
    return (
        kinds["normalizer"] in (None, "BertNormalizer")
        and kinds["pre_tokenizer"] == "BertPreTokenizer"
        and parts["model"].get("type") == "WordPiece"
        and all(token["special"] for token in parts.get("added_tokens") or ())
    )


class WordEncoder:
    """Encodes texts by a table of words; for one thread at a time.

    Args:
        encoder: One for which `spaces_separate`.
        dtype: Of the ids.
    """

    def __init__(self, encoder: Tokenizer, dtype: np.dtype) -> None:
        self.encoder = encoder
        self._dtype = dtype
        self._forget()

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return the ids of the texts end to end, and how many each text has (int64)."""
        words: list[str] = []
        counts = np.zeros(len(texts), np.int64)
        for number, text in enumerate(texts):
            for mark in _MARKS:
                text = text.replace(mark, f" {mark} ")
            found = text.split(" ")
            words += found
            counts[number] = len(found)
        self._learn(set(words))
        rows = np.fromiter(map(self._rows.__getitem__, words), np.int64, len(words))
        starts, lengths = self._starts[rows], self._lengths[rows]
        ends = np.cumsum(lengths)
        total = int(ends[-1]) if len(ends) else 0
        ids = self._ids[np.arange(total) + np.repeat(starts - (ends - lengths), lengths)]
        borders = np.concatenate([np.zeros(1, np.int64), ends])[np.cumsum(counts)]
        return ids, np.diff(borders, prepend=0)

    def _forget(self) -> None:
        self._rows: dict[str, int] = {}
        self._starts = self._lengths = np.zeros(0, np.int64)
        self._ids = np.zeros(0, self._dtype)

    def _learn(self, words: set[str]) -> None:
        """Put the words into the table that are not in it."""
        new = list(words.difference(self._rows))
        if len(self._rows) + len(new) > WORDS_KEPT and self._rows:
            self._forget()
            new = list(words)
        if not new:
            return
        encoding = self.encoder.encode(new, is_pretokenized=True, add_special_tokens=False)
        lengths = np.bincount(np.array(encoding.word_ids, np.int64), minlength=len(new))
        starts = len(self._ids) + np.cumsum(lengths) - lengths
        self._rows.update(zip(new, range(len(self._rows), len(self._rows) + len(new)), strict=True))
        self._starts = np.concatenate([self._starts, starts])
        self._lengths = np.concatenate([self._lengths, lengths])
        self._ids = np.concatenate([self._ids, np.array(encoding.ids, self._dtype)])
