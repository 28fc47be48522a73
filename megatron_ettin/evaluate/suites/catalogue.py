"""All suites by name, and the report of a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_ettin.errors import ConfigError, suggest
from megatron_ettin.evaluate.bias.plot import plot_shares
from megatron_ettin.evaluate.bias.suite import BiasSuite
from megatron_ettin.evaluate.generative.suite import GenerativeSuite
from megatron_ettin.evaluate.suites.losses import HeldOutSettings, LossesSuite
from megatron_ettin.evaluate.suites.results import FILE, read_results
from megatron_ettin.evaluate.suites.suite import Options, Suite
from megatron_ettin.evaluate.suites.table import tables
from megatron_ettin.publish import write_atomically

SUITES = ("losses", "generative", "bias")
TABLES = "tables.md"
PLOTS = {"bias": plot_shares}
"""Suite -> how its results are drawn."""


def made(names: Sequence[str], options: Options, held_out: Callable[[], HeldOutSettings]) -> list[Suite]:
    """The suites of these names; ``held_out`` is asked when losses are among them. Raises ConfigError."""
    for name in names:
        if name not in SUITES:
            raise ConfigError(f"--suite {name}: there is no such suite{suggest(name, list(SUITES))}")
    make: dict[str, Callable[[], Suite]] = {
        "losses": lambda: LossesSuite(held_out()),
        "generative": lambda: GenerativeSuite(options),
        "bias": lambda: BiasSuite(options),
    }
    return [make[name]() for name in names]


def write_report(folder: Path) -> str:
    """Write tables.md and plots of the results in ``folder``; returns the tables, empty when there are none."""
    if not (folder / FILE).exists():
        return ""
    models = read_results(folder)["models"]
    text = "\n".join(tables(models)) + "\n"
    write_atomically(folder / TABLES, text)
    for suite, draw in PLOTS.items():
        draw(models, folder / f"{suite}.png")
    return text
