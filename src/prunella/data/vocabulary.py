"""A WordPiece vocabulary from raw text, the same to the byte each time."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import BertTokenizer

from prunella.data.sources import resolve
from prunella.errors import InputError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""In BERT's order: their ids are 0 to 4."""

MAX_LENGTH = 512
"""Tokens a sequence may have, as in BERT."""

MAX_ALPHABET = 1000
"""Rarer characters become [UNK]: each costs two entries, as first and as later character."""


def train_wordpiece(
    sources: Sequence[str], size: int, *, lowercase: bool = True, min_frequency: int = 2
) -> BertTokenizer:
    """Train a BERT tokenizer.

    The library's trainer numbers later characters ("##e") in the order of a hash table, which
    differs in every process, and breaks ties between merges by these numbers. Handing them over
    as fixed tokens, sorted, makes the result depend on the text alone.

    Args:
        sources: As for `prunella.data.corpus.tokenize_corpus`.
        size: Entries wanted; a short text may give fewer.
        lowercase: Lower-case the text and strip accents, as BERT-uncased does.
        min_frequency: Pairs that occur less often are not merged.

    Returns:
        The tokenizer: special tokens, characters, later characters, then merged pieces, the
        most frequent first.

    Raises:
        InputError: No usable text, or a size that holds no alphabet.
    """
    if size < len(SPECIAL_TOKENS) + 4:
        raise InputError(f"size is {size}; a vocabulary needs at least {len(SPECIAL_TOKENS) + 4}.")
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)

    def texts() -> Iterator[str]:
        for source in resolve(sources):
            for piece in source.pieces():
                yield normalizer.normalize_str(piece.text)

    counts: Counter[str] = Counter()
    for text in texts():
        counts.update(text)
    counts = Counter({c: n for c, n in counts.items() if not c.isspace()})
    limit = min(MAX_ALPHABET, (size - len(SPECIAL_TOKENS)) // 4)
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    alphabet, rare = sorted(ranked[:limit]), str.maketrans(dict.fromkeys(ranked[limit:], " "))
    if not alphabet:
        raise InputError(f"{sources[0]}: holds no character to make a vocabulary of.")

    fixed = [*SPECIAL_TOKENS, *alphabet, *(f"##{character}" for character in alphabet)]
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=min_frequency,
        special_tokens=fixed,
        continuing_subword_prefix="##",
        show_progress=False,
    )
    tokenizer.train_from_iterator((text.translate(rare) for text in texts()), trainer)
    return BertTokenizer(
        vocab=tokenizer.get_vocab(), do_lower_case=lowercase, model_max_length=MAX_LENGTH
    )
