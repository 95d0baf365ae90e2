"""Labels become numbers, and find their names again."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from prunella.data.labels import clean, to_class_ids


@given(st.lists(st.integers() | st.text(min_size=1), min_size=2, max_size=20))
def test_every_label_finds_its_name_again(values: list[int | str]) -> None:
    labels = clean(values, "here")
    if len(set(labels)) < 2:
        return
    ids, names = to_class_ids(labels, None, "here")
    assert [names[i] for i in ids] == [str(label) for label in labels]
    again, _ = to_class_ids(labels, names, "here")
    np.testing.assert_array_equal(again, ids)
