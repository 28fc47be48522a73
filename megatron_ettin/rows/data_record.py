"""What a run reads, written into its folder, so that a changed corpus is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from megatron_ettin.errors import DataError
from megatron_ettin.publish import write_atomically
from megatron_ettin.rows.run_data import RunData
from megatron_ettin.run_folder import DATA_RECORD, keep_tokenizer
from megatron_ettin.tokenizer.identity import TokenizerIdentity, compare_tokenizers
from megatron_ettin.typed_json import parse_json


def data_facts(run_data: RunData) -> dict[str, Any]:
    """The data of a run as facts: the mixture, and each source with its corpus and its part of the pool."""
    sources = [
        {
            "name": source.name,
            "prefix": os.path.abspath(mixture_source.prefix),
            "corpus": corpus.fingerprint,
            "rows": source.rows,
            "pool_rows": source.pool_rows,
        }
        for source, mixture_source, corpus in zip(
            run_data.pool.sources, run_data.mixture.sources, run_data.corpora, strict=True
        )
    ]
    data = os.path.abspath(run_data.config.data.data)
    return {"data": data, "fingerprint": run_data.fingerprint, "pool_rows": run_data.pool_rows, "sources": sources}


def record_data(run_data: RunData, run: Path) -> None:
    """Write ``order/data.json`` and keep the tokenizer at the first start of a run; later compare. One rank calls this.

    Raises DataError naming the source that is not what it was, or what differs in the tokenizer.
    """
    path = Path(run) / DATA_RECORD
    found, ours = data_facts(run_data), run_data.vocabulary.tokenizer
    record = read_data_record(run) if path.exists() else found
    if record is not found:
        refuse_changed_data(record, found, path)
        if theirs := TokenizerIdentity.from_record(record.get("tokenizer")):
            compare_tokenizers(ours, theirs, str(path), "restore the corpora, or give another --run folder")
    if "tokenizer" not in record or record is found:
        write_atomically(path, json.dumps(record | {"tokenizer": ours.to_dict()}, indent=1) + "\n")
    keep_tokenizer(run, run_data.tokenizer_json)


def read_data_record(run: Path) -> dict[str, Any]:
    """The content of ``order/data.json``. Raises DataError when it is damaged."""
    path = Path(run) / DATA_RECORD
    try:
        record = parse_json(path.read_bytes())
        if isinstance(record["sources"], list) and isinstance(record["fingerprint"], str):
            return dict(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); restore it, or give another --run folder") from error
    raise DataError(f"{path}: is not the record of a run's data; restore it, or give another --run folder")


def refuse_changed_data(before: dict[str, Any], now: dict[str, Any], where: Path) -> None:
    """Raise DataError, naming the source and what changed, unless both records read the same rows."""
    if before["fingerprint"] == now["fingerprint"]:
        return
    raise DataError(
        f"{where}: this run began on other data: {_difference(before['sources'], now['sources'])}; restore it, or give "
        "another --run folder"
    )


def _difference(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> str:
    names = [source["name"] for source in before], [source["name"] for source in now]
    if names[0] != names[1]:
        return f"the sources were {', '.join(names[0])} and are {', '.join(names[1])}"
    for old, new in zip(before, now, strict=True):
        if old["corpus"] != new["corpus"]:
            return f"the corpus of source {old['name']!r} ({new['prefix']}) has changed"
        if (old["rows"], old["pool_rows"]) != (new["rows"], new["pool_rows"]):
            return f"source {old['name']!r} gave {old['pool_rows']} rows and gives {new['pool_rows']}"
    return "row length, pieces, seed, stage or batch sizes differ"
