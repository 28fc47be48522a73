"""How much fp8 rounds away is recorded by layer where it is asked for, changes nothing, and costs nothing else."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from megatron_ettin.kernels.scaled import BACKWARD, FORWARD
from megatron_ettin.observe import read_records
from megatron_ettin.train import fp8_watch
from megatron_ettin.train.fp8_watch import rounding
from tests.train.runs import config_of, go, losses, tensor_hashes

SMALLEST = {FORWARD: 2.0**-9, BACKWARD: 2.0**-16}
"""Above 0; half of it and less becomes 0."""
OPERANDS, PRODUCTS, LAYERS = 3, 4, 3


@pytest.mark.parametrize("kind", [FORWARD, BACKWARD])
def test_the_share_that_becomes_0_is_counted_among_the_others(kind: torch.dtype) -> None:
    """Under a scale of 1: the largest number is kept, halves of the smallest go, zeros are none of them."""
    largest = {FORWARD: 300.0, BACKWARD: 40_000.0}[kind]
    x = torch.tensor([largest, *(SMALLEST[kind] * share for share in (-1.0, 1.01, 0.4, -0.1, 0.0))])
    assert rounding(x, kind).tolist() == [largest, pytest.approx(2 / 5)]
    assert rounding(torch.zeros(4), kind).tolist() == [0.0, 0.0] == rounding(torch.zeros(0), kind).tolist()


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_a_run_records_each_operand_of_each_product_and_learns_the_same(corpus, tmp_path, recompute):
    found = []
    for every in (0, 2):
        config = config_of(corpus, steps=4, observe__fp8_every=every, layout__recompute=recompute)
        last = go(config, tmp_path / str(every)).state.step
        found.append((losses(tmp_path / str(every)), tensor_hashes(tmp_path / str(every), last)))
    assert found[0] == found[1]
    records = read_records(tmp_path / "2", "fp8")
    assert "step 4 | fp8 | at most " in (tmp_path / "2" / "console.log").read_text()
    assert [record["step"] for record in records] == [2, 4] and read_records(tmp_path / "0", "fp8") == []
    for record in records:
        shares = {name: value for name, value in record.items() if name.endswith(".underflow")}
        largest = {name: value for name, value in record.items() if name.endswith(".largest")}
        assert len(shares) == len(largest) == OPERANDS * PRODUCTS * LAYERS
        assert all(0.0 <= share < 0.5 for share in shares.values()) and all(value > 0 for value in largest.values())


def test_nothing_is_hooked_where_nothing_is_asked(corpus, tmp_path, monkeypatch):
    def looked(*_: object) -> Tensor:
        raise AssertionError("looked at")

    monkeypatch.setattr(fp8_watch, "_look", looked)
    go(config_of(corpus, steps=2), tmp_path / "run")
    with pytest.raises(AssertionError, match="looked at"):
        go(config_of(corpus, steps=2, observe__fp8_every=1), tmp_path / "watched")
