"""Pipeline bubbles of real processes, and messages of large layouts, against the model in ``ettin estimate``.

``python benchmarks/scaling.py [--quick] [--json FILE]``. Stages sleep instead of computing, so that two cores are
enough for four ranks; messages are counted in a real step of one rank on a fake process group.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import Claim, claim, require, show  # noqa: E402
from megatron_ettin.config.codec import with_fields  # noqa: E402
from megatron_ettin.config.recipes import recipe  # noqa: E402
from megatron_ettin.cost.placement import (  # noqa: E402
    BACKWARD_COST,
    head_cost,
    layer_costs,
    layer_placement,
    stage_costs,
)
from megatron_ettin.cost.simulator import simulate  # noqa: E402

POINTS = 0.05
"""How far a measured bubble may be from the predicted one."""
FORWARD_SECONDS = 0.12
"""Of a mean stage: long against a message between processes, which takes a millisecond or two."""
MICRO_BATCHES = 8


@dataclass(frozen=True)
class Schedule:
    """A pipeline to measure; ``shares`` are the stages' costs over their mean."""

    name: str
    pipeline: int
    virtual: int
    micro_batches: int
    shares: tuple[float, ...]

    def durations(self) -> tuple[list[float], list[float]]:
        """Seconds of each stage, forward and backward."""
        forward = [FORWARD_SECONDS / self.virtual * share for share in self.shares]
        return forward, [BACKWARD_COST * seconds for seconds in forward]

    def predicted(self) -> float:
        """The bubble by closed form where stages are equal, else by the simulator."""
        if len(set(self.shares)) == 1:
            return (self.pipeline - 1) / (self.virtual * self.micro_batches + self.pipeline - 1)
        return simulate(*self.durations(), self.pipeline, self.micro_batches).bubble


def even(pipeline: int, virtual: int, micro_batches: int = MICRO_BATCHES) -> Schedule:
    """Equal stages."""
    kind = "1F1B" if virtual == 1 else f"interleaved x{virtual}"
    name = f"{kind}, {pipeline} ranks, {micro_batches} micro-batches"
    return Schedule(name, pipeline, virtual, micro_batches, (1.0,) * (pipeline * virtual))


def model_stages(balanced: bool) -> Schedule:
    """The 1B decoder on four ranks, split evenly or by cost."""
    config = with_fields(recipe("1b", "clm", "pretrain"), {"layout.pipeline": 4})
    placement = layer_placement(config) if balanced else (config.model.layers // 4,) * 4
    costs = stage_costs(layer_costs(config), head_cost(config), placement)
    mean = sum(costs) / len(costs)
    name = f"1b clm, layers {' '.join(map(str, placement))}, {MICRO_BATCHES} micro-batches"
    return Schedule(name, 4, 1, MICRO_BATCHES, tuple(cost / mean for cost in costs))


QUICK = [
    even(2, 1),
    even(2, 2),
    even(4, 1, 8),
    even(4, 2, 8),
    model_stages(balanced=False),
    model_stages(balanced=True),
]
FULL = [even(2, 1, 32), even(2, 2, 32), even(4, 1, 32), even(4, 2, 32), even(4, 4, 8), even(4, 1, 4)]


def measured(schedules: Sequence[Schedule], rounds: int) -> dict[str, float]:
    """The bubble of each schedule in real processes: one launch for each number of ranks."""
    found: dict[str, float] = {}
    for ranks in sorted({item.pipeline for item in schedules}):
        chosen = [item for item in schedules if item.pipeline == ranks]
        cases = []
        for item in chosen:
            forward, backward = item.durations()
            fields = asdict(item) | {"forward": forward, "backward": backward, "rounds": rounds}
            cases.append({name: value for name, value in fields.items() if name not in ("name", "shares")})
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        output = python(*launcher, "-m", "benchmarks.sleeping_pipeline", json.dumps(cases))
        lines = [json.loads(line[8:]) for line in output.splitlines() if line.startswith("SECONDS ")]
        for item, seconds in zip(chosen, lines, strict=True):
            forward, backward = item.durations()
            busy = item.micro_batches * (sum(forward) + sum(backward))
            found[item.name] = 1.0 - busy / (item.pipeline * min(seconds))
    return found


def python(*arguments: str) -> str:
    """Standard output of a Python process with one thread; fails loudly."""
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    result = subprocess.run(
        [sys.executable, "-W", "ignore", *arguments], env=environment, text=True, capture_output=True, check=False
    )
    if result.returncode:
        raise SystemExit(result.stdout + result.stderr)
    return result.stdout


def bubble_claims(schedules: Sequence[Schedule], rounds: int) -> list[Claim]:
    """How far each measured bubble is from its prediction."""
    found = measured(schedules, rounds)
    return [
        claim(
            f"bubble: {item.name}",
            abs(found[item.name] - item.predicted()),
            None,
            "share of device time, distance to the prediction",
            POINTS,
            lower_is_better=True,
            note=f"measured {found[item.name]:.1%}, predicted {item.predicted():.1%}",
        )
        for item in schedules
    ]


def message_claims(cases: Sequence[dict[str, Any]]) -> list[Claim]:
    """Bytes of one rank's step beside the estimate, by operation."""
    output = python("-m", "benchmarks.fake_world", json.dumps(list(cases)))
    claims = []
    for line in output.splitlines():
        if not line.startswith("{"):
            continue
        found = json.loads(line)
        case = found["case"]
        layout = " ".join(f"{name} {value}" for name, value in case["layout"].items())
        for operation, (seen, estimated) in found["bytes"].items():
            name = f"{operation}: {case['size']} {case['objective']}, {layout}, rank {case['rank']} of 1,024"
            distance = abs(seen - estimated) / max(estimated, 1) if max(seen, estimated) > 64 else 0.0
            note = f"{seen:,} bytes counted, {estimated:,} estimated"
            claims.append(claim(name, distance, None, "relative distance", 0.001, lower_is_better=True, note=note))
    return claims


QUICK_CASES: list[dict[str, Any]] = [
    {"size": "17m", "objective": "mlm", "layout": {"tensor": 2, "pipeline": 2}, "rank": 515},
    {
        "size": "tiny", "objective": "clm", "layout": {"context": 4, "tensor": 2, "sequence_parallel": True}, "rank": 2,
        "fields": {"model.vocabulary": 50_368},
    },
]  # fmt: skip
FULL_CASES: list[dict[str, Any]] = [
    {"size": "17m", "objective": "mlm", "layout": {"context": 4}, "rank": 3},
    {"size": "150m", "objective": "mlm", "layout": {"tensor": 2, "pipeline": 2, "context": 2}, "rank": 1000},
    {"size": "1b", "objective": "clm", "layout": {"tensor": 4, "pipeline": 4}, "rank": 1023},
]


def main() -> None:
    """Measure, and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="about two minutes on two cores")
    parser.add_argument("--json", type=Path, help="write the JSON lines to this file as well")
    arguments = parser.parse_args()
    require("torch", "megatron.core", install="pip install .")
    schedules = QUICK if arguments.quick else [*QUICK, *FULL]
    cases = QUICK_CASES if arguments.quick else [*QUICK_CASES, *FULL_CASES]
    claims = bubble_claims(schedules, rounds=2 if arguments.quick else 3) + message_claims(cases)
    show(claims, arguments.json)
    if not all(item.met for item in claims):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
