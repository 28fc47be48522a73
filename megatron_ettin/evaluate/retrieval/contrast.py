"""Contrastive training by sentence-transformers, as published, from a folder of ``write_untrained``."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from megatron_ettin.errors import CheckpointError, ConfigError, TrainingError, first_line
from megatron_ettin.evaluate.retrieval.settings import SCALE, WARM_UP, ContrastSettings
from megatron_ettin.evaluate.retrieval.triplets import COLUMNS, EXTRA, Triplets
from megatron_ettin.evaluate.scorer import require_numbers
from megatron_ettin.evaluate.suites.optional import library, quiet
from megatron_ettin.progress import Progress

LOGGERS = ("sentence_transformers", "mteb")
EVALUATED_AT_ONCE = 128
CHECKPOINT_FILES = ("trainer_state.json", "optimizer.pt", "scheduler.pt")
"""A checkpoint without one of them was cut off while it was written."""


def load(folder: Path) -> Any:  # noqa: ANN401 - sentence-transformers has no types
    """The embedding model of a folder, in float32, on a GPU where there is one. Raises CheckpointError."""
    quiet(EXTRA, LOGGERS)
    try:
        model = library("sentence_transformers", EXTRA).SentenceTransformer(
            str(folder), device="cuda" if torch.cuda.is_available() else "cpu", trust_remote_code=False,
            local_files_only=True, model_kwargs={"dtype": torch.float32, "use_safetensors": True},
        )  # fmt: skip
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(f"sentence-transformers does not load {folder}: {first_line(error)}") from error
    require_numbers(model, folder)
    return model.eval()


def train(model: Any, triplets: Triplets, settings: ContrastSettings, rate: float, seed: int, work: Path) -> None:  # noqa: ANN401
    """Train ``model`` in place; checkpoints lie in ``work``, and the newest whole one is gone on from.

    The in-batch negatives are those of one device, so that one is used. Raises ConfigError where there are more, and
    TrainingError when the weights are no numbers in the end.
    """
    if torch.cuda.device_count() > 1:
        raise ConfigError(
            "several GPUs would split the batch and change the loss, whose negatives are those of one device; show one "
            "with CUDA_VISIBLE_DEVICES=0, and divide the work by --shard"
        )
    library_ = library("sentence_transformers", EXTRA)
    arguments = library_.SentenceTransformerTrainingArguments(
        output_dir=str(work), num_train_epochs=settings.epochs, per_device_train_batch_size=settings.batch,
        learning_rate=rate, warmup_steps=WARM_UP, lr_scheduler_type="linear", bf16=torch.cuda.is_available(),
        use_cpu=not torch.cuda.is_available(), batch_sampler="no_duplicates_hashed", seed=seed,
        save_strategy="steps", save_steps=settings.checkpoint_steps, save_total_limit=1, eval_strategy="no",
        logging_steps=1, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    loss = library("sentence_transformers.sentence_transformer.losses", EXTRA).CachedMultipleNegativesRankingLoss(
        model, scale=SCALE, mini_batch_size=settings.mini_batch
    )
    trainer = library_.SentenceTransformerTrainer(model=model, args=arguments, train_dataset=triplets.train, loss=loss)
    trainer.remove_callback(library("transformers", EXTRA).PrinterCallback)
    checkpoint = newest_checkpoint(work)
    with Progress("contrastive training", 0, " steps") as progress:
        trainer.add_callback(_told(progress))
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    try:
        require_numbers(model, work)
    except CheckpointError as error:
        raise TrainingError(
            f"training at a rate of {rate} ended in weights that are no numbers; give a lower "
            "--retrieval.learning-rates"
        ) from error


def _told(progress: Progress) -> Any:  # noqa: ANN401 - transformers has no types
    """A callback of the trainer that shows how far it is."""

    class Told(library("transformers", EXTRA).TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, arguments: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ANN401
            progress.total = state.max_steps
            progress.update(state.global_step)

    return Told()


def newest_checkpoint(work: Path) -> Path | None:
    """The newest whole checkpoint in a folder of the trainer; None when there is none."""
    for path in sorted(work.glob("checkpoint-*"), key=lambda path: -int(path.name.partition("-")[2])):
        if all((path / name).is_file() for name in CHECKPOINT_FILES):
            with contextlib.suppress(ValueError):  # cut off
                json.loads((path / CHECKPOINT_FILES[0]).read_text(encoding="utf-8"))
                return path
    return None


def ranked_rightly(model: Any, triplets: Any) -> int:  # noqa: ANN401
    """How many triplets have the query nearer to the positive than to the negative, by cosine."""
    vectors = [
        model.encode(
            list(triplets[column]), batch_size=EVALUATED_AT_ONCE, convert_to_tensor=True, normalize_embeddings=True,
            show_progress_bar=False,
        )
        for column in COLUMNS
    ]  # fmt: skip
    query, positive, negative = vectors
    return int(((query * positive).sum(-1) > (query * negative).sum(-1)).sum())
