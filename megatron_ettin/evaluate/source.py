"""Where models and held-out text of an evaluation come from."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from megatron_ettin.config.codec import run_from_dict
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import DataConfig, RunConfig
from megatron_ettin.errors import CheckpointError, ConfigError
from megatron_ettin.evaluate.losses import HeldOut, held_out
from megatron_ettin.evaluate.pieces import masked_pieces, plain_pieces
from megatron_ettin.evaluate.text import token_bytes
from megatron_ettin.export.huggingface import read_folder_config
from megatron_ettin.export.runs import TRAINING_FILE, export_checkpoint
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.run_folder import is_run, parse_source
from megatron_ettin.tokenizer.identity import read_tokenizer

USUAL_ROW = 1_024


@contextlib.contextmanager
def exported(models: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """Name -> Hugging Face folder; runs among the sources are exported to a temporary place for the while."""
    with tempfile.TemporaryDirectory(prefix="ettin-evaluate-") as temporary:
        folders = {}
        for name, source in models.items():
            run, step = parse_source(source)
            if is_run(run):
                folders[name] = _export(run, step, Path(temporary, name))
            elif Path(source).is_dir():
                folders[name] = Path(source)
            else:
                raise CheckpointError(f"{source} is neither a Hugging Face folder nor a run")
        yield folders


def _export(run: Path, step: int | None, target: Path) -> Path:
    from megatron_ettin.checkpoint.load import find

    export_checkpoint(find(run, step), target)
    return target


def text_settings(folder: Path, *, data: str, held_out_share: float, row_length: int, mask_share: float) -> RunConfig:
    """A run that reads the held-out text; what is not given is taken from the training of the model in ``folder``.

    Raises ConfigError when no corpus is named anywhere.
    """
    model = read_folder_config(folder).model
    trained = trained_data(folder)
    if not data and trained is None:
        raise ConfigError(f"{folder} does not say what it was trained on; name a corpus with --data")
    length = row_length or min(USUAL_ROW, model.maximum_length)
    settings = DataConfig(
        data=data or (trained.data if trained else ""),
        row_length=length,
        piece_length=length,
        mask_share=mask_share,
        held_out_share=held_out_share or (trained.held_out_share if trained else DataConfig().held_out_share),
    )
    return replace(recipe("tiny", "mlm", "pretrain"), model=model, data=settings)


def trained_data(folder: Path) -> DataConfig | None:
    """The data settings of the training, from the folder's training.json; None for folders of other makers."""
    path = Path(folder) / TRAINING_FILE
    if not path.exists():
        return None
    try:
        return run_from_dict(json.loads(path.read_text(encoding="utf-8"))["run"]).data
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it and give --data") from error


def held_out_text(settings: RunConfig, rows: int, sample: int) -> tuple[HeldOut, Path]:
    """The held-out text and the tokenizer it was made with. Raises DataError when nothing is held out."""
    stage = open_data(settings)
    masked, plain = masked_pieces(stage.held_out("mlm", rows)), plain_pieces(stage.held_out("clm", rows))
    lengths = token_bytes(read_tokenizer(stage.tokenizer_json))
    return held_out(masked, plain, sample, lengths, stage.special_ids), stage.tokenizer_json
