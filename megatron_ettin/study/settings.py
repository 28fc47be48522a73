"""What a study is about, and the run of each of its stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from megatron_ettin.config import rules
from megatron_ettin.config.codec import flatten
from megatron_ettin.config.derived import model_ranks
from megatron_ettin.config.named_run import run_of
from megatron_ettin.config.objective import ObjectiveName
from megatron_ettin.config.run import LayoutConfig, RunConfig, StageName
from megatron_ettin.errors import ConfigError
from megatron_ettin.plans.scale import multiplied

FEWEST_STEPS: dict[StageName, int] = {"pretrain": 200, "extension": 60, "decay": 60, "cross": 60}
"""A stage with fewer steps than this learns little more than word frequencies; rows, then their length, are cut."""

CHECK_ROWS = 4
CHECK_TOKENS_IN_STEPS = 2.2
"""The layout check: rows per step, and its length in full steps; as rows are never quite full, it takes three."""

SHORTEST_ROW = 256
"""Rows are not cut below this."""


@dataclass(frozen=True, kw_only=True)
class StudySettings:
    """A study: one size, one text, one folder."""

    data: str
    """A mixture file (.json) or the prefix of a corpus."""
    run: Path
    """The study's folder: runs, exports, evaluation and report lie in it."""
    size: str = "tiny"
    """tiny, 17m 32m 68m 150m 400m 1b, or a .toml file."""
    variant: str = "paper"
    """paper or released."""
    ranks: int = 2
    """Processes of each training on this machine."""
    tensor: int = 1
    """Ranks that share each matrix."""
    pipeline: int = 1
    """Ranks that share the layers."""
    tokens: int = 0
    """Tokens of pretraining; all stages and warmups shrink in the same proportion. 0: the recipe's."""
    held_out_share: float = 0.02
    """Share of the documents that no stage sees, for the evaluation."""
    rows: int = 64
    """Held-out rows of the evaluation."""
    sample: int = 400
    """Next tokens that every kind is asked for; an encoder needs a pass for each."""
    evaluate: str = ""
    """Suites of `ettin evaluate` that all four are asked, with commas: losses, stdlib, glue, retrieval,
    generative, bias."""
    local: Path | None = None
    """Folder with data of the suites in the hub's columns; default: the hub."""
    limit: int | None = None
    """Most examples of a split in the suites."""
    seeds: int = 1
    """Repetitions of tasks that train, in the suites."""
    budget: Literal["one", "quick", "sweep"] = "one"
    """Of the suite glue: one setting a task, a quick one on few examples, or the published sweep."""
    check_layout: bool = False
    """First show that four ranks (tensor 2 x pipeline 2) take the same three steps as one."""
    launcher: str = ""
    """What starts a training, ahead of `-m megatron_ettin pretrain`; empty: torchrun with `ranks` on this machine."""


def check_run(settings: StudySettings, tensor: int, pipeline: int) -> RunConfig:
    """Three steps of the encoder's pretraining under one layout, without dropout, at full rate from the start."""
    config = replace(stage_run(settings, "mlm", "pretrain"), layout=LayoutConfig(tensor=tensor, pipeline=pipeline))
    rows = min(config.batch.rows, CHECK_ROWS)
    config = replace(
        config,
        model=replace(config.model, output_dropout=0.0),
        batch=replace(config.batch, rows=rows, warmup_tokens=0),
        schedule=replace(config.schedule, tokens=round(CHECK_TOKENS_IN_STEPS * rows * config.data.row_length),
                         warmup_tokens=0),
        compute=replace(config.compute, precision="fp32"),
        observe=replace(config.observe, log_every=1),
    )  # fmt: skip
    rules.check(config, tensor * pipeline)
    return config


def refuse_bad_settings(settings: StudySettings) -> None:
    """Raise ConfigError for a setting that no study can have, or where a stage would be shorter than one row.

    Also for a suite that does not exist or lacks its library.
    """
    for name in ("ranks", "tensor", "pipeline", "rows", "sample", "seeds"):
        if getattr(settings, name) < 1:
            raise ConfigError(f"--{name} {getattr(settings, name)}: use 1 or more")
    if settings.tokens < 0:
        raise ConfigError(f"--tokens {settings.tokens}: use a positive number, or 0 for the recipe's")
    if settings.evaluate:
        from megatron_ettin.evaluate.suites.catalogue import require_suites

        require_suites(suite_names(settings), "--evaluate")
        if settings.limit is not None and settings.limit < 1:
            raise ConfigError(f"--limit {settings.limit}: use 1 or more")
        if settings.local is not None and not settings.local.is_dir():
            raise ConfigError(f"--local {settings.local}: no such folder")
    elif (settings.local, settings.limit, settings.seeds) != (None, None, 1):
        raise ConfigError("--local, --limit and --seeds are settings of suites; name some, such as --evaluate stdlib")
    if settings.budget != "one" and not {"glue", "retrieval"} & set(suite_names(settings)):
        raise ConfigError(f"--budget {settings.budget}: is for glue and retrieval, which train; add one to --evaluate")
    if not 0 < settings.held_out_share < 1:
        raise ConfigError(f"--held-out-share {settings.held_out_share}: use a share between 0 and 1, such as 0.02")
    stages = {stage: run_of(settings.size, "clm", stage, settings.variant).schedule.tokens for stage in FEWEST_STEPS}
    fewest = max(-(-SHORTEST_ROW * stages["pretrain"] // tokens) for tokens in stages.values())
    if 0 < settings.tokens < fewest:
        raise ConfigError(
            f"--tokens {settings.tokens}: the other stages shrink with pretraining, and the shortest would have less "
            f"than a row of {SHORTEST_ROW} tokens; use {fewest:,} or more"
        )


def suite_names(settings: StudySettings) -> list[str]:
    """The suites in order."""
    return [name.strip() for name in settings.evaluate.split(",") if name.strip()]


def stage_run(settings: StudySettings, objective: ObjectiveName, stage: StageName) -> RunConfig:
    """The run of one stage, cut to the study's tokens and ranks. Raises ConfigError when no such run exists."""
    recipe = run_of(settings.size, objective, stage, settings.variant)
    pretraining = run_of(settings.size, objective, "pretrain", settings.variant)
    share = settings.tokens / pretraining.schedule.tokens if settings.tokens else 1.0
    config = replace(
        multiplied(recipe, share),
        data=replace(recipe.data, data=settings.data, held_out_share=settings.held_out_share),
        layout=replace(recipe.layout, tensor=settings.tensor, pipeline=settings.pipeline),
    )
    config = fitted(config, settings.ranks)
    rules.check(config, settings.ranks)
    return config


def refuse_bad_data(settings: StudySettings) -> None:
    """Raise DataError, before any step, for data that is missing, damaged or without text to train on or hold out.

    Builds the row indexes that the first training needs.
    """
    from megatron_ettin.rows.run_data import open_data

    open_data(stage_run(settings, "mlm", "pretrain")).held_out("mlm", rows=1)


def fitted(config: RunConfig, ranks: int) -> RunConfig:
    """The run with rows cut, where the stage is too short for the recipe's batch, to FEWEST_STEPS steps or the most
    that one row a rank allows."""
    length, rows, tokens = config.data.row_length, config.batch.rows, config.schedule.tokens
    steps = FEWEST_STEPS[config.stage]
    if tokens >= steps * rows * length:
        return config
    data_ranks = max(1, ranks // model_ranks(config.layout))
    while length // 2 >= SHORTEST_ROW and tokens < steps * data_ranks * length:
        length //= 2
    rows = max(data_ranks, min(rows, tokens // (steps * length)))
    micro = min(config.layout.micro_batch_rows, rows // data_ranks)
    return replace(
        config,
        data=replace(config.data, row_length=length, piece_length=min(config.data.piece_length, length)),
        batch=replace(config.batch, rows=rows // (data_ranks * micro) * data_ranks * micro, warmup_tokens=0),
        layout=replace(config.layout, micro_batch_rows=micro),
    )


def flags_between(recipe: RunConfig, config: RunConfig) -> list[str]:
    """The flags that turn the recipe's run into ``config``."""
    before = flatten(recipe)
    flags: list[str] = []
    for path, value in flatten(config).items():
        if value == before[path]:
            continue
        section, _, name = path.replace("_", "-").rpartition(".")
        prefix = f"{section}." if section else ""
        if isinstance(value, bool):
            flags.append(f"--{prefix}{name}" if value else f"--{prefix}no-{name}")
        else:
            flags += [f"--{prefix}{name}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return flags
