"""What the results say, for people: speed beside what was published and modelled, checks, what was refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.limits import LIMIT_H200, PUBLISHED_H100
from benchmarks.gpu_parts.results import DONE, Entry, Results

MODELLED = Path(__file__).resolve().parent.parent / "results" / "gpu_model.txt"
"""What `gpu_model.py` printed last."""
FEW_TOKENS = 8192
"""Micro-batches of no more are modelled to count launches."""
COLUMNS = (
    ("tokens/s", "tokens_per_second", ",.0f"),
    ("MFU %", "mfu", ".1%"),
    ("roofline %", "roofline_share", ".1%"),
    ("modelled %", "modelled_share", ".1%"),
    ("GiB", "peak_gibibytes", ".1f"),
    ("estimate", "estimated_gibibytes", ".1f"),
    ("waits", "host_waits", "d"),
)


def show(file: Path) -> None:
    """Print the table of a file of results, and write it beside."""
    lines = "\n".join(table(Results.read(file)))
    print(lines, flush=True)
    file.with_name("table.txt").write_text(lines + "\n")


def table(results: Results) -> list[str]:
    """Lines: the share of the roofline at the ceilings measured here, and the one that was modelled for an H100."""
    shares = modelled_shares(MODELLED)
    head = f"{'row':<88} " + " ".join(f"{name:>11}" for name, _, _ in COLUMNS) + f" {'published':>11} {'limit':>11}"
    lines = [head]
    for key, entry in results.rows.items():
        if entry["status"] == DONE and "tokens_per_second" in entry["values"]:
            values = entry["values"] | {"modelled_share": shares.get(modelled_as(entry))}
            cells = [_cell(values.get(name), form) for _, name, form in COLUMNS]
            known = [_cell(source[entry["row"]["size"]], ",.0f") for source in (PUBLISHED_H100, LIMIT_H200)]
            lines.append(f"{key:<88} " + " ".join(f"{cell:>11}" for cell in [*cells, *known]))
    lines += [_check(key, entry["values"]) for key, entry in results.rows.items() if _is_check(entry)]
    lines += [f"{key}: refused, {entry['reason']}" for key, entry in results.rows.items() if "reason" in entry]
    return lines


def modelled_shares(file: Path) -> dict[tuple[str, int, int], float]:
    """(size, tokens of a row, generation of FlashAttention) -> share of the roofline, usual micro-batches alone."""
    found = [json.loads(line) for line in file.read_text().splitlines() if line.startswith("{")]
    usual = [each for each in found if each["rows"] * each["length"] > FEW_TOKENS]
    return {
        (each["size"], each["length"], each["attention"]): each["tokens_per_second"] / each["roofline"]
        for each in usual
    }  # fmt: skip


def modelled_as(entry: Entry) -> tuple[str, int, int] | None:
    """What was modelled of a row: encoders in bf16 by our own kernels, where nothing else was asked for."""
    row, made = entry["row"], entry["values"].get("choices", [])
    usual = row["kind"] == "step" and row["objective"] == "mlm" and row["precision"] == "bf16" and not row["rows"]
    if not usual or row["kernels"] != "auto":
        return None
    return row["size"], row["row_length"], 3 if any(": flash," in line for line in made) else 2


def _cell(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _is_check(entry: Entry) -> bool:
    return entry["status"] == DONE and "tokens_per_second" not in entry["values"]


def _check(key: str, values: dict[str, Any]) -> str:
    plain = {name: value for name, value in values.items() if isinstance(value, int | float | bool | str)}
    parts = [f"{name}={value:.3g}" if isinstance(value, float) else f"{name}={value}" for name, value in plain.items()]
    return f"{key}: {', '.join(parts)}"
