#!/usr/bin/env python3
"""Everything about a training step on one GPU, row by row, the most valuable rows first.

    python benchmarks/gpu.py --budget-seconds 540 --resume out/results.jsonl

A finished row is a line of the file at once, and the next call goes on with what is missing; the table and traces of
profiled steps lie beside it. A row that this machine cannot do is kept with the reason; when one hangs or takes the
device with it, another process goes on with the next.
`--dry-run` takes the same way through tiny models on a CPU, with stand-ins for the kernels.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # behind the installed package, which is built

from benchmarks.gpu_parts.supervisor import supervise
from benchmarks.gpu_parts.table import show
from benchmarks.reporting import require


def main(arguments: list[str] | None = None) -> int:
    """Measure in a process of its own, again and again while there is time and something is lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-seconds", type=float, default=540.0, help="stop before this much time has passed")
    parser.add_argument("--resume", type=Path, help="file of results to go on with and to write")
    parser.add_argument("--only", default="", help="only rows whose key contains this")
    parser.add_argument("--dry-run", action="store_true", help="tiny models on a CPU, stand-ins for the kernels")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    require("torch", "transformers", "megatron.core", "psutil", install="pip install .")
    if options.worker:
        from benchmarks.gpu_parts.obstacles import obstacle

        if not options.dry_run and (found := obstacle()):
            print(f"error: {found}", file=sys.stderr)
            return 2
        from benchmarks.gpu_parts.worker import work

        return work(options.resume, options.budget_seconds, options.only, options.dry_run)
    with tempfile.TemporaryDirectory() as folder:
        file = options.resume or Path(folder, "results.jsonl")
        own = [sys.executable, "-W", "ignore", __file__, "--worker", "--resume", str(file), f"--only={options.only}"]
        own += ["--dry-run"] if options.dry_run else []
        status = supervise(lambda left: [*own, "--budget-seconds", str(left)], options.budget_seconds, file)
        if file.exists():
            show(file)
    return status


if __name__ == "__main__":
    sys.exit(main())
