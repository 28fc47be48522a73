"""Evaluate some models on one held-out text: losses and demonstrations, each model loaded once."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from megatron_ettin.config.codec import run_from_dict
from megatron_ettin.config.objective import OBJECTIVES, kinds_of
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import DataConfig, RunConfig
from megatron_ettin.errors import CheckpointError, ConfigError, DataError
from megatron_ettin.evaluate.demos import fill_mask, gap_in, go_on
from megatron_ettin.evaluate.losses import HeldOut, held_out, losses
from megatron_ettin.evaluate.report import Results
from megatron_ettin.evaluate.scorer import Scorer, load_scorer
from megatron_ettin.evaluate.text import masked_pieces, plain_pieces, token_bytes
from megatron_ettin.export.config_json import kind_of
from megatron_ettin.export.huggingface import read_folder_config
from megatron_ettin.export.runs import TRAINING_FILE, export_checkpoint
from megatron_ettin.plans.chosen import named_run
from megatron_ettin.regular_files import refuse_special_files
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.run_folder import being_trained, is_run
from megatron_ettin.tokenizer.identity import difference, read_identity, read_tokenizer
from megatron_ettin.typed_json import parse_json

USUAL_ROW = 1_024


def named_sources(models: Sequence[str]) -> dict[str, str]:
    """Name -> source; the name of a folder is its own. Raises ConfigError for two of one name."""
    found: dict[str, str] = {}
    for model in models:
        name, mark, source = model.partition("=")
        name, source = (name, source) if mark else (Path(model).name, model)
        if name in found:
            raise ConfigError(f"two models are called {name}; name one: NAME={source}")
        found[name] = source
    return found


@contextlib.contextmanager
def exported(models: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """Name -> Hugging Face folder; runs among the sources are exported to a temporary place for the while.

    A run that trains an encoder and a decoder in one becomes two models, NAME-encoder and NAME-decoder.
    """
    with tempfile.TemporaryDirectory(prefix="ettin-evaluate-") as temporary:
        folders = {}
        for name, source in models.items():
            run, step = named_run(source, print)
            refuse_special_files(run)
            if is_run(run):
                from megatron_ettin.checkpoint.load import find
                from megatron_ettin.checkpoint.standing import stored_run

                if line := being_trained(run):
                    print(line)
                checkpoint = find(run, step)
                objective = OBJECTIVES[stored_run(checkpoint)[1].objective]
                for kind in map(kind_of, kinds_of(objective)):
                    called = f"{name}-{kind}" if objective.mixes else name
                    if objective.mixes and called in models:
                        raise ConfigError(
                            f"two models are called {called}: {models[called]}, and the {kind} of {source}, which "
                            f"trains an encoder and a decoder in one; name one of them: NAME={source}"
                        )
                    folders[called] = Path(temporary, called)
                    export_checkpoint(checkpoint, folders[called], kind=kind)
            elif Path(source).is_dir():
                folders[name] = Path(source)
            else:
                raise CheckpointError(f"{source} is neither a Hugging Face folder nor a run")
        yield folders


def text_settings(folder: Path, *, data: str, held_out_share: float, row_length: int, mask_share: float) -> RunConfig:
    """A run that reads the held-out text; what is not given is taken from the training of the model in ``folder``.

    Raises ConfigError when no corpus is named anywhere.
    """
    model = read_folder_config(folder).model
    trained = trained_data(folder)
    if not data and (trained is None or not trained.data):
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
        content = parse_json(path.read_text(encoding="utf-8"))
        data = run_from_dict(content["run"]).data
        return replace(data, data=str(content.get("data", data.data)))  # not as it was typed in some directory
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged: {error}; remove it and give --data") from error


def held_out_text(settings: RunConfig, rows: int, sample: int) -> tuple[HeldOut, Path]:
    """The held-out text and the tokenizer it was made with. Raises DataError when nothing is held out."""
    data = open_data(settings)
    masked, plain = masked_pieces(data.held_out("mlm", rows)), plain_pieces(data.held_out("clm", rows))
    lengths = token_bytes(read_tokenizer(data.tokenizer_json))
    return held_out(masked, plain, sample, lengths, data.special_ids), data.tokenizer_json


def evaluate(folders: Mapping[str, Path], text: HeldOut, tokenizer_json: Path, beginnings: Sequence[str]) -> Results:
    """Results of all models: name -> folder. Raises DataError for a model of another tokenizer, before any loads."""
    for name, folder in folders.items():
        require_tokenizer(name, Path(folder), tokenizer_json)
    models = {}
    for name, folder in folders.items():
        scorer = load_scorer(folder)
        found = losses(text, scorer.objective, scorer.answer, name)
        models[name] = {
            "folder": str(folder),
            "kind": scorer.config.kind,
            "objective": scorer.objective.name,
            "losses": {question: asdict(loss) for question, loss in found.items()},
            "demos": demos(scorer, beginnings),
        }
    return {"text": text.facts(), "models": models}


def demos(scorer: Scorer, beginnings: Sequence[str]) -> list[dict[str, object]]:
    """A filled mask and a continuation for each beginning."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(scorer.folder, trust_remote_code=False)  # with the template of its kind
    found: list[dict[str, object]] = []
    for beginning in beginnings:
        gap = beginning if "[MASK]" in beginning else gap_in(beginning)
        found.append(asdict(fill_mask(scorer, tokenizer, gap)))
        found.append(asdict(go_on(scorer, tokenizer, beginning.split("[MASK]")[0].rstrip())))
    return found


def require_tokenizer(name: str, folder: Path, tokenizer_json: Path) -> None:
    """Raise DataError unless the folder's tokenizer makes the same ids as the text's."""
    if difference(read_identity(tokenizer_json), read_identity(folder / "tokenizer.json")):
        raise DataError(
            f"{name} ({folder}) has another tokenizer than the text ({tokenizer_json}); "
            "prepare the text with the model's tokenizer.json"
        )
