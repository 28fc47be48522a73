"""What ``ettin check`` looks at: rules, start, folder, steps and memory of a run, without a device."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_ettin.check.findings import Finding, guarded
from megatron_ettin.checkpoint.standing import foresee
from megatron_ettin.config import rules
from megatron_ettin.config.codec import check_resume
from megatron_ettin.config.compatible import changes, refuse_lost_scales, refuse_other_shape
from megatron_ettin.config.derived import batch_sizes, with_vocabulary, with_world_size
from megatron_ettin.config.freezing import frozen_line
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.overlapping import overlap_line
from megatron_ettin.config.run import RunConfig
from megatron_ettin.config.shapes import every_of
from megatron_ettin.config.sharing import sharing_at
from megatron_ettin.cost.count import parameters
from megatron_ettin.cost.disk import disk
from megatron_ettin.cost.hardware import GIBI
from megatron_ettin.cost.idle import advice, idle
from megatron_ettin.cost.memory import heaviest
from megatron_ettin.cost.placement import layer_placement, timeline
from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.plans.chosen import named_run
from megatron_ettin.progress import format_count
from megatron_ettin.regular_files import refuse_special_files
from megatron_ettin.run_folder import (
    TOKENIZER,
    checkpoints_of,
    free_bytes,
    known_settings,
    list_checkpoints,
    nearest,
    read_config,
    refuse_plan_folder,
    stored_tokenizer,
)
from megatron_ettin.schedule import batch_schedule
from megatron_ettin.tokenizer.identity import WITH_ITS_TOKENIZER, TokenizerIdentity, compare_tokenizers, read_identity
from megatron_ettin.typed_json import parse_json

HUGGINGFACE_NAMES = {
    "layers": "num_hidden_layers", "hidden": "hidden_size", "intermediate": "intermediate_size",
    "heads": "num_attention_heads", "vocabulary": "vocab_size",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is to be checked."""

    config: RunConfig
    run: Path
    world: int | None
    """Ranks, where they are known."""
    deep: bool
    """Read every byte of the corpora, beyond sizes and fingerprints."""
    start: str = ""
    """What it starts from, in words, where that is not there yet."""


def examine(request: Request) -> tuple[RunConfig, list[Finding]]:
    """The resolved run and one finding for each thing looked at; errors do not stop the rest."""
    config = request.config
    found = list(guarded("rules", rule_findings(config, request.world)))
    if any(item.state == "error" for item in found):
        return config, found
    if request.world:
        config = with_world_size(config, request.world)
    vocabulary, tokenizer, about_data = data_findings(config, request.deep)
    found += about_data
    config = with_vocabulary(config, vocabulary)
    found += guarded("steps", step_findings(config))
    if list_checkpoints(request.run):
        found.append(Finding("ok", "start", "a checkpoint of its own"))
    elif request.start:
        found.append(Finding("ok", "start", request.start))
    else:
        found += guarded("start", start_findings(config, tokenizer))
    found += guarded("run", folder_findings(config, request.run, tokenizer))
    if config.model.vocabulary:
        found += guarded("rules", rule_findings(config, request.world, resolved=True))
        found += guarded("memory", memory_findings(config))
        found += guarded("disk", disk_findings(config, request.run))
    return config, found


def rule_findings(config: RunConfig, world: int | None, resolved: bool = False) -> Iterator[Finding]:
    """Every rule of the configuration; once more, silently, when the vocabulary is known."""
    broken = rules.problems(config, world)
    yield from (Finding("error", "rules", message) for message in broken)
    if not broken and not resolved:
        yield Finding("ok", "rules", "every rule is kept" + (f" on {world} ranks" if world else ""))


def data_findings(config: RunConfig, deep: bool) -> tuple[int, TokenizerIdentity | None, list[Finding]]:
    """The vocabulary of the data (of the model where it is wrong), its tokenizer, and what was found about it."""
    if not config.data.data:
        text = "no --data: a mixture file (.json) or the prefix of a corpus"
        return config.model.vocabulary, None, [Finding("open", "data", text)]
    from megatron_ettin.check.data import corpus_findings, remember_findings  # only where there is data: numpy
    from megatron_ettin.corpus.reader import Corpus

    corpora: list[Corpus] = []
    found = list(guarded("data", corpus_findings(config, deep, corpora)))
    tokenizer = corpora[0].tokenizer if corpora else None
    if config.observe.remember:
        found += guarded("remember", remember_findings(config, tokenizer))
    return tokenizer.vocabulary if tokenizer else config.model.vocabulary, tokenizer, found


def step_findings(config: RunConfig) -> Iterator[Finding]:
    """How many steps the stage takes, and how the batch grows."""
    length = config.data.row_length
    plan = batch_schedule(config.batch, length)
    rows = -(-config.schedule.tokens // length)
    text = f"about {plan.steps_of(rows):,} steps for {format_count(config.schedule.tokens)} tokens, "
    sizes = batch_sizes(config.batch)
    if len(sizes) > 1:
        grown = plan.first_steps[-1]
        text += f"{sizes[0]} to {sizes[-1]} rows per step, full from step {grown:,}"
    else:
        text += f"{sizes[0]} rows per step"
    yield Finding("ok", "steps", text)
    if OBJECTIVES[config.objective].mixes:
        text = f"{config.data.causal_share:.1%} are of next tokens, drawn one by one, the others masked"
        yield Finding("ok", "rows", text)
    if config.data.mask_share_end:
        text = f"{config.data.mask_share:.1%} of the tokens at the start, {config.data.mask_share_end:.1%} at the end"
        yield Finding("ok", "masks", text)
    yield from sharing_findings(config)
    saving = config.checkpoint
    periods = [f"{format_count(saving.every_tokens)} tokens"] if saving.every_tokens else []
    periods += [f"{saving.every_steps:,} steps"] if saving.every_steps else []
    periods += [f"{saving.every_minutes:g} minutes"] if saving.every_minutes else []
    yield Finding("ok", "saves", f"every {', every '.join(periods)}, and at the end" if periods else "at the end")


def sharing_findings(config: RunConfig) -> Iterator[Finding]:
    """How several data ranks share a full step, and how much of their time goes without rows."""
    if config.layout.data < 2:
        return
    lost, shared = idle(config), sharing_at(config, config.batch.rows)
    counts = sorted({len(shared.bounds(rank)) for rank in range(shared.ranks)})
    text = f"{' or '.join(map(str, counts))} micro-batches of {shared.size} rows on each of {shared.ranks} data ranks"
    text += f"; without rows {lost.full:.1%} of their time in a full step"
    if config.batch.warmup_tokens:
        text += f", {lost.growing:.1%} while the batch grows"
    text += f", {lost.stage:.1%} in the stage"
    less = advice(config)
    text += f": {less}" if less else ""
    if config.layout.fit_micro_batch:
        text += "; a GPU takes as many rows as it holds and the ranks share evenly"
    yield Finding("ok", "sharing", text)
    yield Finding("ok", "messages", f"on GPUs {overlap_line(config, 'cuda')}")


def start_findings(config: RunConfig, tokenizer: TokenizerIdentity | None = None) -> Iterator[Finding]:
    """Where the weights come from, and whether they belong to the tokenizer of the data, where that is known."""
    begin = config.start
    if begin.from_run:
        yield from_run_finding(config, tokenizer)
    elif begin.huggingface:
        yield from_huggingface_finding(config, tokenizer)
    elif config.stage == "pretrain":
        yield Finding("ok", "start", f"random weights from seed {config.seed}")
    else:
        yield Finding("open", "start", f"no --from: stage {config.stage} goes on from RUN or RUN@step of another stage")


def from_run_finding(config: RunConfig, tokenizer: TokenizerIdentity | None) -> Finding:
    """The run that is continued: its shape, its tokenizer and that it has a checkpoint."""
    chosen_stage: list[str] = []
    folder, step = named_run(config.start.from_run, chosen_stage.append)
    other = read_config(folder)
    refuse_other_shape(config.model, other.model, str(folder))
    if config.stage != "cross" and not config.start.planned and config.objective != other.objective:
        raise CheckpointError(
            f"{folder} was trained on {other.objective}, this run is {config.objective}: stage {config.stage} goes on "
            f"with the same objective; use {other.objective}, or stage cross to change it"
        )
    saved = list_checkpoints(folder)
    if not saved:
        raise CheckpointError(f"{checkpoints_of(folder)}: no checkpoint yet; let that run save one first")
    chosen = [found for found in saved if step in (None, found.step)]
    if not chosen:
        steps = ", ".join(str(found.step) for found in saved)
        raise CheckpointError(f"{checkpoints_of(folder)}: step {step} is not there; steps there: {steps}")
    which = "newest checkpoint" if step is None else "checkpoint"
    text = "".join(f"{line}; " for line in chosen_stage)
    text += f"{folder}: {other.objective} {other.stage}, {which} {chosen[-1].path.name}"
    text += changes(config.model, other.model)
    if tokenizer is not None:
        where = str(chosen[-1].path)
        if said := compare_tokenizers(tokenizer, stored_tokenizer(chosen[-1]), where, WITH_ITS_TOKENIZER):
            text += f"; {said}"
    return Finding("ok", "start", text)


def from_huggingface_finding(config: RunConfig, tokenizer: TokenizerIdentity | None) -> Finding:
    """The Hugging Face folder: its shape, its tokenizer and that its weights are safetensors."""
    folder = Path(config.start.huggingface)
    refuse_special_files(folder)
    try:
        fields = parse_json((folder / "config.json").read_text(encoding="utf-8"))
        shape = {ours: fields[theirs] for ours, theirs in HUGGINGFACE_NAMES.items()}
        groups = fields.get("rope_parameters") or {}  # either generation of transformers has names of its own
        for reach, group in (("global", "full_attention"), ("local", "sliding_attention")):
            base = groups.get(group, {}).get("rope_theta", fields.get(f"{reach}_rope_theta"))
            shape |= {} if base is None else {f"rope_base_{reach}": float(base)}
        shape["global_every"] = fields.get("global_attn_every_n_layers", every_of(fields.get("layer_types")))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder}/config.json: no such file; a run needs the Hugging Face folder that it starts from until it has "
            "saved a checkpoint of its own"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: its config.json is not that of a ModernBERT or Ettin model ({error!r}); give the folder of one"
        ) from error
    theirs = replace(config.model, size=folder.resolve().name, **shape)
    refuse_other_shape(config.model, theirs, str(folder))
    if not list(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder}: no .safetensors file; weights from elsewhere are read from safetensors alone")
    text = f"{folder}: {fields.get('model_type', 'model')}{changes(config.model, theirs)}"
    if tokenizer is not None:
        file = folder / TOKENIZER
        found = read_identity(file) if file.is_file() else None
        if said := compare_tokenizers(tokenizer, found, str(folder if found else file), WITH_ITS_TOKENIZER):
            text += f"; {said}"
    return Finding("ok", "start", text)


def folder_findings(config: RunConfig, run: Path, tokenizer: TokenizerIdentity | None = None) -> Iterator[Finding]:
    """The run folder: free to write, or a run that these settings continue."""
    try:
        stored, found = known_settings(run), foresee(run)
    except OSError as error:
        raise ConfigError(f"--run {run}: cannot be read ({error}); choose another folder") from error
    refuse_plan_folder(run)
    if stored is not None:
        check_resume(stored, with_vocabulary(config, stored.model.vocabulary))
        if (saved := list_checkpoints(run)) and tokenizer is not None:
            remedy = "restore the corpora, or give another --run folder"
            compare_tokenizers(tokenizer, stored_tokenizer(saved[-1]), str(saved[-1].path), remedy)
        whence = f"from step {found.checkpoint.step:,}" if found.checkpoint else "at step 0: nothing has been saved yet"
        if found.checkpoint:
            refuse_lost_scales(config, found.checkpoint.step, str(found.checkpoint.path))
        for checkpoint, reason in found.skipped:
            yield Finding("open", "run", f"{checkpoint.path.name} is damaged and will be set aside: {reason}")
        yield Finding("ok", "run", f"{run}: goes on with the run in it {whence}")
        return
    parent = nearest(run)
    if not os.access(parent, os.W_OK) or not parent.is_dir():
        raise ConfigError(f"--run {run}: cannot write in {parent}; choose a folder that you may write to")
    yield Finding("ok", "run", f"{run}: a fresh run")


def disk_findings(config: RunConfig, run: Path) -> Iterator[Finding]:
    """What the checkpoints of the whole run take, and whether that is free."""
    planned, free = disk(config), free_bytes(run)
    missing = planned.most - len(list_checkpoints(run)) * planned.checkpoint
    text = f"{format_count(planned.most, 'B')} at the end and at the peak: {planned.milestones:,} to keep"
    if planned.for_restart:
        text += f" and the newest {planned.for_restart} saved by the clock"
    elif config.checkpoint.every_minutes:
        text += f", and one more each {config.checkpoint.every_minutes:g} minutes: checkpoint.keep=0 keeps them all"
    text += f"; {format_count(planned.checkpoint, 'B')} each, {format_count(free, 'B')} free"
    if missing > free:
        yield Finding("open", "disk", f"{text}; make room, raise --checkpoint.every-tokens or give --run elsewhere")
    else:
        yield Finding("ok", "disk", text)


def memory_findings(config: RunConfig) -> Iterator[Finding]:
    """Parameters, and bytes of the fullest rank."""
    rank, held = heaviest(config)
    count = parameters(config.model)
    yield Finding("ok", "model", f"{count.total:,} parameters, {config.model.vocabulary:,} of vocabulary")
    if config.optimizer.freeze:
        yield Finding("ok", "frozen", frozen_line(config.model, config.optimizer.freeze))
    if config.layout.pipeline > 1:
        placed = " ".join(map(str, layer_placement(config)))
        yield Finding("ok", "pipeline", f"layers {placed}; {timeline(config).bubble:.1%} of the time waiting")
    yield Finding(
        "ok",
        "memory",
        f"{held.total / GIBI:.2f} GiB on the fullest rank: weights {held.weights / GIBI:.2f}, gradients "
        f"{held.gradients / GIBI:.2f}, optimizer {held.optimizer / GIBI:.2f}, activations "
        f"{held.activations / GIBI:.2f}, logits {held.logits / GIBI:.2f}"
        + (f" (pipeline rank {rank})" if rank else ""),
    )
