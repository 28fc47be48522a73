"""``python -m megatron_ettin.study.layout_check ONE FOUR RESULT.json``: two layouts took the same steps."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_ettin.observe.records import MetricsRecord, read_records
from megatron_ettin.publish import write_atomically

TOLERANCE = 1e-4
"""Relative difference of loss and gradient norm over three steps in float32. Sums in another order stay a tenth below
it; a forgotten reduction shows at the first step."""

EXACT, ROUNDED = ("tokens", "labels"), ("loss", "gradient_norm")


def compared(one: Sequence[MetricsRecord], four: Sequence[MetricsRecord]) -> dict[str, Any]:
    """Figures of each step under both layouts and whether they agree: counts are equal, sums equal to rounding."""
    steps: list[dict[str, Any]] = [
        {"step": a["step"], **{key: [a.get(key), b.get(key)] for key in (*EXACT, *ROUNDED)}}
        for a, b in zip(one, four, strict=False)
    ]
    counted = [step[key] for step in steps for key in EXACT]
    summed = [step[key] for step in steps for key in ROUNDED]
    agree = all(a == b for a, b in counted) and all(
        None not in (a, b) and math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=0.0) for a, b in summed
    )
    return {"met": len(one) == len(four) > 0 and agree, "tolerance": TOLERANCE, "steps": steps}


def main(arguments: Sequence[str]) -> int:
    """Compare, print and write; status 1 when the layouts disagree."""
    one, four, target = (Path(argument) for argument in arguments)
    result = compared(read_records(one, "step"), read_records(four, "step"))
    for step in result["steps"]:
        print(f"step {step['step']}: loss {step['loss'][0]:.6f} on one rank, {step['loss'][1]:.6f} on four")
    if not result["met"]:
        print(f"the layouts disagree by more than {TOLERANCE:g}: {json.dumps(result['steps'])}")
        return 1
    print(f"tensor 2 x pipeline 2 takes the same {len(result['steps'])} steps as one rank, within {TOLERANCE:g}")
    write_atomically(target, json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
