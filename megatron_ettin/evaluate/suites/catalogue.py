"""All suites by name, and the report of a folder of results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from megatron_ettin.errors import ConfigError, suggest
from megatron_ettin.evaluate.bias.plot import plot_shares
from megatron_ettin.evaluate.bias.suite import BiasSuite
from megatron_ettin.evaluate.dynamics.curves import curves_of
from megatron_ettin.evaluate.dynamics.plot import plot_curves
from megatron_ettin.evaluate.dynamics.report import dynamics_text
from megatron_ettin.evaluate.generative.suite import GenerativeSuite
from megatron_ettin.evaluate.glue.settings import Budget
from megatron_ettin.evaluate.glue.suite import GlueSuite
from megatron_ettin.evaluate.retrieval.suite import RetrievalSuite
from megatron_ettin.evaluate.stdlib.suite import StdlibSuite
from megatron_ettin.evaluate.suites.losses import HeldOutSettings, LossesSuite
from megatron_ettin.evaluate.suites.models import Models
from megatron_ettin.evaluate.suites.optional import require
from megatron_ettin.evaluate.suites.results import FILE, read_results
from megatron_ettin.evaluate.suites.suite import Options, Suite
from megatron_ettin.evaluate.suites.table import tables
from megatron_ettin.publish import write_atomically

SUITES = ("losses", "stdlib", "glue", "retrieval", "generative", "bias")
NEEDS = {"generative": ("lm_eval", "eval-lm"), "glue": ("sklearn", "eval-glue"),
         "retrieval": ("mteb", "eval-embed")}  # fmt: skip
"""Suite -> library that it cannot do without, and the extra that installs it."""
TABLES, DYNAMICS = "tables.md", "dynamics.md"
PLOTS = {"bias": plot_shares}
"""Suite -> how its results are drawn."""


def made(names: Sequence[str], options: Options, held_out: Callable[[], HeldOutSettings]) -> list[Suite]:
    """The suites of these names; ``held_out`` is asked when losses are among them. Raises ConfigError.

    They share the models that they load.
    """
    require_suites(names, "--suite")
    if "glue" not in names and options.setting:
        raise ConfigError("--setting says how glue fine-tunes; add it to --suite, or leave --setting out")
    if not {"glue", "retrieval"} & set(names) and options.budget != Options.budget:
        raise ConfigError("--budget is for glue and retrieval, which train; add one to --suite, or leave --budget out")
    if "retrieval" not in names and options.retrieval != Options.retrieval:
        raise ConfigError("--retrieval says how the retrieval suite trains; add it to --suite, or leave it out")
    models = Models()
    make: dict[str, Callable[[], Suite]] = {
        "losses": lambda: LossesSuite(held_out(), models),
        "stdlib": lambda: StdlibSuite(options, models),
        "glue": lambda: GlueSuite(options, Budget.parse(options.budget, options.setting)),
        "retrieval": lambda: RetrievalSuite(options),
        "generative": lambda: GenerativeSuite(options, models),
        "bias": lambda: BiasSuite(options, models),
    }
    return [make[name]() for name in names]


def require_suites(names: Sequence[str], flag: str) -> None:
    """Raise ConfigError for a suite that does not exist, or whose library is not installed."""
    for name in names:
        if name not in SUITES:
            raise ConfigError(f"{flag} {name}: there is no such suite{suggest(name, list(SUITES))}")
        if name in NEEDS:
            require(*NEEDS[name])


def write_report(folder: Path) -> str:
    """Write tables.md and plots of the results in ``folder``; returns the text, empty when there are no results.

    Checkpoints of a training are curves, in dynamics.md and a plot a suite.
    """
    if not (folder / FILE).exists():
        return ""
    models = read_results(folder)["models"]
    text = "\n".join(tables(models)) + "\n"
    write_atomically(folder / TABLES, text)
    curves = curves_of(models)
    if curves:
        text = dynamics_text(models) + "\n"
        write_atomically(folder / DYNAMICS, text)
        for suite in dict.fromkeys(curve.suite for curve in curves):
            plot_curves([curve for curve in curves if curve.suite == suite], folder / f"dynamics-{suite}.png")
        return text
    for suite, draw in PLOTS.items():
        draw(models, folder / f"{suite}.png")
    return text
