"""Why FSDP is refused: what becomes of masks when the weights are shared out, on two processes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from distributed.pairs import environments
from distributed.sharded import train_sharded
from stages.faults import CONTEXT


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `train_sharded` saw on the first of two processes."""
    folder = tmp_path_factory.mktemp("sharded")
    arguments = [(environment, folder) for environment in environments(2)]
    started = [CONTEXT.Process(target=train_sharded, args=pair) for pair in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join(100)
    assert [process.exitcode for process in started] == [0, 0]
    return json.loads((folder / "found.json").read_text())


def test_training_itself_is_that_of_one_process(found: dict[str, Any]) -> None:
    assert found["difference"] < 1e-6


def test_masks_made_before_no_longer_hold(found: dict[str, Any]) -> None:
    """The model has other parameters now; the masks go on zeroing those that it had."""
    assert found["parameter"] == "DTensor"
    assert found["rows"] == [8, 16]  # of the first of two processes
    assert found["came back"] > 0.9 * found["pruned"] > 0


def test_masks_cannot_be_read_from_shared_out_zeros(found: dict[str, Any]) -> None:
    assert "placement" in found["made after"]


def test_accelerate_shares_out_nothing_on_cpus(found: dict[str, Any]) -> None:
    """With FSDP switched on it trains as without; on GPUs it would not."""
    assert found["accelerate"] == "DistributedType.MULTI_CPU"
    assert found["wrapped"] == "DistributedDataParallel"
