"""The engine refuses every model that cannot be, and what it accepts is safe to run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from attacks.hostile_models import hostile_models
from packed.models import tiny_model

from prunella.engine.compiled import CompiledModel, compile_model, usable_isas
from prunella.errors import InputError
from prunella.packed.read import read_packed
from prunella.packed.write import assemble

HOSTILE = Path("hostile.prn")


def test_models_that_cannot_be_are_refused() -> None:
    wrong, names = [], set()
    for name, data, words in hostile_models():
        assert name not in names, name
        names.add(name)
        packed = read_packed(data, HOSTILE)
        packed.verify()  # nothing is damaged
        try:
            compile_model(packed, threads=1)
            wrong.append(f"{name}: accepted")
        except InputError as error:
            if words not in str(error) or str(HOSTILE) not in str(error):
                wrong.append(f"{name}: {error}")
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
    assert not wrong, "\n".join(wrong)
    assert len(names) > 500


@pytest.fixture(params=usable_isas())
def model(request: pytest.FixtureRequest) -> CompiledModel:
    content = tiny_model("bert", "SequenceClassification", "int8")
    packed = read_packed(b"".join(assemble(*content)), HOSTILE)
    return compile_model(packed, 1, request.param)


@pytest.mark.parametrize(
    ("ids", "types", "lengths", "rows"),
    [
        ([5, 40], [0, 0], [2], [0]),
        ([5, -1], [0, 0], [2], [0]),
        ([5, 2**31 - 1], [0, 0], [2], [0]),
        ([5, 6], [0, 2], [2], [0]),
        ([5, 6], [-1, 0], [2], [0]),
        ([5, 6], [0], [2], [0]),
        ([5, 6], [0, 0], [3], [0]),
        ([5, 6], [0, 0], [1], [0]),
        ([5, 6], [0, 0], [3, -1], [0]),
        ([5, 6], [0, 0], [2**31 - 1, 2**31 - 1, 4], [0]),
        ([5, 6], [0, 0], [2], [2]),
        ([5, 6], [0, 0], [2], [-1]),
        ([5] * 27, [0] * 27, [27], [0]),  # one position more than the table has rows
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    model: CompiledModel, ids: list[int], types: list[int], lengths: list[int], rows: list[int]
) -> None:
    given = [np.array(numbers, np.int32) for numbers in (ids, types, lengths, rows)]
    with pytest.raises((ValueError, InputError)):
        model.run(*given)
    one = np.zeros(1, np.int32)
    assert model.run(one, one, one + 1, one).shape == (1, 3)  # it goes on working
