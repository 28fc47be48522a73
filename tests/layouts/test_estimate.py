"""Shards, messages and bytes of one rank of a large layout are those of ``ettin estimate``, counted in a real step."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.support.launch import run

BOOKKEEPING = (1, 4)
"""(Messages, bytes) of the all-reduced number of labels."""
BUCKET_PADDING = 64 * 1024
"""Bytes: Megatron-Core rounds its few gradient buckets up to a multiple of the ranks that share them."""

SMALL = {"model.vocabulary": 512}
QUICK: list[dict[str, Any]] = [
    {"size": "tiny", "objective": "mlm", "layout": {"tensor": 2, "pipeline": 4}, "rank": 1021, "fields": SMALL},
    {
        "size": "tiny", "objective": "clm", "rank": 5, "fields": SMALL,
        "layout": {"tensor": 2, "context": 2, "sequence_parallel": True, "recompute": "full"},
    },
    {"size": "tiny", "objective": "mlm", "layout": {"context": 4}, "rank": 2, "fields": SMALL},
    {
        "size": "tiny", "objective": "clm", "layout": {"pipeline": 2, "virtual_pipeline": 2}, "rank": 700,
        "fields": SMALL,
    },
]  # fmt: skip

THREE_BILLION = {
    "model.layers": 34, "model.hidden": 2560, "model.intermediate": 6912, "model.heads": 40,
}  # fmt: skip
LARGE: list[dict[str, Any]] = [
    {"size": "17m", "objective": "clm", "layout": {"tensor": 4}, "rank": 1023},
    {"size": "32m", "objective": "mlm", "layout": {"tensor": 2, "pipeline": 2}, "rank": 515},
    {"size": "68m", "objective": "clm", "layout": {"tensor": 8, "sequence_parallel": True}, "rank": 9},
    {"size": "150m", "objective": "mlm", "layout": {"tensor": 2, "context": 2, "pipeline": 2}, "rank": 1000},
    {"size": "400m", "objective": "clm", "layout": {"pipeline": 4, "virtual_pipeline": 2, "tensor": 4}, "rank": 300},
    {"size": "1b", "objective": "mlm", "layout": {"tensor": 4, "pipeline": 4}, "rank": 0},
    {"size": "1b", "objective": "mlm", "layout": {"tensor": 4, "pipeline": 4}, "rank": 515},
    {"size": "1b", "objective": "clm", "layout": {"tensor": 4, "pipeline": 4}, "rank": 1023},
    {"size": "1b", "objective": "clm", "layout": {"tensor": 8, "pipeline": 4}, "rank": 640, "fields": THREE_BILLION},
]


def check_cases(cases: list[dict[str, Any]]) -> None:
    output = run([sys.executable, "-W", "ignore", "-m", "benchmarks.fake_world", json.dumps(cases)]).stdout
    found = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    assert len(found) == len(cases)
    for item in found:
        seen, estimated = item["parameters"]
        assert seen == estimated, item
        for operation, (seen, estimated) in item["counts"].items():
            if operation in ("send", "all_reduce"):
                assert seen - estimated == (BOOKKEEPING[0] if operation == "all_reduce" else 0), item
        for operation, (seen, estimated) in item["bytes"].items():
            if operation == "send":
                assert seen == estimated, item
            elif operation == "all_reduce":
                assert seen - estimated == BOOKKEEPING[1], item
            else:
                assert 0 <= seen - estimated < BUCKET_PADDING, item


def test_messages_of_1024_ranks_are_the_estimated_ones() -> None:
    check_cases(QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE, ids=lambda case: f"{case['size']}-{case['objective']}-{case['rank']}")
def test_every_size_on_1024_ranks_is_as_estimated(case: dict[str, Any]) -> None:
    check_cases([case])
