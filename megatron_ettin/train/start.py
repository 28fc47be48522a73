"""Where a run's weights and state come from: its own checkpoint, another stage, a Hugging Face folder, or chance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from megatron_ettin.checkpoint.load import find, find_newest
from megatron_ettin.checkpoint.standing import Found, refuse_to_begin_again, stored_run
from megatron_ettin.checkpoint.state import TrainState
from megatron_ettin.config.compatible import refuse_lost_scales, refuse_other_shape, start_line
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.errors import CheckpointError, DamagedError
from megatron_ettin.model.canonical import canonical_parameters, load_full_state
from megatron_ettin.parallel.together import on_first
from megatron_ettin.plans.chosen import named_run
from megatron_ettin.run_folder import TOKENIZER, Checkpoint, read_numbers, set_aside, stored_tokenizer
from megatron_ettin.tokenizer.identity import WITH_ITS_TOKENIZER, TokenizerIdentity, compare_tokenizers, read_identity
from megatron_ettin.train.parts import Parts
from megatron_ettin.train.store import DROPOUT, load_run

Say = Callable[[str], None]
ReadHuggingFace = Callable[[Path], tuple[ModelConfig, Mapping[str, Tensor]]]
"""Reads a Hugging Face folder: its shape, and its tensors by canonical name."""


def start(
    parts: Parts,
    run: Path,
    data_fingerprint: str,
    tokenizer: TokenizerIdentity,
    read_huggingface: ReadHuggingFace,
    say: Say,
) -> TrainState:
    """Fill the parts and return the state to go on from. Every rank calls this.

    The run's own newest whole checkpoint wins; a run that never saved begins from ``config.start``. Raises
    CheckpointError when checkpoints cannot be read, or were saved and none is whole, and DataError when the weights
    were trained with another tokenizer than that of the data.
    """
    found = find_newest(run)
    while found.checkpoint is not None:
        report_skipped(found, say)
        try:
            state = resume(parts, found.checkpoint, data_fingerprint, tokenizer, say)
        except DamagedError as error:  # whole as to its bytes, but not a checkpoint: the one before is next
            report_skipped(Found(checkpoint=None, skipped=((found.checkpoint, str(error)),)), say)
            found = find_newest(run)
        else:
            say(f"resuming {run} from step {state.step}, {state.tokens:,} tokens")
            return state
    on_first(lambda: refuse_to_begin_again(run, found))
    return begin(parts, tokenizer, read_huggingface, say)


def report_skipped(found: Found, say: Say) -> None:
    """Say which checkpoints are not whole and why, and move them aside so that their steps can be saved again."""
    for checkpoint, reason in found.skipped:
        target = on_first(lambda damaged=checkpoint: set_aside(damaged))  # type: ignore[misc]
        say(f"skipping {checkpoint.path.name}: {reason} (kept as {target.name})")


def resume(
    parts: Parts, checkpoint: Checkpoint, data_fingerprint: str, tokenizer: TokenizerIdentity, say: Say
) -> TrainState:
    """Go on from the run's own checkpoint.

    Raises DamagedError when it is none, CheckpointError when the data is not what it was or it cannot be loaded.
    """
    before, _ = stored_run(checkpoint)
    refuse_lost_scales(parts.config, before.step, str(checkpoint.path))
    numbers = read_numbers(checkpoint)
    stored, theirs = numbers.get("data"), TokenizerIdentity.from_record(numbers.get("tokenizer"))
    if stored != data_fingerprint:
        raise CheckpointError(
            f"{checkpoint.path} was trained on other data (fingerprint {stored}, now {data_fingerprint}); "
            "restore the corpora and the mixture file, or give another --run folder"
        )
    compare_tokenizers(tokenizer, theirs, str(checkpoint.path), "restore the corpora, or give another --run folder")
    state = load_run(parts, checkpoint)
    if parts.config.model.output_dropout and numbers.get("dropout") != DROPOUT:
        say(
            f"{checkpoint.path.name} was written when the bits of dropout were functions of the micro-batch; from here "
            "on they are functions of the row of the step, so that losses differ from those of that version"
        )
    return replace(state, finished=state.tokens >= parts.config.schedule.tokens)


def begin(parts: Parts, tokenizer: TokenizerIdentity, read_huggingface: ReadHuggingFace, say: Say) -> TrainState:
    """The state of a fresh run, with weights from where ``config.start`` says."""
    origin = parts.config.start
    if origin.from_run:
        return begin_from_run(parts, origin.from_run, tokenizer, carry=origin.carry_optimizer, say=say)
    if origin.huggingface:
        file = Path(origin.huggingface, TOKENIZER)
        say_compared(tokenizer, lambda: read_identity(file) if file.is_file() else None, origin.huggingface, say)
        shape, tensors = read_huggingface(Path(origin.huggingface))
        refuse_other_shape(parts.config.model, shape, origin.huggingface)
        take_weights(parts, tensors)
        causal = OBJECTIVES[parts.config.objective].causal
        facts = start_line(parts.config.model, shape, causal=causal)
        say(f"starting from the weights in {origin.huggingface}: {facts}")
    return TrainState()


@torch.no_grad()
def take_weights(parts: Parts, tensors: Mapping[str, Tensor]) -> None:
    """Set the weights, and the main weights without rounding them to the precision of the run. Raises CheckpointError.

    ``tensors``: whole float32 tensors by canonical name.
    """
    load_full_state([chunk.module for chunk in parts.chunks], parts.groups, tensors)
    rank, ranks, heads = parts.groups.tensor.rank, parts.groups.tensor.size, parts.config.model.heads
    for entry in canonical_parameters(list(parts.chunks)):
        local = torch.empty_like(entry.parameter, dtype=torch.float32)
        entry.take(tensors[entry.name], rank, ranks, heads, into=local)
        parts.optimizer.take_main_weight(entry.parameter, local)


def say_compared(
    ours: TokenizerIdentity, theirs: Callable[[], TokenizerIdentity | None], where: str, say: Say
) -> None:
    """Raise DataError on every rank for weights of another tokenizer; say it where only sizes were compared."""
    if said := on_first(lambda: compare_tokenizers(ours, theirs(), where, WITH_ITS_TOKENIZER)):
        say(said)


def begin_from_run(
    parts: Parts, source: str, tokenizer: TokenizerIdentity, *, carry: bool, say: Say
) -> TrainState:
    """A new stage with the weights, and with ``carry`` the optimizer's state, of another run.

    Raises CheckpointError when that run is not finished, or a stage other than cross would change the objective.
    """
    folder, step = named_run(source, say)
    checkpoint = find(folder, step)
    before, theirs = stored_run(checkpoint)
    if step is None and not before.finished:
        raise CheckpointError(
            f"{folder} is not finished: it stopped at step {before.step}; let it end, or name the checkpoint: "
            f"--from {folder}@{before.step}"
        )
    ours = parts.config
    if ours.stage != "cross" and not ours.start.planned and ours.objective != theirs.objective:
        raise CheckpointError(
            f"{checkpoint.path} was trained on {theirs.objective}, this run is {ours.objective}: stage {ours.stage} "
            f"goes on with the same objective; use {theirs.objective}, or stage cross to change it"
        )
    say_compared(tokenizer, lambda: stored_tokenizer(checkpoint), str(checkpoint.path), say)
    before = load_run(parts, checkpoint, moments=carry)
    facts = start_line(ours.model, theirs.model, causal=OBJECTIVES[ours.objective].causal)
    say(f"starting from {checkpoint.path}: weights{' and optimizer' if carry else ''}; {facts}")
    return TrainState(updates=before.updates)
