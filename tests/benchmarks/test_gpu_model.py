"""The modelled step lists what a GPU would run, costs all of it, and says what it rests on."""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import Any
from unittest import mock

import pytest
import torch

from benchmarks.gpu_parts.work_list import UnknownOperationError, Work, WorkList
from tests.support.launch import ROOT, run

pytest.importorskip("triton", reason="triton is not installed")

META = torch.device("meta")
CASE = {
    "objective": "mlm", "precision": "bf16", "attention": "flash", "recompute": "none", "dropout": 0.1,
    "kernels": "auto", "empty": 0, "fault": "",
}  # fmt: skip
TINY_STEP = """
import json, warnings; warnings.simplefilter("ignore")
from dataclasses import replace
from benchmarks.gpu_parts.machine import TINY
from benchmarks.gpu_parts.modelled import absent_machine, modelled
work = modelled("17m", 1, 1024, replace(absent_machine(), scale=TINY))
print(json.dumps([[each.name for each in part] for part in (work.micro_batch, work.step)]))
"""


def last_line(*arguments: str) -> Any:
    return json.loads(run([sys.executable, "-W", "ignore", *arguments]).stdout.splitlines()[-1])


def kept(call: Any) -> list[Work]:
    work = WorkList(META)
    with work:
        call()
    return work.done


def test_the_own_kernels_of_a_step_are_those_that_the_absent_device_is_asked_for() -> None:
    """Both have four layers and two micro-batches, and count apart."""
    micro_batch, step = (Counter(name for name in names if "_kernel" in name) for names in last_line("-c", TINY_STEP))
    assert step == last_line("-m", "tests.train.absent_device", json.dumps(CASE))["launches"]
    update = Counter({name: count for name, count in step.items() if name.startswith("adam.")})
    assert update and step - update == micro_batch + micro_batch


def test_an_operation_without_a_known_cost_is_an_error() -> None:
    x = torch.ones(3, 3, device=META)
    with pytest.raises(UnknownOperationError, match=r"aten\.erfinv"), WorkList(META):
        torch.erfinv(x)
    with WorkList(META):
        torch.erfinv(torch.zeros(2))  # on the host


def test_a_kernel_without_a_known_cost_is_an_error() -> None:
    from benchmarks.gpu_parts.launch_costs import work_of
    from megatron_ettin.kernels.triton import rotary

    kernel, given = rotary.rotate_kernel, {"qkv": torch.zeros(4, 2, 3, 8), "tokens": 4, "HEADS": 2, "HALF": 4}
    assert work_of(kernel, (1,), given).bytes == rotary.cost(4, 2, 8, 4).bytes
    with pytest.raises(UnknownOperationError, match="asks for 'heads'"):
        work_of(kernel, (1,), {name: value for name, value in given.items() if name != "HEADS"})
    with mock.patch.object(rotary, "cost", None), pytest.raises(UnknownOperationError, match="rotary.rotate_kernel"):
        work_of(kernel, (1,), given)


def test_operations_count_the_bytes_and_flops_that_their_tensors_say() -> None:
    x, y = torch.ones(6, 4, device=META), torch.ones(4, 10, device=META)
    number, row = 4, torch.ones(1, 4, device=META).expand(6, 4)
    ids = torch.zeros(5, dtype=torch.int64, device=META)

    def counted(call: Any) -> list[tuple[float, float, int]]:
        return [(work.bytes / number, work.flops, work.launches) for work in kept(call)]

    assert counted(lambda: x.t().view(2, 2, 6)[0]) == []
    assert counted(lambda: x @ y) == [(24 + 40 + 60, 2 * 6 * 4 * 10, 1)]
    assert counted(lambda: x + row) == [(24 + 4 + 24, 0, 1)]
    assert counted(lambda: x.add_(row)) == [(24 + 4 + 24, 0, 1)]
    assert counted(lambda: x.zero_()) == [(24, 0, 1)]
    assert counted(lambda: torch.mm(x, y, out=torch.empty(6, 10, device=META))) == [(124, 480, 1)]
    assert counted(lambda: x.index_select(0, ids)) == [(2 * 20 + 2 * 5, 0, 1)]
    lists = [torch.ones(3, device=META) for _ in range(111)]
    assert counted(lambda: torch._foreach_mul_(lists, 2.0)) == [(2 * 333, 0, 2)]
    (across,) = kept(lambda: torch.ones(6).to(META))
    assert (across.unit, across.bytes) == ("link", 6 * number)


@pytest.mark.parametrize("queries, keys, window", [(1024, 1024, (64, 64)), (1024, 1024, (63, 0)), (700, 700, (64, 64))])
def test_attention_costs_the_tiles_that_a_window_meets(queries: int, keys: int, window: tuple[int, int]) -> None:
    from benchmarks.gpu_parts.modelled import TILE, pairs

    index = torch.arange(keys)
    offset = index[None, :] - torch.arange(queries)[:, None]
    seen = (offset >= -window[0]) & (offset <= window[1])
    met = sum(bool(tile.any()) for block in seen.split(TILE) for tile in block.split(TILE, dim=1))
    assert pairs(queries, queries, keys, window) == met * TILE * TILE
    assert pairs(3 * queries, queries, keys, window) == 3 * met * TILE * TILE
    assert pairs(5, queries, 1000, (-1, -1)) == 5 * 1024


def test_the_report_has_one_object_a_size_and_generation_below_the_roofline() -> None:
    told = run([sys.executable, ROOT / "benchmarks" / "gpu_model.py", "17m", "--rows", "4"]).stdout
    assert "MODELLED, nothing was run on a GPU" in told and "3.0 TB/s" in told
    found = [json.loads(line) for line in told.splitlines() if line.startswith("{")]
    assert [(each["size"], each["length"], each["attention"], each["rows"]) for each in found] == [
        ("17m", 1024, 2, 4), ("17m", 1024, 3, 4)
    ]  # fmt: skip
    for each in found:
        assert set(each) == {"size", "length", "attention", "rows", "tokens_per_second", "launches", "roofline"}
        assert 0 < each["tokens_per_second"] < each["roofline"] == 9_171_000
