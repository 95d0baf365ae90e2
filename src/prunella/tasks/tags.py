"""Tags of words: IOB1, IOBES, BMES and BIOLU become IOB2, which the engine reads."""

from __future__ import annotations

from collections.abc import Sequence

OUTSIDE = "O"
_BEGINS, _CONTINUES = ("B-", "S-", "U-"), ("I-", "M-", "E-", "L-")


def to_iob2(tags: Sequence[str]) -> list[str]:
    """The same entities in IOB2: each begins with B- and goes on with I-.

    An I- that follows nothing of its type begins an entity, as IOB1 has it and as the script of
    CoNLL reads it. Tags without such a prefix stay.

    >>> to_iob2(["I-PER", "E-PER", "O", "S-LOC"])
    ['B-PER', 'I-PER', 'O', 'B-LOC']
    """
    out: list[str] = []
    before = None
    for tag in tags:
        prefix, of = tag[:2], tag[2:]
        if prefix in _CONTINUES:
            out.append(("I-" if of == before else "B-") + of)
        elif prefix in _BEGINS:
            out.append("B-" + of)
        else:
            out.append(tag)
        ended = prefix in ("E-", "L-", "S-", "U-")
        before = of if prefix in (*_BEGINS, *_CONTINUES) and not ended else None
    return out


def inside(tag: str) -> str:
    """The IOB2 tag of what goes on where `tag` began."""
    return "I-" + tag[2:] if tag.startswith("B-") else tag


def sorted_tags(tags: set[str]) -> list[str]:
    """Tags in a fixed order, "O" first."""
    return sorted(tags, key=lambda tag: (tag != OUTSIDE, tag))
