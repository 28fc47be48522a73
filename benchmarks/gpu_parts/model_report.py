"""The report of the model: what it rests on, rates beside the roofline, where the time goes, one object a line."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from benchmarks.gpu_parts.limits import H100, ROOFLINE_H100, roofline
from benchmarks.gpu_parts.modelled import Modelled, Rates, absent_machine, launches, modelled
from benchmarks.gpu_parts.work import MASK_SHARE
from benchmarks.reporting import hardware
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.tables import aligned

LONGEST = 14
"""Kinds of work that are listed by name."""
HEAD = ("size", "length", "attention", "rows", "micro-batch", "its launches", "tokens/s", "roofline", "share")


def report(sizes: Sequence[str], length: int, rows: int | None, generations: Sequence[int]) -> None:
    """Trace each size and print: `rows` of a micro-batch, None for as many as the models were trained with."""
    rates, machine = Rates(), absent_machine()
    print(circumstances(rates), flush=True)
    lines, objects, parts = [HEAD], [], []
    for size in sizes:
        taken = rows or machine.micro_batch_rows(size, length)
        work, limit = modelled(size, taken, length, machine), limit_of(size, length)
        for generation in generations:
            rate = work.tokens / rates.total(work.step, generation)
            objects.append(
                {"size": size, "length": length, "attention": generation, "rows": taken,
                 "tokens_per_second": round(rate), "launches": launches(work.micro_batch), "roofline": round(limit)}
            )  # fmt: skip
            lines.append(line(objects[-1], rates.total(work.micro_batch, generation)))
        parts += ["", f"{size}, where the time of a micro-batch goes with FlashAttention {generations[-1]}:"]
        parts.append(longest(work, rates, generations[-1]))
    print("\n".join([aligned(lines, left=1), *parts, ""]))
    print("\n".join(json.dumps(each) for each in objects), flush=True)


def limit_of(size: str, length: int) -> float:
    """Tokens a second of the kernel roofline of an H100, an encoder with 30 % of the positions masked."""
    known = ROOFLINE_H100.get(length, {}).get(size)
    return known or roofline(SHAPES[size], False, [length], MASK_SHARE, H100)


def circumstances(rates: Rates) -> str:
    """What the figures rest on."""
    two = " and ".join(f"{rate / 1e12:.0f}" for rate in rates.attention)
    return (
        f"MODELLED, nothing was run on a GPU. Assumed of an H100: {rates.memory / 1e12:.1f} TB/s, "
        f"{rates.product / 1e12:.0f} TFLOP/s of bf16 products, {rates.own_product / 1e12:.0f} of own kernels' "
        f"(exponentials apart); FlashAttention 2 at {two} TFLOP/s forward and backward, 3 at "
        f"{rates.attention_3:g} times that; {rates.link / 1e9:.0f} GB/s from the host; a kernel takes "
        f"{1e6 * rates.shortest:g} us at least, a launch {1e6 * rates.launch:g} us of the host.\n"
        f"python {' '.join(sys.argv)}; {time.strftime('%Y-%m-%d', time.gmtime())}; traced on {hardware()}; "
        f"python {platform.python_version()}, torch {torch.__version__}\n"
    )


def line(found: dict[str, Any], seconds: float) -> list[str]:
    """Of the table."""
    rate, limit = found["tokens_per_second"], found["roofline"]
    return [
        found["size"], str(found["length"]), str(found["attention"]), str(found["rows"]), f"{1e3 * seconds:.2f} ms",
        str(found["launches"]), f"{rate:,}", f"{limit:,}", f"{rate / limit:.1%}",
    ]  # fmt: skip


def longest(work: Modelled, rates: Rates, generation: int) -> str:
    """What takes most of the device's time in a micro-batch, by name, and the sum over all."""
    seconds, calls = Counter[str](), Counter[str]()
    for each in work.micro_batch:
        seconds[each.name] += rates.seconds(each, generation)
        calls[each.name] += each.launches
    whole = seconds.total()
    rows = [(name, part, calls[name]) for name, part in seconds.most_common(LONGEST)]
    rows.append(("all of the device", whole, calls.total()))
    cells = [(name, f"{1e3 * part:.3f}", f"{part / whole:.1%}", str(count)) for name, part, count in rows]
    return aligned([("", "ms", "share", "launches"), *cells], left=1)
