"""``ettin vocabulary``: a model with another vocabulary, published with a report and the proof of its logits."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from megatron_ettin.derive.matching import Matches, Vocabulary, match
from megatron_ettin.derive.rows import Reworded
from megatron_ettin.derive.sources import Source, open_source
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.export.huggingface import StoredType
from megatron_ettin.export.mapping import Kind
from megatron_ettin.export.published import publish_export
from megatron_ettin.export.runs import TRAINING_FILE
from megatron_ettin.export.tokenizer_files import special_ids
from megatron_ettin.run_folder import TOKENIZER
from megatron_ettin.tokenizer.fewer_tokens import count_tokens, with_fewer_tokens
from megatron_ettin.tokenizer.identity import TokenizerIdentity, read_identity, read_tokenizer, vocabulary_of
from megatron_ettin.tokenizer.more_tokens import UNUSED, read_tokens, with_tokens
from megatron_ettin.tokenizer.tokenizer import Tokenizer
from megatron_ettin.tokenizer.train import read_texts, text_files

VOCABULARY_FILE = "vocabulary.json"
"""In a folder with another vocabulary: what has become of the tokens."""
CHARACTERS = 1_000_000_000
"""Most that is read of a text."""
Change = Literal["extend", "replace", "trim"]


@dataclass(frozen=True, kw_only=True)
class VocabularySettings:
    """What is made of which model."""

    change: Change
    model: str
    """RUN, PLAN or PLAN/STAGE, also with @STEP, a Hugging Face folder or a hub name."""
    output: Path
    tokenizer: Path | None = None
    """The new tokenizer.json, or a folder with one."""
    tokens: Path | None = None
    """extend: further tokens, one a line."""
    unused: bool = False
    """extend: further tokens take the ids of [unusedN] first."""
    data: tuple[str, ...] = ()
    """trim: texts whose tokens stay."""
    keep: int = 0
    """trim: the most frequent tokens of the texts, so many in all; 0: all that occur."""
    sample: tuple[str, ...] = ()
    """Texts whose tokens a byte are reported."""
    kind: Kind | None = None
    """Which model is meant of a run that trains an encoder and a decoder in one."""
    json_key: str = "text"
    dtype: StoredType = "float32"

    def refuse_contradictions(self) -> None:
        """Raise ConfigError for settings that contradict one another or have no effect."""
        instead = {"extend": ("tokens", "--tokens"), "trim": ("data", "--data")}.get(self.change)
        given = [self.tokenizer is not None, *([bool(getattr(self, instead[0]))] if instead else [])]
        if sum(given) != 1:
            choices = "--tokenizer" + (f" or {instead[1]}, one of the two" if instead else "")
            raise ConfigError(f"ettin vocabulary {self.change} needs {choices}")
        if self.unused and not self.tokens:
            raise ConfigError("--unused says where the tokens of --tokens go; it has no effect on --tokenizer")
        if self.keep and not self.data:
            raise ConfigError("--keep counts tokens of --data; it has no effect on --tokenizer")
        if self.keep < 0:
            raise ConfigError(f"--keep {self.keep}: give a number of tokens")
        if self.output.exists():
            raise ConfigError(f"{self.output} exists already and is never overwritten; choose another folder")


def change_vocabulary(settings: VocabularySettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Publish the model with its new vocabulary as ``settings.output``; returns the report that is kept there.

    Raises DataError for a tokenizer that does not fit the change or shares no token with the model, CheckpointError for
    a damaged model; nothing is published then.
    """
    source = open_source(settings.model, say, settings.kind)
    old_file = source.export.tokenizer_json
    content = read_tokenizer(old_file)
    roles = special_ids(content, old_file, source.export.special_ids or source.tokenizer.special_ids)
    old = Vocabulary(name=settings.model, content=content, roles=roles)
    with new_tokenizer(settings, old, old_file) as path:
        read = read_tokenizer(path)
        if settings.tokenizer:
            roles = special_ids(read, path)
        else:  # it is made of the model's own: the same tokens have the roles
            ids = vocabulary_of(read)
            roles = {role: ids[old.tokens[number]] for role, number in old.roles.items()}
        new = Vocabulary(name=str(settings.tokenizer or path), content=read, roles=roles)
        matches = match(old, new)
        refuse_misfit(settings.change, old, new, matches)
        report = described_change(settings, source, old, new, matches)
        if settings.sample:
            report["sample"] = sampled(settings, old_file, path)
        export = replace(
            source.export,
            model=replace(source.export.model, vocabulary=matches.size, size=source.size or settings.output.name),
            tensors=Reworded(source.export.tensors, matches, frozenset(old.tokens)),
            tokenizer_json=path,
            special_ids=new.roles,
            dtype=settings.dtype,
            origin={"made from": settings.model, "vocabulary": summary(report)},
        )
        identity = replace(read_identity(path), special_ids=dict(roles))
        records = {VOCABULARY_FILE: report, **trained(source, identity, matches.size)}
        publish_export(settings.output, export, records)
    return report


@contextlib.contextmanager
def new_tokenizer(settings: VocabularySettings, old: Vocabulary, old_file: Path) -> Iterator[Path]:
    """The file of the new tokenizer; one that is made of the model's own is there for the while."""
    if settings.tokenizer is not None:
        yield settings.tokenizer / TOKENIZER if settings.tokenizer.is_dir() else settings.tokenizer
        return
    if settings.tokens:
        made = with_tokens(old.content, read_tokens(settings.tokens), settings.model, unused=settings.unused)
    else:
        texts = read_texts(text_files(settings.data), settings.json_key, CHARACTERS)
        counts = count_tokens(any_tokenizer(old_file), texts)
        made = with_fewer_tokens(old.content, counts, settings.keep, settings.model)
    with tempfile.TemporaryDirectory(prefix="ettin-vocabulary-") as temporary:
        path = Path(temporary, TOKENIZER)
        path.write_text(json.dumps(made, ensure_ascii=False), encoding="utf-8")
        yield path


def any_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer by the native engine, or by `tokenizers` where that one cannot be exact. Raises DataError."""
    try:
        return Tokenizer.from_file(path)
    except DataError:
        return Tokenizer.from_file(path, engine="huggingface")


def refuse_misfit(change: Change, old: Vocabulary, new: Vocabulary, matches: Matches) -> None:
    """Raise DataError where an extended vocabulary lacks tokens, or a trimmed one has some of its own."""
    lost = [number for number in sorted(matches.dropped) if not UNUSED.fullmatch(old.tokens[number])]
    if change == "extend" and lost:
        raise DataError(
            f"{new.name} lacks {len(lost):,} tokens of {old.name}, first {old.tokens[lost[0]]!r}: it is no extension; "
            "use `ettin vocabulary replace`"
        )
    if change == "trim" and matches.pieces:
        first = new.tokens[min(matches.pieces)]
        raise DataError(
            f"{new.name} has {len(matches.pieces):,} tokens that {old.name} has not, first {first!r}: it is no part of "
            "its vocabulary; use `ettin vocabulary replace`"
        )


def described_change(
    settings: VocabularySettings, source: Source, old: Vocabulary, new: Vocabulary, matches: Matches
) -> dict[str, Any]:
    """The content of vocabulary.json, without the sample."""
    lengths = [len(ids) for ids in matches.pieces.values() if ids]
    return {
        "change": settings.change,
        **source.facts(),
        "tokens_before": len(old.tokens),
        "tokens_after": len(new.tokens),
        "shared": len(matches.unchanged),
        "with_the_same_id": sum(new == old for new, old in matches.unchanged.items()),
        "new": len(matches.pieces),
        "pieces_of_a_new_token": sum(lengths) / len(lengths) if lengths else None,
        "without_pieces": len(matches.pieces) - len(lengths),
        "dropped": len(matches.dropped),
    }


def sampled(settings: VocabularySettings, old_file: Path, new_file: Path) -> dict[str, Any]:
    """Tokens a byte of the sample, before and after. Raises DataError for a sample without text."""
    texts = list(read_texts(text_files(settings.sample), settings.json_key, CHARACTERS))
    size = sum(len(text.encode()) for text in texts)
    if not size:
        raise DataError(f"{' '.join(settings.sample)}: the sample holds no text; give some, or leave --sample out")
    before, after = (len(any_tokenizer(path).encode_batch(texts)[0]) for path in (old_file, new_file))
    return {"bytes": size, "tokens_a_byte_before": before / size, "tokens_a_byte_after": after / size}


def summary(report: Mapping[str, Any]) -> str:
    """What has become of the tokens, in a line."""
    counts = ", ".join(f"{report[name]:,} {name}" for name in ("shared", "new", "dropped"))
    return f"{report['tokens_before']:,} -> {report['tokens_after']:,} tokens ({counts})"


def trained(source: Source, tokenizer: TokenizerIdentity, vocabulary: int) -> dict[str, dict[str, Any]]:
    """The training.json of the new folder: the same training, whose corpora are in the tokens of before."""
    if not source.training:
        return {}
    run = source.training["run"]
    run = run | {"model": run["model"] | {"vocabulary": vocabulary}, "data": run["data"] | {"data": ""}}
    kept = {name: value for name, value in source.training.items() if name not in ("checkpoint", "data")}
    changed = {"run": run, "revision": "vocabulary", "tokenizer": tokenizer.to_dict()}
    return {TRAINING_FILE: kept | changed}
