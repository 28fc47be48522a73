"""The recipe of the paired models: one function, one row of figures a size, one table of exceptions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megatron_ettin.config.codec import with_fields
from megatron_ettin.config.objective import OBJECTIVES, ObjectiveName
from megatron_ettin.config.run import (
    BatchConfig,
    CheckpointConfig,
    ComputeConfig,
    DataConfig,
    LayoutConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    StageName,
    StartConfig,
    VariantName,
)
from megatron_ettin.config.shapes import SHAPES
from megatron_ettin.errors import ConfigError, suggest

BILLION = 1_000_000_000
STAGES: tuple[StageName, ...] = ("pretrain", "extension", "decay", "cross")
VARIANTS: tuple[VariantName, ...] = ("paper", "released")


@dataclass(frozen=True, kw_only=True)
class SizeRecipe:
    """What the recipe sets per size; the defaults are common to the published sizes."""

    peak_rate: float
    """Learning rate at the top of pretraining; decay and cross start at half of it."""
    weight_decay: float
    """Decoupled weight decay per step at peak rate."""
    rate_warmup_tokens: int
    """Tokens of the learning rate's linear rise in pretraining."""
    batch_warmup_tokens: int
    """Tokens over which the batch grows in pretraining."""
    pretrain_tokens: int = 1_700 * BILLION
    """Length of pretraining."""
    extension_tokens: int = 250 * BILLION
    """Length of the context extension."""
    decay_tokens: int = 50 * BILLION
    """Length of the decay."""
    cross_tokens: int = 50 * BILLION
    """Length of a cross-objective run."""
    cross_warmup_tokens: int = 3 * BILLION
    """Linear rise at its start."""
    cross_fall_tokens: int = 10 * BILLION
    """Linear fall at its end."""
    short_row: int = 1_024
    """Row and piece length of pretraining."""
    long_row: int = 8_192
    """Row length of the later stages."""
    long_piece: int = 7_999
    """Piece length of the later stages."""
    pretrain_rows: int = 2_816
    """Rows per step: 2.88M tokens, within 2 % of the published 2.836M."""
    extension_rows: int = 608
    """Rows per step: 4.98M tokens, within 2 % of the published 4.916M."""
    decay_rows: int = 736
    """Rows per step of decay and cross: 6.03M tokens, within 2 % of the published 6.090M."""
    batch_increment: int = 32
    """Rows by which the batch grows; 1 to 32 data ranks in powers of two share each size evenly."""
    short_micro_batch: int = 4
    """Rows of a micro-batch in pretraining."""
    long_micro_batch: int = 1
    """Rows of a micro-batch later."""
    checkpoint_tokens: int = 8_500_000_000
    """Tokens between the checkpoints that are kept."""
    cross_checkpoint_tokens: int = 10 * BILLION
    """The same in a cross-objective run."""
    held_out_share: float = 0.001
    """Share of the documents that training never sees."""
    precision: str = "bf16"
    """Arithmetic."""


TINY = SizeRecipe(
    peak_rate=3e-3, weight_decay=3e-4, rate_warmup_tokens=100_000, batch_warmup_tokens=100_000,
    pretrain_tokens=2_000_000, extension_tokens=500_000, decay_tokens=250_000,
    cross_tokens=500_000, cross_warmup_tokens=30_000, cross_fall_tokens=100_000,
    short_row=256, long_row=512, long_piece=500, pretrain_rows=32, extension_rows=16, decay_rows=16,
    batch_increment=16, checkpoint_tokens=0, cross_checkpoint_tokens=0, held_out_share=0.02, precision="fp32",
)  # fmt: skip

SIZE_RECIPES: dict[str, SizeRecipe] = {
    size: SizeRecipe(
        peak_rate=rate, weight_decay=decay, rate_warmup_tokens=warmup * BILLION, batch_warmup_tokens=batch * BILLION
    )
    for size, rate, decay, warmup, batch in (
        ("17m", 3e-3, 3e-4, 4, 125),
        ("32m", 3e-3, 3e-4, 4, 100),
        ("68m", 3e-3, 3e-4, 3, 75),
        ("150m", 8e-4, 1e-5, 3, 50),
        ("400m", 5e-4, 1e-5, 2, 10),
        ("1b", 5e-4, 5e-5, 2, 3),
    )
} | {"tiny": TINY}

PRETRAIN_ROPE_BASE = 10_000.0
LONG_ROPE_BASE = 160_000.0
CROSS_SEED = 210


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """One figure in which the published models differ from the paper; empty tuples mean all."""

    sizes: tuple[str, ...] = ()
    objectives: tuple[ObjectiveName, ...] = ()
    stages: tuple[StageName, ...] = ()
    field: str
    """Dotted path in RunConfig."""
    value: int | float
    """What the published models used."""
    reason: str
    """What shows it."""

    def applies(self, config: RunConfig) -> bool:
        """Whether this row speaks of a run."""
        return (
            (not self.sizes or config.model.size in self.sizes)
            and (not self.objectives or config.objective in self.objectives)
            and (not self.stages or config.stage in self.stages)
        )


RELEASED: tuple[Deviation, ...] = (
    Deviation(
        stages=("pretrain",), field="batch.warmup_tokens", value=0,
        reason="the first published tag is step 2,999 and the spacing never changes, so the batch never grew",
    ),
    Deviation(
        objectives=("clm",), field="model.causal_window", value=64,
        reason="the training kernel saw 64 keys to the left and the token itself; Hugging Face's decoder sees 63",
    ),
    Deviation(
        sizes=("17m",), stages=("extension",), field="model.rope_base_local", value=10_000.0,
        reason="the published settings of this size write a local base of 10,000; the others leave it equal",
    ),
    Deviation(
        sizes=("17m", "32m", "68m", "400m"), objectives=("clm",), stages=("decay",),
        field="model.rope_base_local", value=10_000.0,
        reason="the published settings of these decoders reset the local base, as their run names say",
    ),
    Deviation(
        sizes=("1b",), stages=("pretrain",), field="schedule.tokens", value=566_667_000_000,
        reason="the largest size was trained on one third of the tokens",
    ),
    Deviation(
        sizes=("1b",), stages=("extension",), field="schedule.tokens", value=83_333_000_000,
        reason="the largest size was trained on one third of the tokens",
    ),
    Deviation(
        sizes=("1b",), stages=("decay", "cross"), field="schedule.tokens", value=16_667_000_000,
        reason="the largest size was trained on one third of the tokens",
    ),
    Deviation(
        sizes=("1b",), stages=("cross",), field="schedule.warmup_tokens", value=1_000_000_000,
        reason="the published settings scale the rise with the shorter run",
    ),
    Deviation(
        sizes=("1b",), stages=("cross",), field="schedule.decay_tokens", value=3_333_000_000,
        reason="the published settings scale the fall with the shorter run",
    ),
    Deviation(
        sizes=("1b",), stages=("cross",), field="checkpoint.every_tokens", value=3_333_000_000,
        reason="the published settings save five times in the shorter run",
    ),
)  # fmt: skip


def recipe(size: str, objective: str, stage: str, variant: str = "paper") -> RunConfig:
    """The run of a published size (or ``tiny``) at a stage; raises ConfigError for an unknown name."""
    known_name("size", size, list(SHAPES))
    return recipe_of(SHAPES[size], SIZE_RECIPES[size], objective, stage, variant)


def recipe_of(model: ModelConfig, figures: SizeRecipe, objective: str, stage: str, variant: str = "paper") -> RunConfig:
    """The run of any shape at a stage, with the per-size figures given."""
    run = pretraining(
        model,
        figures,
        known_name("objective", objective, list(OBJECTIVES)),  # type: ignore[arg-type]
        known_name("variant", variant, list(VARIANTS)),  # type: ignore[arg-type]
    )
    run = LATER_STAGES[stage](run, figures) if known_name("stage", stage, list(STAGES)) != "pretrain" else run
    if variant == "released":
        run = with_fields(run, {row.field: row.value for row in RELEASED if row.applies(run)})
    return run


def known_name(kind: str, name: str, known: list[str]) -> str:
    """A name that is known, or ConfigError with the nearest one."""
    if name not in known:
        raise ConfigError(f"no {kind} {name!r}{suggest(name, known)}")
    return name


def pretraining(model: ModelConfig, figures: SizeRecipe, objective: ObjectiveName, variant: VariantName) -> RunConfig:
    """Stage 1: short rows, a growing batch, a linear rise and then a constant rate."""
    return RunConfig(
        objective=objective,
        stage="pretrain",
        variant=variant,
        model=replace(model, rope_base_global=PRETRAIN_ROPE_BASE, rope_base_local=PRETRAIN_ROPE_BASE),
        schedule=ScheduleConfig(
            tokens=figures.pretrain_tokens,
            peak_rate=figures.peak_rate,
            shape="warmup_stable",
            warmup_tokens=figures.rate_warmup_tokens,
        ),
        data=DataConfig(
            row_length=figures.short_row, piece_length=figures.short_row, held_out_share=figures.held_out_share
        ),
        batch=BatchConfig(
            rows=figures.pretrain_rows,
            warmup_tokens=figures.batch_warmup_tokens,
            warmup_increment=figures.batch_increment,
        ),
        optimizer=OptimizerConfig(weight_decay=figures.weight_decay),
        layout=LayoutConfig(micro_batch_rows=figures.short_micro_batch),
        compute=ComputeConfig(precision=figures.precision),  # type: ignore[arg-type]
        checkpoint=CheckpointConfig(every_tokens=figures.checkpoint_tokens),
    )


def long_rows(run: RunConfig, figures: SizeRecipe, rows: int) -> RunConfig:
    """What all later stages share: long rows, a constant batch, the larger rotary base."""
    return replace(
        run,
        model=replace(run.model, rope_base_global=LONG_ROPE_BASE, rope_base_local=LONG_ROPE_BASE),
        data=replace(run.data, row_length=figures.long_row, piece_length=figures.long_piece),
        batch=replace(run.batch, rows=rows, warmup_tokens=0),
        layout=replace(run.layout, micro_batch_rows=figures.long_micro_batch),
    )


def extension(run: RunConfig, figures: SizeRecipe) -> RunConfig:
    """Stage 2: the rate falls from the peak to half of it by 1 - sqrt; optimizer state is carried over."""
    return replace(
        long_rows(run, figures, figures.extension_rows),
        stage="extension",
        schedule=ScheduleConfig(
            tokens=figures.extension_tokens, peak_rate=figures.peak_rate, shape="one_minus_sqrt", end_factor=0.5
        ),
        start=StartConfig(carry_optimizer=True),
    )


def decay(run: RunConfig, figures: SizeRecipe) -> RunConfig:
    """Stage 3: from half of the peak to 0.02 of it by 1 - sqrt; fewer tokens are masked."""
    run = long_rows(run, figures, figures.decay_rows)
    return replace(
        run,
        stage="decay",
        schedule=ScheduleConfig(
            tokens=figures.decay_tokens,
            peak_rate=figures.peak_rate / 2,
            shape="one_minus_sqrt",
            end_factor=0.04,
        ),
        data=replace(run.data, mask_share=0.15),
        start=StartConfig(carry_optimizer=True),
    )


def cross(run: RunConfig, figures: SizeRecipe) -> RunConfig:
    """The other objective on a finished model: fresh optimizer and clock, half the peak, linear rise and fall."""
    run = long_rows(run, figures, figures.decay_rows)
    return replace(
        run,
        stage="cross",
        schedule=ScheduleConfig(
            tokens=figures.cross_tokens,
            peak_rate=figures.peak_rate / 2,
            shape="trapezoid",
            warmup_tokens=figures.cross_warmup_tokens,
            decay_tokens=figures.cross_fall_tokens,
            end_factor=0.02,
        ),
        data=replace(run.data, mask_share=0.15),
        checkpoint=replace(run.checkpoint, every_tokens=figures.cross_checkpoint_tokens),
        seed=CROSS_SEED,
    )


LATER_STAGES = {"extension": extension, "decay": decay, "cross": cross}
