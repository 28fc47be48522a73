"""Text to corpus: resolve the inputs, run the native builder, publish the result."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ettin.corpus.build.job import BuildOptions, Job, make_job, make_text_job
from megatron_ettin.corpus.build.publish import is_complete, keep_roles, publish_job
from megatron_ettin.corpus.build.run import run_build
from megatron_ettin.corpus.build.shards import require_same_build
from megatron_ettin.corpus.build.staging import Staging
from megatron_ettin.corpus.format import dtype_for, member
from megatron_ettin.corpus.manifest import Manifest, read_manifest
from megatron_ettin.errors import DataError, file_trouble
from megatron_ettin.sources.files import require_unchanged

if TYPE_CHECKING:
    from megatron_ettin.corpus.reader import Corpus


@dataclass(frozen=True, kw_only=True)
class BuildReport:
    """What a build did."""

    prefixes: tuple[Path, ...]
    """Of the corpora: one a key, in the order of the keys."""
    manifests: tuple[Manifest, ...]
    seconds: float
    resumed_documents: int
    """Documents that an interrupted build had finished before."""
    already_complete: bool
    """The corpus was there, built from the same inputs with the same settings: nothing was done."""
    left_out: dict[str, tuple[str, ...]]
    """By reason: what folders and globs hold and is not read."""
    uncut: tuple[str, ...]
    """Files in this shard that hold more than two shards should, and can be cut nowhere."""

    @cached_property
    def corpora(self) -> tuple[Corpus, ...]:
        """The corpora, opened when they are asked for."""
        from megatron_ettin.corpus.reader import open_corpus

        return tuple(open_corpus(prefix) for prefix in self.prefixes)

    @property
    def corpus(self) -> Corpus:
        """The corpus of the first key."""
        return self.corpora[0]


def build_corpus(
    inputs: str | Path | Sequence[str | Path],
    prefix: str | Path,
    tokenizer: str | Path,
    options: BuildOptions | None = None,
    *,
    command: str | None = None,
) -> BuildReport:
    """Build ``PREFIX.bin``, ``PREFIX.idx`` and ``PREFIX.json`` from text.

    ``inputs`` are files, globs or folders, here or as addresses (``hf://datasets/...``, ``s3://``, ``gs://``,
    ``https://``); ``tokenizer`` a tokenizer.json or a folder with one. An interrupted build resumes when it is called
    again with the same arguments, and ends with the same bytes. Raises DataError and ConfigError, whose messages say
    what to do.
    """
    options = options or BuildOptions()
    names = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    return _build(make_job(names, prefix, tokenizer, options, command or shlex.join(sys.argv)))


def build_from_texts(
    texts: Iterable[str],
    prefix: str | Path,
    tokenizer: str | Path,
    options: BuildOptions | None = None,
    *,
    origin: str,
    command: str | None = None,
) -> BuildReport:
    """``build_corpus`` from texts as a program makes them, one document each; with ``shard`` they are those of part i.

    ``origin`` stands in the manifest where the name of an input file would. What is there under the prefix is replaced,
    and an interrupted build starts again: the same texts give the same bytes. Raises DataError and ConfigError.
    """
    options = replace(options or BuildOptions(), overwrite=True, restart=True)
    return _build(make_text_job(origin, prefix, tokenizer, options, command or shlex.join(sys.argv)), texts)


def _build(job: Job, texts: Iterable[str] | None = None) -> BuildReport:
    """Run a job, from its input files or from ``texts``, and publish what it makes."""
    begun = time.monotonic()
    require_same_build(job)
    staging = Staging(job.prefix, len(job.targets), dtype_for(job.tokenizer.vocabulary_size))
    try:
        job.prefix.parent.mkdir(parents=True, exist_ok=True)
        with staging.owned(job.command):
            staging.finish_publication()
            resumed = 0
            if not (complete := is_complete(job)):
                staging.begin(job.identity, restart=job.options.restart)
                state = staging.last_whole_state()
                staging.truncate(state)
                run_build(job, staging, state, texts)
                if texts is None:
                    require_unchanged(job.sources)
                publish_job(job, staging)
                resumed = state.documents if state else 0
            else:
                keep_roles(job)
            staging.remove()
    except OSError as error:
        raise DataError(f"{file_trouble(error)}{'; what is built is kept' if texts is None else ''}") from error
    return BuildReport(
        prefixes=job.targets,
        manifests=tuple(read_manifest(member(target, ".json")) for target in job.targets),
        seconds=time.monotonic() - begun,
        resumed_documents=resumed,
        already_complete=complete,
        left_out=job.left_out,
        uncut=job.uncut,
    )
