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
    "with continuity correction, beyond 5 standard deviations as Chernoff's bound has it (p is so "
    "much at most); two-sided, and Holm's correction (1979) holds over all pairs.",
    "With millions of weights the smallest dependence is significant: read the size, not p. "
    "Masks that magnitudes chose from one dense parent overlap because the weights are the same. "
    "Rows and columns are matched by the product of their shares. Where these are very uneven that "
    "asks for more than one weight at some places, and the overlap is a rough one: against the "
    "masks of largest entropy with the same counts it was, in one trial each, 13 % too high where "
    "11 % were kept, and 0.5 % too low where 79 % were.",
)


# The normal approximation is used from this variance on, up to so many standard deviations.
_NORMAL_FROM, _NORMAL_TO = 10.0, 5.0
_STEEPEST = 500.0  # e^t must not overflow


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


def whole(bits: Bits) -> Bits:
    """The same matrix with all of its weights kept."""
    rows, columns = len(bits.fan_in), len(bits.fan_out)
    return bits if bits.kept == bits.size else to_bits(np.ones((rows, columns), np.bool_))


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
    pair: tuple[int, int],
    shared: Sequence[tuple[str, Common]],
    counts: Sequence[tuple[int, int, int]],
) -> Overlap:
    """Judges a pair.

    Args:
        pair: Indices of the two.
        shared: For each matrix its component and what is common.
        counts: For each matrix the weights that each of the two keeps, and all of them.
    """
    total = sum((found for _, found in shared), Common())
    kept = sum(a for a, _, _ in counts), sum(b for _, b, _ in counts)
    size = sum(n for _, _, n in counts)
    a, b = (count / size if size else 0.0 for count in kept)
    log10_p, z = significance(total, counts)
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


def significance(
    found: Common, counts: Sequence[tuple[int, int, int]]
) -> tuple[float | None, float | None]:
    """(log10 of the two-sided p, z) of independence.

    Near its middle the sum is taken as normal; further out, and where it is too small a number for
    that, twice Chernoff's bound of the tail is p at most.
    """
    if found.variance <= 0:
        return None, None
    from scipy.special import log_ndtr

    deviation = math.sqrt(found.variance)
    difference = found.both - found.expected
    corrected = max(0.0, abs(difference) - 0.5) / deviation
    log_tail = float(log_ndtr(-corrected))
    if found.variance < _NORMAL_FROM or corrected > _NORMAL_TO:
        log_tail = max(log_tail, log_tail_bound(found.both, difference > 0, counts))
    log_p = min(0.0, math.log(2) + log_tail)
    return log_p / math.log(10), difference / deviation


def log_tail_bound(both: float, above: bool, counts: Sequence[tuple[int, int, int]]) -> float:
    """Chernoff's bound of the log-probability that masks share as many weights, or as few.

    The common weights of a matrix are hypergeometric, whose moments are below those of as many
    draws with replacement (Hoeffding 1963, theorem 4): log P <= min over t of K(t) - t * both, K
    the sum of draws * log(1 - q + q e^t).

    Args:
        both: The common weights.
        above: Whether the upper tail is meant.
        counts: As in `overlap`.
    """
    draws = np.array([min(a, b) for a, b, _ in counts], np.float64)
    share = np.array([max(a, b) / n if n else 0.0 for a, b, n in counts])

    def tilted(t: float) -> np.ndarray:
        """Shares under e^t, as the derivative of K has them."""
        up = share * math.exp(min(t, 0.0))
        down = (1 - share) * math.exp(min(-t, 0.0))
        return up / np.maximum(up + down, 1e-300)

    def exponent(t: float) -> float:
        logs = max(t, 0.0) + np.log(
            np.maximum(share * math.exp(min(t, 0.0)) + (1 - share) * math.exp(-max(t, 0.0)), 1e-300)
        )
        return float(draws @ logs) - t * both

    low, high = (0.0, _STEEPEST) if above else (-_STEEPEST, 0.0)
    for _ in range(100):  # K is convex, so its derivative crosses `both` once
        middle = (low + high) / 2
        low, high = (middle, high) if draws @ tilted(middle) < both else (low, middle)
    return min(0.0, exponent((low + high) / 2))


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
