"""Masked-language-modelling micro-batches, each a pure function of (settings, seed, position).

The corpus is a stream of tokens with a separator after each document, closed to a ring. An epoch
begins anywhere in it and goes round once: the rows of all its micro-batches, whatever their
lengths, tile the ring in random order. So each row is one contiguous span, no token is used twice
in an epoch, only the tail (less than one micro-batch) is left out, and nothing is ever padded.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from prunella.data.corpus import Corpus
from prunella.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

IGNORED = -100
"""The label of a token whose prediction does not count."""

_SHAPES, _ORDER, _BATCH = range(3)  # what a random stream is for
_SHORT = 16  # tokens of a short sentence


@dataclass(frozen=True)
class TokenizerInfo:
    """What batches need to know of a tokenizer: ids, nothing heavy.

    Attributes:
        cls: Begins a sequence ([CLS], <s>).
        sep: Ends it, and stands between documents ([SEP], </s>).
        mask: Replaces a token to be predicted.
        pad: Padding; None if the tokenizer has none.
        vocab_size: Number of ids.
        special: All special ids, ascending: never masked, never a random replacement.
        pair_separator: What stands between two sequences: [SEP], or </s></s> of RoBERTa.
    """

    cls: int
    sep: int
    mask: int
    pad: int | None
    vocab_size: int
    special: tuple[int, ...]
    pair_separator: tuple[int, ...]


def special_ids(tokenizer: "PreTrainedTokenizerFast") -> TokenizerInfo:
    """Take from a tokenizer what batches need.

    Raises:
        InputError: It has no mask token, or none that begins or ends a sequence.
    """

    def required(name: str, *ids: object) -> int:
        for token_id in ids:
            if isinstance(token_id, int):
                return token_id
        raise InputError(
            f"{tokenizer.name_or_path or 'The tokenizer'}: has no {name} token; masked language "
            "modelling needs the tokenizer of an encoder such as BERT or RoBERTa."
        )

    sep = required("separator", tokenizer.sep_token_id, tokenizer.eos_token_id)
    single, pair = (tokenizer.num_special_tokens_to_add(pair=pair) for pair in (False, True))
    pad = tokenizer.pad_token_id
    return TokenizerInfo(
        cls=required("classification", tokenizer.cls_token_id, tokenizer.bos_token_id),
        sep=sep,
        mask=required("mask", tokenizer.mask_token_id),
        pad=pad if isinstance(pad, int) else None,
        vocab_size=len(tokenizer),
        special=tuple(sorted(set(tokenizer.all_special_ids))),
        pair_separator=(sep,) * max(1, pair - single),
    )


@dataclass(frozen=True)
class _Shape:
    rows: int
    length: int
    pair: bool
    width: int
    """Tokens of text in a row."""


@dataclass(frozen=True, eq=False)
class _Epoch:
    number: int
    first_row: np.ndarray
    """(n_batches + 1,) int64: batch b of the epoch has rows first_row[b] to first_row[b + 1]."""
    starts: np.ndarray
    """(n_rows,) int64: where in the stream each row begins."""


class MlmBatches:
    """A batch source of `count` micro-batches of about `batch_tokens` tokens each.

    With probability 1 - short_share a micro-batch has batch_tokens // length rows of `length`
    tokens; otherwise rows of length/2, length/4 or length/8 (at least 8; of long blocks half of
    that, and so on down to 16, the length of a sentence), as many more of them: pruned students
    reproduce short sequences worst, so they must see them. A share `pair_share` of the short ones
    is made of pairs, cut at random: cls a sep b sep.

    Masking is dynamic (BERT, arXiv 1810.04805, section 3.1; RoBERTa, arXiv 1907.11692, section
    4.1): each ordinary token is chosen with `mask_probability`, at least one in a batch; of the
    chosen 80 % become the mask, 10 % a random ordinary token, 10 % stay. A probability of 0
    masks nothing, for distillation of hidden states on whole text.

    Args:
        corpus: The text.
        tokenizer_info: From `special_ids`, of the tokenizer that made the corpus.
        batch_tokens: Tokens in a micro-batch, special tokens included.
        length: Longest row, in tokens, special tokens included.
        short_share: Share of micro-batches with shorter rows, 0 to 1.
        pair_share: Share of those that hold pairs, 0 to 1.
        mask_probability: Share of tokens to predict, 0 to 1.
        seed: Decides everything random; with it, a position decides its micro-batch.
        count: Number of micro-batches, all epochs together.
        token_types: Whether the model takes token_type_ids.

    Raises:
        InputError: A share outside [0, 1], too small lengths, a corpus shorter than one batch.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer_info: TokenizerInfo,
        *,
        batch_tokens: int,
        length: int,
        short_share: float,
        pair_share: float,
        mask_probability: float,
        seed: int,
        count: int,
        token_types: bool,
    ) -> None:
        for name, share in (
            ("short_share", short_share),
            ("pair_share", pair_share),
            ("mask_probability", mask_probability),
        ):
            if not 0 <= share <= 1:
                raise InputError(f"{name} is {share}; it must be between 0 and 1.")
        if length < 3:
            raise InputError(f"length is {length}; with two special tokens it must be at least 3.")
        if count < 0:
            raise InputError(f"count is {count}; it cannot be negative.")
        if batch_tokens < length:
            raise InputError(
                f"batch_tokens is {batch_tokens}, less than one row of length {length}."
            )
        self._corpus, self._info, self._seed, self._count = corpus, tokenizer_info, seed, count
        self._mask_probability, self._token_types = mask_probability, token_types
        self._documents, lengths = corpus.spans()
        self._lengths = lengths
        self._begins = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths + 1)])
        self._special = np.zeros(tokenizer_info.vocab_size, dtype=bool)
        self._special[list(tokenizer_info.special)] = True
        self._ordinary = np.flatnonzero(~self._special)
        separators = len(tokenizer_info.pair_separator)
        self._shapes = _shapes(batch_tokens, length, separators)[: None if short_share else 1]
        self._plan(short_share, pair_share)
        self._epoch: _Epoch | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """Return micro-batch `position`.

        Returns:
            input_ids, attention_mask (all ones), labels and, where asked for, token_type_ids:
            int64, (rows, length).

        Raises:
            IndexError: The position is not in [0, count).
            InputError: The batch holds nothing but special tokens.
        """
        if not 0 <= position < self._count:
            raise IndexError(f"micro-batch {position} of {self._count}")
        random = _generator(self._seed, _BATCH, position)
        shape = self._shapes[self._kinds[position]]
        content = self._read(self._row_starts(position)[:, None] + np.arange(shape.width))
        types = np.zeros((shape.rows, shape.length), dtype=np.int64)
        input_ids = np.empty_like(types)
        input_ids[:, 0], input_ids[:, -1] = self._info.cls, self._info.sep
        if shape.pair:
            cuts = random.integers(1, shape.width, size=(shape.rows, 1))
            input_ids[:, 1:-1], types[:, 1:-1] = _pairs(content, cuts, self._info.pair_separator)
            types[:, -1] = 1
        else:
            input_ids[:, 1:-1] = content
        labels = self._mask(input_ids, random, position)
        batch = {"input_ids": input_ids, "attention_mask": np.ones_like(types), "labels": labels}
        if self._token_types:
            batch["token_type_ids"] = types
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _plan(self, short_share: float, pair_share: float) -> None:
        """Draw the shape of every micro-batch and find where epochs begin.

        The last epoch is planned to its end, even if training stops early in it: so its rows
        come from the whole corpus.
        """
        stream = int(self._begins[-1])
        sizes = np.array([shape.rows * shape.width for shape in self._shapes])
        if stream < sizes.max():
            raise InputError(
                f"{self._corpus.path}: one micro-batch takes {sizes.max()} tokens of text; the "
                f"corpus has {stream}. Lower batch_tokens and length, or give more text."
            )
        planned = self._count + stream // int(sizes.min()) + 1
        draws = _generator(self._seed, _SHAPES, 0).random((planned, 3))
        n_short = (len(self._shapes) - 1) // 2
        short = (draws[:, 0] < short_share) & (n_short > 0)
        which = (draws[:, 1] * n_short).astype(np.int64)
        pair = draws[:, 2] < pair_share
        self._kinds = np.where(short, 1 + 2 * which + pair, 0).astype(np.int8)
        used = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes[self._kinds])])
        borders = [0]
        while borders[-1] < max(self._count, 1):
            end = np.searchsorted(used, used[borders[-1]] + stream, side="right")
            borders.append(int(end) - 1)
        self._epochs = np.array(borders)

    def _row_starts(self, position: int) -> np.ndarray:
        """Return where the rows of a micro-batch begin in the stream: (rows,) int64."""
        number = int(np.searchsorted(self._epochs, position, side="right")) - 1
        epoch = self._epoch
        if epoch is None or epoch.number != number:
            epoch = self._epoch = self._lay_out(number)
        batch = position - int(self._epochs[number])
        return epoch.starts[epoch.first_row[batch] : epoch.first_row[batch + 1]]

    def _lay_out(self, number: int) -> _Epoch:
        """Tile the stream with the rows of one epoch, in random order."""
        kinds = self._kinds[self._epochs[number] : self._epochs[number + 1]]
        rows = np.array([shape.rows for shape in self._shapes])[kinds]
        widths = np.repeat(np.array([shape.width for shape in self._shapes])[kinds], rows)
        random = _generator(self._seed, _ORDER, number)
        order = random.permutation(len(widths))
        ends = np.cumsum(widths[order])
        starts = np.empty_like(ends)
        starts[order] = ends - widths[order] + random.integers(self._begins[-1])
        return _Epoch(number, np.concatenate([np.zeros(1, np.int64), np.cumsum(rows)]), starts)

    def _read(self, places: np.ndarray) -> np.ndarray:
        """Return the tokens at places of the stream: documents, a separator after each."""
        places = places % self._begins[-1]
        document = np.searchsorted(self._begins, places, side="right") - 1
        inside = places - self._begins[document]
        border = inside == self._lengths[document]
        tokens = np.asarray(self._corpus.tokens)[self._documents[document] + inside - border]
        return np.where(border, self._info.sep, tokens.astype(np.int64))

    def _mask(self, ids: np.ndarray, random: np.random.Generator, position: int) -> np.ndarray:
        """Mask `ids` in place and return the labels, of the same shape."""
        labels = np.full_like(ids, IGNORED)
        if self._mask_probability == 0:
            return labels
        candidates = np.flatnonzero(~self._special[ids])
        if not len(candidates):
            raise InputError(
                f"{self._corpus.path}: micro-batch {position} holds only special tokens such as "
                "[UNK]: the tokenizer does not know the language of this text."
            )
        chosen = candidates[random.random(len(candidates)) < self._mask_probability]
        if not len(chosen):
            chosen = random.choice(candidates, size=1)
        labels.flat[chosen] = ids.flat[chosen]
        fate = random.random(len(chosen))
        replaced = chosen[(fate >= 0.8) & (fate < 0.9)]
        ids.flat[chosen[fate < 0.8]] = self._info.mask
        ids.flat[replaced] = random.choice(self._ordinary, size=len(replaced))
        return labels


def evaluation_batches(
    corpus: Corpus,
    info: TokenizerInfo,
    *,
    batch_tokens: int,
    length: int,
    mask_probability: float,
    seed: int,
    count: int,
    token_types: bool = False,
) -> MlmBatches:
    """Return batches for the held-out loss: full length, spread over the text, masks fixed.

    Text that is short gives fewer batches than `count`, and smaller ones if it fills none.

    Raises:
        InputError: As `MlmBatches`.
    """
    _, lengths = corpus.spans()
    stream = int(lengths.sum()) + len(lengths)
    length = min(length, stream + 2)
    rows = max(1, min(batch_tokens // length, stream // (length - 2)))
    return MlmBatches(
        corpus,
        info,
        batch_tokens=rows * length,
        length=length,
        short_share=0.0,
        pair_share=0.0,
        mask_probability=mask_probability,
        seed=seed,
        count=min(count, stream // (rows * (length - 2))),
        token_types=token_types,
    )


def _generator(seed: int, purpose: int, number: int) -> np.random.Generator:
    """A counter-based generator: independent of all others, and of when it is asked for."""
    key = np.array([seed % 2**64, number], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, purpose]))


def _shapes(batch_tokens: int, length: int, separators: int) -> list[_Shape]:
    """The full shape, then for each shorter length one of single texts and one of pairs."""
    halvings = max(3, (length // _SHORT).bit_length() - 1)
    shorter = {max(8, length >> times) for times in range(1, halvings + 1)}
    shapes = [_Shape(batch_tokens // length, length, False, length - 2)]
    for short in sorted((short for short in shorter if short < length), reverse=True):
        rows = batch_tokens // short
        shapes.append(_Shape(rows, short, False, short - 2))
        shapes.append(_Shape(rows, short, True, short - 2 - separators))
    return shapes


def _pairs(
    content: np.ndarray, cuts: np.ndarray, separator: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Cut each row of text in two and put the separator between.

    Args:
        content: (rows, width) tokens.
        cuts: (rows, 1), in [1, width): length of the first part.
        separator: Its ids.

    Returns:
        Tokens and token types, (rows, width + len(separator)).
    """
    column = np.arange(content.shape[1] + len(separator))
    beyond = column - cuts  # 0 at the first separator
    second = beyond >= len(separator)
    between = (beyond >= 0) & ~second
    source = np.where(second, column - len(separator), np.minimum(column, content.shape[1] - 1))
    tokens = np.take_along_axis(content, source, axis=1)
    tokens[between] = np.array(separator)[beyond[between]]
    return tokens, second.astype(np.int64)
