#!/usr/bin/env python3
"""Compare two runs step by step: ``diff_runs.py BEFORE AFTER``. Equal means bit for bit; status 1 names where not."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from megatron_ettin.errors import EttinError
from megatron_ettin.observe.records import MetricsRecord, read_records

COMPARED = ("tokens", "labels", "batch", "lr", "loss", "gradient_norm", "sources", "refused")
"""Fields that the machine, the clock and the layout have no part in."""


def differences(before: Sequence[MetricsRecord], after: Sequence[MetricsRecord]) -> list[str]:
    """One line for each difference; none when the runs took the same steps with the same numbers."""
    old, new = ({record["step"]: record for record in records} for records in (before, after))
    lines = [f"step {step} only in {'the first' if step in old else 'the second'}" for step in sorted(old.keys() ^ new)]
    for step in sorted(old.keys() & new):
        for name in COMPARED:
            if old[step].get(name) != new[step].get(name):
                lines.append(f"step {step}: {name} {shown(old[step].get(name))} -> {shown(new[step].get(name))}")
    return lines


def shown(value: Any) -> str:  # noqa: ANN401
    """A value with all its digits."""
    return repr(value)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the differences; 0 when there is none."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("before", type=Path, help="run folder")
    parser.add_argument("after", type=Path, help="run folder")
    options = parser.parse_args(arguments)
    try:
        before, after = (read_records(run, "step") for run in (options.before, options.after))
    except EttinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines = differences(before, after)
    print("\n".join(lines) or f"equal: {len(before)} steps")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
