"""All suites by name, and the report of a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_ettin.errors import ConfigError, suggest
from megatron_ettin.evaluate.generative.suite import GenerativeSuite
from megatron_ettin.evaluate.suites.losses import HeldOutSettings, LossesSuite
from megatron_ettin.evaluate.suites.results import FILE, read_results
from megatron_ettin.evaluate.suites.suite import Options, Suite
from megatron_ettin.evaluate.suites.table import tables
from megatron_ettin.publish import write_atomically

SUITES = ("losses", "generative")
TABLES = "tables.md"


def made(names: Sequence[str], options: Options, held_out: Callable[[], HeldOutSettings]) -> list[Suite]:
    """The suites of these names; ``held_out`` is asked when losses are among them. Raises ConfigError."""
    for name in names:
        if name not in SUITES:
            raise ConfigError(f"--suite {name}: there is no such suite{suggest(name, list(SUITES))}")
    make: dict[str, Callable[[], Suite]] = {
        "losses": lambda: LossesSuite(held_out()),
        "generative": lambda: GenerativeSuite(options),
    }
    return [make[name]() for name in names]


def write_report(folder: Path) -> str:
    """Write tables.md of the results in ``folder`` and return it; empty when there are none."""
    if not (folder / FILE).exists():
        return ""
    text = "\n".join(tables(read_results(folder)["models"])) + "\n"
    write_atomically(folder / TABLES, text)
    return text
