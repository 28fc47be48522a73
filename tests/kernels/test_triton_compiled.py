"""Kernels for GPUs are compiled for Hopper without one, for the shapes of the recipe, and spill no register."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.launch import ROOT

pytest.importorskip("triton", reason="triton is not installed")

HOPPER_SHARED_MEMORY = 227 << 10
"""Bytes that a kernel may use of a multiprocessor."""


def compiled(
    kernel: Any, signature: dict[str, str], warps: int = 4, stages: int = 3, multiples: str = "", **constants: Any
) -> str:
    """Compile for sm_90; what cuobjdump says of registers and memory.

    ``multiples``: a number that is a multiple of 16, as are all addresses where there is one.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    aligned = [place for place, (name, kind) in enumerate(signature.items()) if kind[0] == "*" or name == multiples]
    source = triton.compiler.ASTSource(
        fn=kernel, signature=signature | dict.fromkeys(constants, "constexpr"), constexprs=constants,
        attrs={(place,): [["tt.divisibility", 16]] for place in aligned} if multiples else None,
    )  # fmt: skip
    made = triton.compile(
        source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps, "num_stages": stages}
    )
    assert made.metadata.shared <= HOPPER_SHARED_MEMORY
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(made.asm["cubin"])
        program = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        return subprocess.run([program, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout


def usages() -> dict[str, str]:
    """Kernel and shape -> what it uses."""
    from megatron_ettin.kernels.triton import adam, add_norm, gated_gelu, linear_softmax, rotary, softmax

    found = {}
    types = {"qkv": "*bf16", "cosine": "*bf16", "sine": "*bf16", "tokens": "i32"}
    for heads in (4, 28):
        found[f"rotate {heads}"] = compiled(
            rotary.rotate_kernel, types, HEADS=heads, HALF=32, COLUMNS=32, TOKENS=rotary.TOKENS_A_PROGRAM
        )
        parts = dict.fromkeys(("query", "key", "value", "cosine", "sine", "joined"), "*bf16")
        found[f"turn back {heads}"] = compiled(
            rotary.turn_back_kernel, parts | {"tokens": "i32"}, HEADS=heads, HALF=32, COLUMNS=32,
            TOKENS=rotary.TOKENS_A_PROGRAM,
        )  # fmt: skip
    tile = {"ROWS": gated_gelu.ROWS, "COLUMNS": gated_gelu.COLUMNS}
    for width in (384, 3840):
        types = {"gated": "*bf16", "output": "*bf16", "rows": "i32"}
        found[f"gelu {width}"] = compiled(gated_gelu.forward_kernel, types, WIDTH=width, **tile)
        types = {"gated": "*bf16", "gradient": "*bf16", "d_gated": "*bf16", "rows": "i32"}
        found[f"gelu backward {width}"] = compiled(gated_gelu.backward_kernel, types, WIDTH=width, **tile)
    numbers = {"labels": "i32", "columns": "i32", "first_row": "i32"}
    types = {"logits": "*bf16", "bias": "*bf16", "label_ids": "*i64"}
    found["statistics"] = compiled(
        softmax.statistics_kernel, types | {"found": "*fp32"} | numbers, 8, COLUMNS=softmax.COLUMNS_AT_ONCE
    )
    found["gradients"] = compiled(
        softmax.gradients_kernel, types | {"log_sums": "*fp32", "sums": "*fp32"} | numbers,
        LABELS=softmax.TILE_LABELS, COLUMNS=softmax.TILE_COLUMNS, GROUP=softmax.GROUP_LABELS,
    )  # fmt: skip
    widths = {"HIDDEN": 256, "WIDTH": 256}
    types = {"hidden": "*bf16", "weight": "*bf16", "bias": "*bf16"}
    found["product statistics"] = compiled(
        linear_softmax.statistics_kernel,
        types | {"tops": "*fp32", "sums": "*fp32", "labels": "i32", "columns": "i32"}, 8, 3, "columns", **widths,
        LABELS=linear_softmax.TILE_LABELS, COLUMNS=linear_softmax.TILE_COLUMNS, PART=linear_softmax.PART_COLUMNS,
    )  # fmt: skip
    types |= {"label_ids": "*i64"}
    found["label logits"] = compiled(
        linear_softmax.label_logits_kernel, types | {"found": "*fp32"} | numbers, 4, 3, "columns", **widths,
        LABELS=linear_softmax.GATHERED_LABELS,
    )  # fmt: skip
    written = {"log_sums": "*fp32", "gradients": "*bf16", "bias_sums": "*fp32"}
    found["product gradients"] = compiled(
        linear_softmax.gradients_kernel, types | written | numbers, 8, 2, "columns", **widths,
        LABELS=linear_softmax.PASSING_LABELS, COLUMNS=linear_softmax.KEPT_COLUMNS, GROUP=linear_softmax.GROUP_LABELS,
    )  # fmt: skip
    draws = {"places": "*i64", "key": "u64", "step": "i64", "layer": "i32", "dropped_below": "i32", "scale": "fp32"}
    for channels, drops in ((256, True), (768, False), (1792, True), (1792, False)):
        constants = add_norm._constants(None, channels) | {"DROPS": drops}
        warps = constants.pop("num_warps")
        types = dict.fromkeys(("residual", "x", "weight", "hidden", "normed"), "*bf16")
        types |= {"statistics": "*fp32", "tokens": "i32", "epsilon": "fp32"} | draws
        found[f"norm {channels} {drops}"] = compiled(add_norm.forward_kernel, types, warps, **constants)
        types = {"hidden": "*bf16", "weight": "*bf16", "statistics": "*fp32"}
        types |= dict.fromkeys(("d_hidden", "d_normed", "d_residual", "d_x"), "*bf16")
        types |= {"d_weight": "*fp32", "tokens": "i32", "tokens_a_program": "i32"} | draws
        found[f"norm backward {channels} {drops}"] = compiled(add_norm.backward_kernel, types, warps, **constants)
    types = {"parts": "*fp32", "buffer": "*fp32", "programs": "i32"}
    tile = {"ROWS": add_norm.SUMMED_ROWS, "COLUMNS": add_norm.SUMMED_CHANNELS}
    found["norm weight"] = compiled(add_norm.add_weight_kernel, types, WIDTH=768, **tile)
    types = {"addresses": "*i64", "sizes": "*i64", "chunks": "*i64"}
    numbers = {"tensors": "i32", "beta": "fp32", "rest": "fp32"}
    moments = types | {"sums": "*fp32"} | numbers | {"least": "fp32"}
    found["moments"] = compiled(adam.second_moments_kernel, moments, adam.WARPS, CHUNK=adam.CHUNK)
    moved = types | {"scales": "*fp32"} | numbers | {"epsilon": "fp32"}
    found["update"] = compiled(adam.update_kernel, moved, adam.WARPS, CHUNK=adam.CHUNK)
    sums = {"parts": "*fp32", "bounds": "*i64", "sums": "*fp64"}
    found["sums"] = compiled(adam.sums_kernel, sums, AT_ONCE=adam.SUMMED_AT_ONCE)
    return found


def test_every_kernel_compiles_for_hopper_without_spills(tmp_path: Path) -> None:
    """In a process of its own: where kernels are interpreted, they cannot be compiled."""
    variables = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.kernels.test_triton_compiled"], cwd=ROOT, text=True, capture_output=True,
        env=variables | {"TRITON_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 25
    for name, usage in found.items():
        used = {kind: int(number) for kind, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
        assert used["REG"] > 0, name
        assert (used["STACK"], used["LOCAL"]) == (0, 0), name


if __name__ == "__main__":
    print(json.dumps(usages()))
