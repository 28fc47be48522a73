#!/usr/bin/env python3
"""How fast a training step would be on an H100, from the list of all that it runs. Modelled, not measured.

    python benchmarks/gpu_model.py 17m 150m 1b --length 8192

Takes the way of a GPU on the meta device, the dropout of the recipe included. Every operation takes the longer of
moving its bytes and computing its FLOPs, own kernels move what their `cost` says, attention runs at the rate of
FlashAttention. An operation whose cost is not known ends the program. Where the host launches more slowly than the
device computes, its time counts.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))  # behind the installed package, which is built

from benchmarks.reporting import require
from megatron_ettin.config.shapes import PUBLISHED_SIZES


def main(arguments: list[str] | None = None) -> int:
    """Print assumptions, the table, the longest parts, and one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sizes", nargs="+", choices=PUBLISHED_SIZES, metavar="SIZE", help=", ".join(PUBLISHED_SIZES))
    parser.add_argument("--length", type=int, default=1024, help="tokens of a row")
    parser.add_argument("--rows", type=int, help="rows of a micro-batch; default: as many as were trained with")
    parser.add_argument("--attention", type=int, choices=(2, 3), help="generation of FlashAttention; default: both")
    options = parser.parse_args(arguments)
    require("torch", "triton", "megatron.core", "psutil", install="pip install '.[dev]'")
    warnings.simplefilter("ignore")
    from benchmarks.gpu_parts.model_report import report

    report(options.sizes, options.length, options.rows, (options.attention,) if options.attention else (2, 3))
    return 0


if __name__ == "__main__":
    sys.exit(main())
