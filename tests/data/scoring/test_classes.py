"""Several labels at once, against hand calculation and scikit-learn."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import f1_score

from prunella.data.metrics import metrics
from prunella.data.scoring.classes import multi_label
from prunella.errors import InputError


def test_several_labels_by_hand() -> None:
    gold = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0]])
    found = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0]])
    # 2 hits, 3 labelled, 3 predicted; class f1: 1, 0; the third class never occurs
    values = metrics("multi-label", gold, found)
    assert values == pytest.approx({"f1": 4 / 6, "f1_macro": 0.5, "subset_accuracy": 1 / 3})


def test_nothing_labelled_and_nothing_found() -> None:
    nothing = np.zeros((2, 3))
    assert metrics("multi-label", nothing, nothing) == {
        "f1": 0,
        "f1_macro": 0,
        "subset_accuracy": 1,
    }


FLAGS = arrays(np.int64, (2, 12, 4), elements=st.integers(0, 1))


@given(FLAGS, arrays(np.int64, (3, 12), elements=st.integers(0, 3)))
def test_resampled_equals_scikit_learn(flags: np.ndarray, counts: np.ndarray) -> None:
    counts[:, 0] += 1  # no empty resample
    statistics = multi_label(flags[0], flags[1])
    for count in counts:
        gold, found = (np.repeat(part, count, axis=0) for part in flags)
        occurs = (gold | found).any()
        values = {name: of(count[None].astype(float))[0] for name, of in statistics.items()}
        micro = f1_score(gold, found, average="micro", zero_division=0)  # pyright: ignore[reportArgumentType]
        assert values["f1"] == pytest.approx(micro)
        assert values["subset_accuracy"] == pytest.approx((gold == found).all(axis=1).mean())
        if occurs:  # NaN takes classes that do not occur out of the mean
            macro = f1_score(gold, found, average="macro", zero_division=np.nan)  # pyright: ignore[reportArgumentType]
            assert values["f1_macro"] == pytest.approx(macro)


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="no examples"):
        multi_label(np.zeros((0, 3)), np.zeros((0, 3)))
    with pytest.raises(InputError, match="1 of 2 predictions are not finite"):
        multi_label(np.zeros((2, 1)), np.array([[0], [np.nan]]))
    with pytest.raises(ValueError, match=r"\(2,\) and predictions \(2,\) must be \[n, classes\]"):
        multi_label(np.zeros(2), np.zeros(2))
