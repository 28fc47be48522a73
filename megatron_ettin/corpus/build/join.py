"""Joining corpora: a manifest that names them, and no second copy of their ids.

A joined corpus has the documents, the rows and the fingerprint of the merged one, so that a run may go on with either.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from megatron_ettin.corpus.build.merge import open_parts, require_free, stage_tokenizer
from megatron_ettin.corpus.build.staging import Staging
from megatron_ettin.corpus.format import corpus_prefix, member
from megatron_ettin.corpus.manifest import JoinedPart
from megatron_ettin.corpus.reader import Corpus, open_corpus
from megatron_ettin.corpus.together import joined_tokens, merged_index, whole_manifest
from megatron_ettin.publish import write_atomically


def join_corpora(prefixes: Sequence[str | Path], target: str | Path, *, command: str = "join") -> Corpus:
    """Write a manifest for the documents of several corpora, in order, which stay where they are.

    Reads the indexes of the parts once. A joined corpus among them stands for its parts. Raises DataError when the
    parts do not fit together or the target is there.
    """
    parts = open_parts(prefixes, "join")
    prefix = corpus_prefix(target)
    require_free(prefix)
    tokens = joined_tokens([part.manifest.files[".bin"] for part in parts])
    index = merged_index([part.pairs[0] for part in parts])
    folder, named = os.path.abspath(prefix.parent), []
    for part in parts:
        path = os.path.abspath(part.prefix)
        below = os.path.commonpath([path, folder]) == folder  # what lies there or below is named from there
        named.append(JoinedPart(
            prefix=os.path.relpath(path, folder) if below else path, fingerprint=part.fingerprint,
            documents=part.documents, sequences=part.sequences, tokens=part.tokens,
        ))  # fmt: skip
    manifest = whole_manifest([part.manifest for part in parts], tokens, index, command, tuple(named))
    prefix.parent.mkdir(parents=True, exist_ok=True)
    staging = Staging(prefix, 1, manifest.dtype)
    with staging.owned(command):
        staging.finish_publication()
        staging.discard()
        text = staging.folder / "json"
        write_atomically(text, manifest.to_json())
        staging.publish(stage_tokenizer(parts[0], prefix, staging), {text: member(prefix, ".json")})
        staging.remove()
    return open_corpus(prefix)


