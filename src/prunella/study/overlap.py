"""Overlap of two masks, against chance and against random masks of the same densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prunella.study.about import About

ABOUT = About(
    "IoU (intersection over union) is the share of the weights kept by either mask that both "
    "keep. Chance is what two random masks of the same total densities a and b share, "
    "ab / (a + b - ab); matched is the same with the density of every matrix kept; the last "
    "reference keeps, roughly, how many weights each row and each column has. Agreement sets the "
    "overlap between matched chance (0 %) and the most that these densities allow (100 %).",
    "IoU: Jaccard 1912. Matched masks follow the sanity checks of Su et al. 2020 (arXiv "
    "2009.11094), agreement has the form of Cohen's kappa (1960). Test: given the counts a and b "
    "of a matrix of n weights, the common ones of independent masks are hypergeometric, mean "
    "ab / n, variance ab (n - a)(n - b) / (n^2 (n - 1)); sums over matrices are taken as normal "
    "with continuity correction, two-sided, and Holm's correction (1979) holds over all pairs.",
    "With millions of weights the smallest dependence is significant: read the size, not p. "
    "Masks that magnitudes chose from one dense parent overlap because the weights are the same. "
    "Rows and columns are matched by the product of their shares. Where these are very uneven that "
    "asks for more than one weight at some places, and the overlap is a rough one: against the "
    "masks of largest entropy with the same counts it was, in one trial each, 13 % too high where "
    "11 % were kept, and 0.5 % too low where 79 % were.",
)


@dataclass(frozen=True)
class Common:
    """What two masks of one matrix have in common, with what it takes to judge it.

    Attributes:
        both: Weights that both keep.
        expected: What matched random masks would both keep, on average.
        variance: Of that number.
        most: What two masks of these counts could both keep at most.
        margins: As `expected`, for random masks that also keep the counts of rows and columns, as
            the product of their shares has it: rough where these are very uneven.
    """

    both: float = 0.0
    expected: float = 0.0
    variance: float = 0.0
    most: float = 0.0
    margins: float = 0.0

    def __add__(self, other: Common) -> Common:
        return Common(
            self.both + other.both,
            self.expected + other.expected,
            self.variance + other.variance,
            self.most + other.most,
            self.margins + other.margins,
        )


@dataclass(frozen=True)
class Bits:
    """A mask in an eighth of its bytes, with its margins.

    Attributes:
        words: [ceil(n / 64)] uint64, a bit for each weight, 0 behind the last one.
        size: Weights, n.
        kept: Those that are kept.
        fan_in: [rows] kept weights of each row.
        fan_out: [columns] kept weights of each column.
    """

    words: np.ndarray
    size: int
    kept: int
    fan_in: np.ndarray
    fan_out: np.ndarray


@dataclass(frozen=True)
class Overlap:
    """Of one pair over all matrices that were pruned.

    Attributes:
        first, second: Indices of the two.
        iou, chance, matched, margins: The measured IoU, and those of the three references.
        agreement: (both - expected) / (most - expected); None where nothing could differ.
        z: Standard deviations above the matched expectation; None where it has none.
        log10_p: Two-sided, as power of ten; corrected: after Holm's correction.
        by_component: Agreement of the matrices of each component.
    """

    first: int
    second: int
    iou: float
    chance: float
    matched: float
    margins: float
    agreement: float | None
    z: float | None
    log10_p: float | None
    log10_p_corrected: float | None
    by_component: dict[str, float | None]


def to_bits(mask: np.ndarray) -> Bits:
    """Packs a mask: [rows, columns] bool."""
    packed = np.packbits(mask)
    words = np.zeros(-(-packed.size // 8) * 8, np.uint8)
    words[: packed.size] = packed
    fan_in, fan_out = np.count_nonzero(mask, axis=1), np.count_nonzero(mask, axis=0)
    return Bits(words.view(np.uint64), mask.size, int(fan_in.sum()), fan_in, fan_out)


def common(a: Bits, b: Bits) -> Common:
    """Counts what two masks of one matrix share, and what they would share by chance."""
    both = int(np.bitwise_count(a.words & b.words).sum(dtype=np.int64))
    n, x, y = a.size, a.kept, b.kept
    variance = x * y * (n - x) * (n - y) / (n * n * (n - 1)) if n > 1 else 0.0
    margins = 0.0
    if x and y:
        rows = float(a.fan_in.astype(np.float64) @ b.fan_in)
        margins = rows * float(a.fan_out.astype(np.float64) @ b.fan_out) / (x * y)
    return Common(both, x * y / n, variance, min(x, y), min(margins, x, y))


def overlap(
    pair: tuple[int, int], shared: Sequence[tuple[str, Common]], kept: tuple[int, int], size: int
) -> Overlap:
    """Judges a pair.

    Args:
        pair: Indices of the two.
        shared: For each matrix its component and what is common.
        kept: Weights that each of the two keeps in all of these matrices.
        size: Weights of these matrices.
    """
    total = sum((found for _, found in shared), Common())
    a, b = (count / size if size else 0.0 for count in kept)
    log10_p, z = significance(total)
    components = dict.fromkeys(component for component, _ in shared)
    return Overlap(
        *pair,
        iou=_iou(total.both, kept),
        chance=a * b / (a + b - a * b) if a + b else 0.0,
        matched=_iou(total.expected, kept),
        margins=_iou(total.margins, kept),
        agreement=agreement(total),
        z=z,
        log10_p=log10_p,
        log10_p_corrected=log10_p,
        by_component={
            name: agreement(sum((c for component, c in shared if component == name), Common()))
            for name in components
        },
    )


def agreement(found: Common) -> float | None:
    """Where the overlap lies between chance (0) and the most possible (1); negative below."""
    room = found.most - found.expected
    return (found.both - found.expected) / room if room > 1e-9 else None


def significance(found: Common) -> tuple[float | None, float | None]:
    """(log10 of the two-sided p, z) of independence, by the normal approximation."""
    if found.variance <= 0:
        return None, None
    from scipy.special import log_ndtr

    deviation = math.sqrt(found.variance)
    difference = found.both - found.expected
    corrected = max(0.0, abs(difference) - 0.5) / deviation
    log_p = min(0.0, math.log(2) + float(log_ndtr(-corrected)))
    return log_p / math.log(10), difference / deviation


def holm(log10_p: Sequence[float | None]) -> list[float | None]:
    """Holm's correction for several tests, in logarithms; None stays None and does not count."""
    known = sorted((p, i) for i, p in enumerate(log10_p) if p is not None)
    corrected: list[float | None] = [None] * len(log10_p)
    highest = -math.inf
    for rank, (p, i) in enumerate(known):
        highest = max(highest, min(0.0, p + math.log10(len(known) - rank)))
        corrected[i] = highest
    return corrected


def _iou(both: float, kept: tuple[int, int]) -> float:
    union = sum(kept) - both
    return both / union if union else 0.0
