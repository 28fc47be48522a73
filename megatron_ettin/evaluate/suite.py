"""Evaluate some models on one held-out text: losses and demonstrations, each model loaded once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.demos import fill_mask, gap_in, go_on, load_tokenizer
from megatron_ettin.evaluate.losses import HeldOut, as_dict, losses
from megatron_ettin.evaluate.report import Results
from megatron_ettin.evaluate.scorer import Scorer, load_scorer
from megatron_ettin.tokenizer.identity import difference, read_identity


def evaluate(folders: Mapping[str, Path], text: HeldOut, tokenizer_json: Path, beginnings: Sequence[str]) -> Results:
    """Results of all models: name -> folder. Raises DataError for a model of another tokenizer, before any loads."""
    for name, folder in folders.items():
        require_tokenizer(name, Path(folder), tokenizer_json)
    models = {}
    for name, folder in folders.items():
        scorer = load_scorer(folder)
        models[name] = {
            "folder": str(folder),
            "kind": scorer.config.kind,
            "objective": scorer.objective.name,
            "losses": as_dict(losses(text, scorer, name)),
            "demos": demos(scorer, beginnings),
        }
    return {"text": text.facts(), "models": models}


def demos(scorer: Scorer, beginnings: Sequence[str]) -> list[dict[str, object]]:
    """A filled mask and a continuation for each beginning."""
    tokenizer = load_tokenizer(scorer)
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
