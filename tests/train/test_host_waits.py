"""Between two steps a GPU is waited for once: when the step's totals are read."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.launch import run

CASE = {
    "objective": "mlm", "precision": "bf16", "attention": "flash", "recompute": "none", "dropout": 0.1,
    "kernels": "auto", "empty": 0, "fault": "",
}  # fmt: skip
LAYERS, MICRO_BATCHES = 4, 2
OF_LOSS = {
    "fp32": ("softmax.statistics_kernel", "softmax.gradients_kernel"),
    "bf16": (
        "linear_softmax.statistics_kernel", "linear_softmax.label_logits_kernel", "linear_softmax.gradients_kernel",
    ),
}  # fmt: skip
"""Two passes over logits, or those that do without: the model is narrow."""


def taken(**changes: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "tests.train.absent_device", json.dumps(CASE | changes)]
    return run(command, status=None)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"objective": "clm"},
        {"precision": "fp32", "attention": "sdpa"},
        {"objective": "clm", "attention": "sdpa", "recompute": "full"},
        {"kernels": "torch", "dropout": 0.0},
        {"empty": 1},
        {"attention": "varlen"},
        {"attention": "auto"},
    ],
    ids=lambda changes: "-".join(map(str, changes.values())) or "default",
)
def test_a_step_reads_numbers_of_the_gpu_once_and_launches_own_kernels(changes: dict[str, Any]) -> None:
    result = taken(**changes)
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads(result.stdout.splitlines()[-1])
    assert (found["reads"], found["copies"]) == (["tolist"], [])
    assert found["activated"] == (["FA3"] if changes.get("attention") == "auto" else [])
    assert found["launches"] == (launches(**changes) if changes.get("kernels") != "torch" else {})
    assert found["sums"] == ({} if changes.get("precision") == "fp32" else sums(**changes))
    assert found["returned"] == [], "weights whose gradients are copied to their buffers"


def sums(empty: int = 0, **_: Any) -> dict[str, int]:
    """Products that add to fp32 buffers in a step, by the shape of the weight.

    Queries, keys and values, and both halves of the MLP; attention output and head; MLP output; and, where there are
    labels, the vocabulary's rows without padding.
    """
    each = MICRO_BATCHES + empty
    layers = LAYERS * each
    return {"192x64": 2 * layers, "64x64": layers + each, "64x96": layers, "250x64": MICRO_BATCHES}


def launches(
    recompute: str = "none", empty: int = 0, precision: str = "bf16", attention: str = "flash", **_: Any
) -> dict[str, int]:
    """Of own kernels in a step: one of each a layer and pass, and those of the loss of a micro-batch.

    A micro-batch without rows has no logits, and its last layer is not asked for no position at all.
    """
    layers, forward = LAYERS * (MICRO_BATCHES + empty), 2 if recompute == "full" else 1
    sums = 2 * layers - MICRO_BATCHES - empty if recompute == "none" else layers  # the last layer's second one is apart
    turned_back = {"rotary.turn_back_kernel": layers} if attention != "sdpa" else {}
    return turned_back | {
        "rotary.rotate_kernel": layers * (forward + 1 - bool(turned_back)),
        "gated_gelu.forward_kernel": layers * forward,
        "gated_gelu.backward_kernel": layers,
        "add_norm.forward_kernel": sums * forward,
        "add_norm.backward_kernel": sums,
        "add_norm.add_weight_kernel": sums,
        **dict.fromkeys(OF_LOSS[precision], MICRO_BATCHES),
        "adam.second_moments_kernel": 1,
        "adam.sums_kernel": 1,
        "adam.update_kernel": 1,
    }


@pytest.mark.parametrize(("fault", "sign"), [("item", "item"), ("mask", "nonzero")])
def test_a_part_that_waits_for_the_gpu_is_noticed(fault: str, sign: str) -> None:
    result = taken(fault=fault, kernels="torch", dropout=0.0)
    assert result.returncode != 0
    assert sign in result.stderr


def test_a_copy_that_is_waited_for_is_noticed() -> None:
    result = taken(fault="copy")
    assert json.loads(result.stdout.splitlines()[-1])["copies"]
