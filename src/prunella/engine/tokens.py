"""Text to token ids: pairs, truncation, sliding windows. No padding, and no state.

Texts are encoded one by one, without the library's own threads: those take every core, whatever
`threads` says, and make a fork afterwards warn or hang. One by one costs as much as one batch on
one core. Who wants the threads sets TOKENIZERS_PARALLELISM=true, as for the library itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tokenizers import Encoding, Tokenizer

from prunella.engine.options import USUAL_STRIDE
from prunella.engine.runner import Ints
from prunella.errors import InputError


@dataclass(frozen=True)
class Template:
    """The special tokens around one text or two.

    Attributes:
        parts: (ids, types) before, between and after the texts.
        types: Of each text's own tokens.
        special: Tokens that it adds.
    """

    parts: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    types: tuple[int, ...]
    special: int


@dataclass(frozen=True, eq=False)
class Window:
    """One sequence for the model: special tokens, a stretch of one text, maybe a second text.

    Attributes:
        ids: [T] token ids.
        types: [T] token types.
        place: Where in `ids` the watched text begins: the last one that was given.
        begin, end: Which tokens of the watched text are here.
        tokens: How many tokens the watched text has in all.
        cut: Tokens of the texts that were left out for good.
    """

    ids: Ints
    types: Ints
    place: int
    begin: int
    end: int
    tokens: int
    cut: int = 0

    def __len__(self) -> int:
        return len(self.ids)


class TextEncoder:
    """Makes windows of texts; safe to use from several threads."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        positions: int,
        *,
        token_types: bool,
        usual: int | None = None,
        stride: int = USUAL_STRIDE,
    ) -> None:
        """Set up.

        Args:
            tokenizer: Without truncation and padding; it must not be changed any more.
            positions: Tokens that the model takes at most, special ones included.
            token_types: Whether the model tells first and second text apart.
            usual: Tokens of a sequence at most where nothing else is asked for; None for all that
                the model takes.
            stride: Tokens that windows share where nothing else is asked for.
        """
        self.tokenizer = tokenizer
        self.positions = positions
        self.usual = positions if usual is None else min(usual, positions)
        self.stride = stride
        self.token_types = token_types
        probe = tokenizer.encode("a", add_special_tokens=False)
        if not len(probe):
            raise InputError("the tokenizer makes no token of 'a'; it is damaged")
        self.single = _template(tokenizer.post_process(probe, None, True), len(probe))
        self.double = _template(tokenizer.post_process(probe, probe, True), len(probe))

    def encode(self, texts: Sequence[str]) -> list[Encoding]:
        """Tokens of each text, without special ones, however many they are."""
        try:
            if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("1", "true", "on", "yes"):
                return self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
            return [self.tokenizer.encode(text, add_special_tokens=False) for text in texts]
        except TypeError:
            bad = next((t for t in texts if any("\ud800" <= c <= "\udfff" for c in t)), None)
            if bad is None:
                raise
            raise InputError(
                f"{bad[:40]!r}: half of a surrogate pair, which is no character; repair the text"
            ) from None

    def limit(self, wanted: int | None, pair: bool) -> int:
        """Tokens that a sequence may have, special ones included.

        Raises:
            InputError: If `wanted` is more than the model takes, or leaves no room for text.
        """
        least = self.template(pair).special + (2 if pair else 1)
        if wanted is None:
            wanted = self.usual
        if not least <= wanted <= self.positions:
            raise InputError(f"max_length {wanted}: this model takes {least} to {self.positions}")
        return wanted

    def template(self, pair: bool) -> Template:
        return self.double if pair else self.single

    def whole(self, texts: Sequence[Encoding], limit: int) -> Window:
        """One window of one or two texts; if they are too long their ends are cut.

        Of a pair the longer one is cut first, until both are as long; as in training.
        """
        room = limit - self.template(len(texts) == 2).special
        lengths = [len(text) for text in texts]
        kept = [min(lengths[0], room)]
        if len(texts) == 2:
            kept = _longest_first(lengths[0], lengths[1], room)
        ids = [text.ids[:count] for text, count in zip(texts, kept, strict=True)]
        return self._window(ids, 0, lengths[-1], sum(lengths) - sum(kept))

    def sliding(
        self, text: Encoding, limit: int, stride: int | None = None, before: Encoding | None = None
    ) -> list[Window]:
        """Windows over a long text, each with the text `before` it.

        Args:
            text: What to slide over.
            limit: Tokens of a window, special ones included.
            stride: Tokens that a window shares with the next one, fewer if the room is small; None
                for the usual ones.
            before: The first text of a pair, in every window; cut where it takes more than half of
                the room, and counted as cut in the first window.
        """
        room = limit - self.template(before is not None).special
        head: list[list[int]] = []
        cut = 0
        if before is not None:
            head = [before.ids[: room // 2]]
            cut = len(before) - len(head[0])
            room -= len(head[0])
        step = max(1, room - min(self.stride if stride is None else stride, room // 2))
        ids, windows, begin = text.ids, [], 0
        while True:
            part = ids[begin : begin + room]
            windows.append(self._window([*head, part], begin, len(ids), 0 if windows else cut))
            if begin + room >= len(ids):
                return windows
            begin += step

    def _window(self, texts: list[list[int]], begin: int, tokens: int, cut: int = 0) -> Window:
        template = self.template(len(texts) == 2)
        ids: list[int] = []
        types: list[int] = []
        place = 0
        for number, (special, special_types) in enumerate(template.parts):
            ids += special
            types += special_types
            if number < len(texts):
                place = len(ids)
                ids += texts[number]
                types += [template.types[number]] * len(texts[number])
        kinds = np.array(types, np.int32) if self.token_types else np.zeros(len(ids), np.int32)
        return Window(
            np.array(ids, np.int32), kinds, place, begin, begin + len(texts[-1]), tokens, cut
        )


def _longest_first(first: int, second: int, room: int) -> list[int]:
    """Tokens to keep of a pair."""
    if first + second <= room:
        return [first, second]
    shorter = min(first, second, room // 2)
    return [room - shorter, shorter] if first > second else [shorter, room - shorter]


def _template(probe: Encoding, tokens: int) -> Template:
    """What the tokenizer put around its texts, each of `tokens` tokens."""
    parts: list[tuple[tuple[int, ...], tuple[int, ...]]] = [((), ())]
    types: list[int] = []
    seen = 0
    for special, number, kind in zip(
        probe.special_tokens_mask, probe.ids, probe.type_ids, strict=True
    ):
        if special:
            ids, kinds = parts[-1]
            parts[-1] = ((*ids, number), (*kinds, kind))
            continue
        if seen % tokens == 0:
            types.append(kind)
            parts.append(((), ()))
        seen += 1
    return Template(tuple(parts), tuple(types), sum(len(ids) for ids, _ in parts))
