"""Every rule that a run must keep, each with what, where and the remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec

from megatron_ettin.config.codec import flatten
from megatron_ettin.config.derived import batch_sizes, model_ranks
from megatron_ettin.config.freezing import problems_of
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import SPECIALS_PER_PIECE, RunConfig
from megatron_ettin.config.shapes import padded_vocabulary, tensor_sizes
from megatron_ettin.config.sharing import FP8_MULTIPLE, along_sequence, sharing_at, widest_window
from megatron_ettin.errors import ConfigError

SHORTEST_PIECE = SPECIALS_PER_PIECE + 1


def check(config: RunConfig, world_size: int | None = None) -> None:
    """Raise ConfigError naming every broken rule at once; ``world_size`` adds the rules of a launched run."""
    found = problems(config, world_size)
    if found:
        raise ConfigError("\n  ".join(found) if len(found) == 1 else "\n  ".join(["several rules are broken:", *found]))


def problems(config: RunConfig, world_size: int | None = None) -> list[str]:
    """One message for each broken rule, in the order of the sections."""
    found = [message for rule in POSITIVE_RULES for message in rule(config)]
    if found:
        return found
    found = [message for rule in RULES for message in rule(config)]
    return found + list(world_rules(config, world_size))


def at_least(config: RunConfig, section: str, low: float, names: str) -> Iterator[str]:
    """Fields that must not be below ``low``."""
    part = getattr(config, section)
    for name in names.split():
        value = getattr(part, name)
        if value < low:
            yield f"{section}.{name}={value} must be {'positive' if low == 1 else f'at least {low}'}"


def share(config: RunConfig, section: str, names: str) -> Iterator[str]:
    """Fields that are shares of a whole."""
    part = getattr(config, section)
    for name in names.split():
        if not 0.0 <= getattr(part, name) <= 1.0:
            yield f"{section}.{name}={getattr(part, name)} must lie between 0 and 1"


def numbers(config: RunConfig) -> Iterator[str]:
    """Counts that must be there before any other rule makes sense."""
    yield from at_least(config, "model", 1, "layers hidden intermediate heads global_every window maximum_length")
    yield from at_least(config, "model", 0, "vocabulary causal_window")
    yield from at_least(config, "data", 1, "row_length piece_length")
    yield from at_least(config, "data", 0, "first_row")
    yield from at_least(config, "data", -1, "stage_number")
    yield from at_least(config, "schedule", 1, "tokens")
    yield from at_least(config, "schedule", 0, "warmup_tokens decay_tokens")
    yield from at_least(config, "batch", 1, "rows warmup_increment")
    yield from at_least(config, "batch", 0, "warmup_tokens")
    yield from at_least(config, "guard", 1, "window after rewind_steps")
    yield from at_least(config, "guard", 1.5, "loss_factor gradient_factor")
    yield from at_least(config, "layout", 1, "tensor pipeline virtual_pipeline context micro_batch_rows")
    yield from at_least(config, "layout", 0, "data")
    yield from at_least(config, "compute", 0, "loss_chunk_bytes threads")
    yield from at_least(config, "checkpoint", 0, "every_tokens every_steps every_minutes keep")
    yield from at_least(config, "observe", 1, "log_every evaluate_rows")
    yield from at_least(config, "observe", 0, "evaluate_every fp8_every hang_minutes")


def shares(config: RunConfig) -> Iterator[str]:
    """Shares, rates and decays."""
    yield from share(config, "data", "mask_share mask_share_end mask_token_share random_token_share held_out_share")
    yield from share(config, "schedule", "end_factor")
    yield from share(config, "model", "output_dropout")
    for name in ("beta1", "beta2"):
        if not 0.0 <= getattr(config.optimizer, name) < 1.0:
            yield f"optimizer.{name}={getattr(config.optimizer, name)} must lie in [0, 1)"
    for section, name in (
        ("optimizer", "epsilon"), ("schedule", "peak_rate"), ("data", "temperature"), ("model", "norm_epsilon"),
        ("model", "initial_std"),
        ("model", "initial_cutoff"), ("model", "rope_base_global"), ("model", "rope_base_local"),
    ):  # fmt: skip
        value = getattr(getattr(config, section), name)
        if not value > 0.0:
            yield f"{section}.{name}={value} must be above 0"
    if not config.optimizer.weight_decay >= 0.0:
        yield f"optimizer.weight_decay={config.optimizer.weight_decay} must not be negative"


def shape(config: RunConfig) -> Iterator[str]:
    """The model by itself."""
    model = config.model
    if model.hidden % model.heads:
        yield f"model.heads={model.heads} does not divide model.hidden={model.hidden}; change one of them"
    elif model.hidden // model.heads % 2:
        yield (
            f"model.hidden / model.heads = {model.hidden // model.heads} must be even, because rotary positions turn "
            "pairs; change one of them"
        )
    if config.data.piece_length > model.maximum_length:
        yield (
            f"data.piece_length={config.data.piece_length} is above model.maximum_length={model.maximum_length}; "
            "lower the one or raise the other"
        )


def rows(config: RunConfig) -> Iterator[str]:
    """Rows, pieces and masks."""
    data = config.data
    if data.row_length < SHORTEST_PIECE:
        yield (
            f"data.row_length={data.row_length} leaves no room for text beside [CLS] and the end position; "
            f"use at least {SHORTEST_PIECE}"
        )
    if data.piece_length < SHORTEST_PIECE:
        yield (
            f"data.piece_length={data.piece_length} leaves no room for text beside [CLS] and the end position; "
            f"use at least {SHORTEST_PIECE}"
        )
    if data.piece_length > data.row_length:
        yield (
            f"data.piece_length={data.piece_length} does not fit into data.row_length={data.row_length}; "
            f"use at most {data.row_length}"
        )
    if OBJECTIVES[config.objective].masked and data.mask_share == 0.0:
        yield (
            f"data.mask_share=0 leaves {config.objective} nothing to predict; use a share above 0 (the recipe: 0.3, "
            "later 0.15)"
        )
    if OBJECTIVES[config.objective].mixes and not 0.0 < data.causal_share < 1.0:
        masked, following = OBJECTIVES[config.objective].row_kinds
        yield (
            f"data.causal_share={data.causal_share} leaves {config.objective} rows of one kind; use a share between 0 "
            f"and 1, or objective {masked} or {following}"
        )
    if data.mask_token_share + data.random_token_share > 1.0 + 1e-9:
        yield (
            f"data.mask_token_share={data.mask_token_share} and data.random_token_share={data.random_token_share} "
            "add up to more than 1; what they leave over stays unchanged"
        )
    if data.held_out_share >= 1.0:
        yield "data.held_out_share=1 leaves nothing to train on; use a small share such as 0.001"


def schedule(config: RunConfig) -> Iterator[str]:
    """The learning rate fits into the stage."""
    plan = config.schedule
    if plan.warmup_tokens + plan.decay_tokens > plan.tokens:
        yield (
            f"schedule.warmup_tokens={plan.warmup_tokens} and schedule.decay_tokens={plan.decay_tokens} do not fit "
            f"into schedule.tokens={plan.tokens}; shorten them or lengthen the stage"
        )
    if plan.shape == "trapezoid" and plan.decay_tokens == 0 and plan.end_factor != 1.0:
        yield f"schedule.end_factor={plan.end_factor} is never reached with schedule.decay_tokens=0; set a fall"
    if config.batch.warmup_tokens > plan.tokens:
        yield (
            f"batch.warmup_tokens={config.batch.warmup_tokens} is longer than schedule.tokens={plan.tokens}; "
            "shorten it (0: constant batch)"
        )


def batch(config: RunConfig) -> Iterator[str]:
    """Growing batches end at the full one."""
    rows, step = config.batch.rows, config.batch.warmup_increment
    if config.batch.warmup_tokens and rows % step:
        below = [value for value in divisors(rows) if value < step][-1:]
        above = [value for value in divisors(rows) if value > step][:1]
        yield f"batch.warmup_increment={step} does not divide batch.rows={rows}; use {listed(below + above)}"


def tensor(config: RunConfig) -> Iterator[str]:
    """Tensor parallelism shares heads, intermediate size and padded vocabulary evenly."""
    size, model = config.layout.tensor, config.model
    parts = (
        ("model.heads", model.heads),
        ("model.intermediate", model.intermediate),
        ("the padded vocabulary", padded_vocabulary(model.vocabulary)),
    )
    for name, value in parts:
        if value % size:
            yield f"layout.tensor={size} does not divide {name}={value}; use {listed(tensor_sizes(model))}"
            return
    if config.layout.sequence_parallel and size == 1:
        yield "layout.sequence_parallel has no effect with layout.tensor=1; leave it off or raise layout.tensor"


def context(config: RunConfig) -> Iterator[str]:
    """Ranks share a micro-batch's tokens evenly, and a window reaches no further than the neighbour."""
    layout = config.layout
    tokens = layout.micro_batch_rows * config.data.row_length
    if layout.tensor in tensor_sizes(config.model) and tokens % (layout.context * layout.tensor):
        fitting = [size for size in divisors(tokens) if size % layout.tensor == 0]
        yield (
            f"layout.context={layout.context} x layout.tensor={layout.tensor} does not divide the {tokens} tokens of a "
            f"micro-batch (layout.micro_batch_rows x data.row_length); use a product of {listed(fitting)}"
            if fitting
            else f"layout.tensor={layout.tensor} does not divide the {tokens} tokens of a micro-batch "
            "(layout.micro_batch_rows x data.row_length); change one of them"
        )
    widest = widest_window(config)
    if layout.context > 1 and tokens // layout.context < widest:
        yield (
            f"layout.context={layout.context} leaves {tokens // layout.context} tokens of a micro-batch to each rank, "
            f"less than the window of {widest}; use at most {max(1, tokens // widest)}"
        )


def pipeline(config: RunConfig) -> Iterator[str]:
    """Every pipeline stage has a layer, and given placements are complete."""
    layout, layers = config.layout, config.model.layers
    stages = layout.pipeline * layout.virtual_pipeline
    if layout.virtual_pipeline > 1 and layout.pipeline == 1:
        yield (
            f"layout.virtual_pipeline={layout.virtual_pipeline} has no effect with layout.pipeline=1; "
            "leave it at 1 or raise layout.pipeline"
        )
    if stages > layers:
        yield (
            f"layout.pipeline={layout.pipeline} x layout.virtual_pipeline={layout.virtual_pipeline} needs {stages} "
            f"layers and model.layers={layers}; use a product of at most {layers}"
        )
    if not layout.pipeline_layers:
        return
    placed = layout.pipeline_layers
    if stages == 1:
        yield "layout.pipeline_layers has no effect with layout.pipeline=1; leave it out or raise layout.pipeline"
    elif len(placed) != stages or sum(placed) != layers or min(placed) < 1:
        yield (
            f"layout.pipeline_layers={list(placed)} must be {stages} counts of at least 1 that add up to "
            f"model.layers={layers}; leave it out for the balanced placement"
        )


def micro_batches(config: RunConfig) -> Iterator[str]:
    """Full steps are cut in whole micro-batches, growing ones in smaller ones; any number of data ranks shares them."""
    rows, size = config.batch.rows, config.layout.micro_batch_rows
    if rows % size:
        yield f"layout.micro_batch_rows={size} does not divide batch.rows={rows}; use {listed(divisors(rows))}"
        return
    for growing in batch_sizes(config.batch):
        try:
            sharing_at(config, growing)
        except ConfigError as error:
            yield str(error)
            return


def freezing(config: RunConfig) -> Iterator[str]:
    """What is frozen exists, and something is left to learn."""
    yield from problems_of(config.model, config.optimizer.freeze)
    if config.optimizer.freeze and config.layout.overlap:
        yield "layout.overlap waits for the gradient of every weight, and optimizer.freeze leaves some out; turn it off"


def checkpoints(config: RunConfig) -> Iterator[str]:
    """One kept checkpoint would leave nothing to fall back to."""
    if config.checkpoint.keep == 1:
        yield "checkpoint.keep=1 leaves nothing to fall back to when the newest is damaged; use 0 (all) or at least 2"


def packages(config: RunConfig) -> Iterator[str]:
    """What is reported to must be installed, on every rank."""
    if config.observe.wandb and find_spec("wandb") is None:
        yield (
            f"observe.wandb={config.observe.wandb!r} needs the wandb package; "
            "pip install 'megatron-ettin[wandb]', or leave the setting out"
        )


def precision(config: RunConfig) -> Iterator[str]:
    """Scaling by earlier steps needs all layers in fp8, and fp8 matrices whole groups of numbers."""
    compute, layout, model = config.compute, config.layout, config.model
    if compute.precision != "fp8":
        return
    tokens = layout.micro_batch_rows * config.data.row_length
    sides = {
        "the tokens of a micro-batch on a rank": along_sequence(layout, tokens),
        "model.hidden / layout.tensor": model.hidden // layout.tensor,
        "model.intermediate / layout.tensor": model.intermediate // layout.tensor,
    }
    for name, value in sides.items():
        if value % FP8_MULTIPLE:
            yield (
                f"compute.precision=fp8 needs {name} = {value} to be a multiple of {FP8_MULTIPLE}; "
                "change the rows, the layout or the model, or use bf16"
            )
    if compute.fp8_recipe == "delayed" and compute.fp8_ends_in_bf16:
        yield (
            "compute.fp8_recipe=delayed keeps one record of scales for all layers and can leave none out; "
            "set compute.fp8_ends_in_bf16=false or use the recipe current or blocks"
        )
    if compute.fp8_kernels == "torch" and compute.fp8_recipe != "current":
        yield (
            f"compute.fp8_kernels=torch scales each tensor by its own numbers, not as compute.fp8_recipe="
            f"{compute.fp8_recipe} does; use the recipe current, or fp8_kernels te"
        )
    if compute.fp8_recipe == "delayed" and config.guard.on_spike == "rewind":
        yield (
            "guard.on_spike=rewind goes back to a checkpoint, and none holds the scales of compute.fp8_recipe=delayed; "
            "use the recipe current or blocks, or guard.on_spike skip or stop"
        )


def start(config: RunConfig) -> Iterator[str]:
    """One origin of the weights."""
    begin = config.start
    if begin.from_run and begin.huggingface:
        yield "start.from_run and start.huggingface name two origins of the weights; give one"
    if begin.huggingface and begin.carry_optimizer:
        yield "start.carry_optimizer needs start.from_run: a Hugging Face folder has no optimizer state; turn it off"
    if begin.from_run and config.stage == "pretrain" and not begin.planned:
        yield (
            "stage pretrain starts fresh or from start.huggingface (--init-from); --from belongs to a later stage, or "
            "to a stage of a plan (start.planned)"
        )


def world_rules(config: RunConfig, world_size: int | None) -> Iterator[str]:
    """The layout fills the world exactly."""
    if world_size is None:
        return
    layout, ranks = config.layout, model_ranks(config.layout)
    product = f"layout.tensor={layout.tensor} x pipeline={layout.pipeline} x context={layout.context}"
    if world_size % ranks:
        yield (
            f"{product} = {ranks} does not divide the world size {world_size}; "
            f"use sizes whose product is one of {listed(divisors(world_size))}"
        )
    elif layout.data and layout.data * ranks != world_size:
        yield (
            f"{product} x data={layout.data} = {layout.data * ranks} is not the world size {world_size}; "
            f"use layout.data={world_size // ranks} or leave it open (0)"
        )
    elif layout.overlap and world_size // ranks * layout.context == 1:
        yield "layout.overlap has no effect without data-parallel ranks; leave it off"


Rule = Callable[[RunConfig], Iterator[str]]
POSITIVE_RULES: tuple[Rule, ...] = (numbers, shares)
RULES: tuple[Rule, ...] = (
    shape, rows, schedule, batch, tensor, context, pipeline, micro_batches, precision, freezing, checkpoints, packages,
    start,
)  # fmt: skip


def divisors(number: int) -> list[int]:
    """All divisors, ascending."""
    return [value for value in range(1, number + 1) if number % value == 0]


def listed(values: list[int]) -> str:
    """'1, 2 or 4'; long lists are shortened in the middle."""
    words = [str(value) for value in (values if len(values) <= 12 else values[:10])]
    if len(values) > 12:
        return ", ".join(words) + f", ... or {values[-1]}"
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + f" or {words[-1]}"


def without_effect(config: RunConfig, base: RunConfig) -> list[str]:
    """Settings changed from ``base`` (the recipe) that do nothing in this run, each with the reason."""
    objective = OBJECTIVES[config.objective]
    dead: dict[str, str] = {}
    if not objective.masked:
        reason = f"objective {config.objective} masks nothing"
        shares = ("mask_share", "mask_share_end", "mask_token_share", "random_token_share")
        dead |= dict.fromkeys((f"data.{name}" for name in shares), reason)
    elif config.data.mask_share_end == config.data.mask_share:
        dead["data.mask_share_end"] = "data.mask_share has the same value from the start"
    if not objective.mixes:
        dead["data.causal_share"] = f"objective {config.objective} has rows of one kind"
        side = "to the left" if objective.causal else "to both sides"
        unused = "model.window" if objective.causal else "model.causal_window"
        dead[unused] = f"objective {config.objective} attends {side}"
    if config.schedule.shape == "one_minus_sqrt":
        dead["schedule.warmup_tokens"] = "schedule.shape=one_minus_sqrt has no rise"
    if config.schedule.shape == "warmup_stable":
        dead["schedule.end_factor"] = "schedule.shape=warmup_stable never falls"
    if config.schedule.shape != "trapezoid":
        dead["schedule.decay_tokens"] = f"schedule.shape={config.schedule.shape} has no separate fall"
    if config.compute.precision != "fp8":
        reason = f"compute.precision={config.compute.precision}"
        fields = ("compute.fp8_recipe", "compute.fp8_ends_in_bf16", "compute.fp8_kernels")
        dead |= dict.fromkeys(fields, reason)
    if config.batch.warmup_tokens == 0:
        dead["batch.warmup_increment"] = "batch.warmup_tokens=0 keeps the batch constant"
    if not config.start.from_run and config.start.carry_optimizer:
        dead["start.carry_optimizer"] = "there is no start.from_run (--from)"
    if not config.start.from_run:
        dead["start.planned"] = "there is no start.from_run (--from)"
    before, after = flatten(base), flatten(config)
    return [f"{path} has no effect: {reason}" for path, reason in dead.items() if before[path] != after[path]]
