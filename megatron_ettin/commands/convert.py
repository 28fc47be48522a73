"""``ettin convert SOURCE TARGET``: a run's checkpoints to Hugging Face folders, or a folder to a run."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.heavy_imports import heavy_imports
from megatron_ettin.plans.chosen import named_run
from megatron_ettin.regular_files import refuse_special_files
from megatron_ettin.run_folder import CONFIG, being_trained, is_run, own_run, parse_source


@dataclass(frozen=True, kw_only=True)
class ConvertFlags:
    """Convert between runs and Hugging Face folders; the direction follows from SOURCE.

    SOURCE is RUN or RUN@STEP (its newest checkpoint, or that of a step), PLAN or PLAN/STAGE (the last stage of a plan
    that has a checkpoint, or the one named), or a Hugging Face ModernBERT or Ettin folder (safetensors only; code in it
    is never run). A folder becomes a run that other runs can start from with --from.
    Exports hold parity.json: the logits of transformers are those of the run, or nothing is written.
    """

    source: Annotated[str, tyro.conf.Positional]
    """RUN, RUN@STEP, PLAN, PLAN/STAGE, or a Hugging Face folder."""
    target: Annotated[Path, tyro.conf.Positional]
    """What to write: a Hugging Face folder, with --all a folder of them, or a run folder."""
    all: bool = False
    """Every checkpoint of the run, as TARGET/step1200, TARGET/ext50, TARGET/decay20, TARGET/cross60 by stage."""
    kind: Annotated[Literal["encoder", "decoder"] | None, tyro.conf.arg(name="as")] = None
    """What is exported of a run of objective mixed, which trains both in one: the encoder, whose predictions of a
    [MASK] are read one position before it, or the decoder."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """How tensors are stored."""
    tokenizer: Path | None = None
    """A tokenizer.json, or a folder with one; default: the run's own copy. Another one than the run's is refused."""


def main(arguments: list[str]) -> int:
    """Convert in one direction; status 0 when everything asked for is there."""
    flags = tyro.cli(ConvertFlags, args=arguments, prog="ettin convert")
    folder, _ = parse_source(flags.source)
    refuse_special_files(folder)
    if (folder / CONFIG).is_file() and not is_run(folder):  # a Hugging Face folder has a file of this name too
        return from_huggingface(flags)
    return to_huggingface(flags)


def to_huggingface(flags: ConvertFlags) -> int:
    """One checkpoint, or all."""
    with heavy_imports():
        from megatron_ettin.checkpoint.load import find
        from megatron_ettin.export.parity import import_models
        from megatron_ettin.export.runs import export_all, export_checkpoint

        import_models()

    run, step = named_run(flags.source, print)
    if not run.is_dir():
        raise CheckpointError(f"{run} does not exist; give a run folder or a Hugging Face folder")
    if line := being_trained(run):
        print(line)
    if flags.all:
        if step is not None:
            raise ConfigError(f"--all takes every checkpoint; leave out @{step}")
        for _ in export_all(run, flags.target, flags.dtype, flags.tokenizer, print, flags.kind):
            pass
        return 0
    made = export_checkpoint(find(run, step), flags.target, flags.dtype, flags.tokenizer, print, flags.kind)
    print(f"{flags.target}: {summary(flags.target)}{'' if made else ' (there already)'}")
    return 0


def summary(folder: Path) -> str:
    """What parity.json says, in a line."""
    import json

    parity = json.loads((folder / "parity.json").read_text(encoding="utf-8"))
    worst = max(parity["cases"], key=lambda case: case["largest_difference"])
    return (
        f"logits equal transformers {parity['transformers']} within {worst['largest_difference']:.1e} "
        f"of {worst['largest_logit']:.1f}"
    )


def from_huggingface(flags: ConvertFlags) -> int:
    """A folder as a run."""
    with heavy_imports():
        from megatron_ettin.export.huggingface import open_folder
        from megatron_ettin.train.from_weights import save_weights_as_run

    if flags.all or flags.tokenizer or flags.kind or flags.dtype != "float32":
        raise ConfigError("--all, --as, --dtype and --tokenizer belong to exports; SOURCE is a Hugging Face folder")
    source = Path(flags.source)
    read = open_folder(source)
    with own_run(flags.target, shlex.join(sys.orig_argv)):
        checkpoint = save_weights_as_run(flags.target, read.config.model, read.config.objective, read.tensors, source)
    print(f"{checkpoint.path}: start from it with --from {flags.target}")
    return 0
