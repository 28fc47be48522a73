"""Text to corpus: resolve the inputs, run the native builder, publish the result."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_ettin.corpus.build.job import Job, megatron_prefix
from megatron_ettin.corpus.build.options import BuildOptions
from megatron_ettin.corpus.build.publish import is_complete, publish_job
from megatron_ettin.corpus.build.run import run_build
from megatron_ettin.corpus.build.staging import Staging
from megatron_ettin.corpus.format import dtype_for
from megatron_ettin.corpus.manifest import Manifest, read_manifest
from megatron_ettin.corpus.names import corpus_prefix, member
from megatron_ettin.errors import ConfigError, DataError, file_trouble
from megatron_ettin.sources.files import Source, find_inputs, make_sources, shard_of
from megatron_ettin.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from megatron_ettin.corpus.reader import Corpus

DEFAULT_EOD = "<|endoftext|>"


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
    ignored: tuple[Path, ...]
    """Files in folders whose names say no format."""

    @cached_property
    def corpora(self) -> tuple[Corpus, ...]:
        """The corpora, opened when they are asked for."""
        from megatron_ettin.corpus.reader import open_corpus

        return tuple(open_corpus(prefix) for prefix in self.prefixes)

    @property
    def corpus(self) -> Corpus:
        """The corpus of the first key."""
        return self.corpora[0]


def shard_prefix(prefix: Path, shard: tuple[int, int] | None) -> Path:
    """Where a shard goes: PREFIX-00003-of-00016."""
    return prefix if shard is None else prefix.with_name(f"{prefix.name}-{shard[0]:05d}-of-{shard[1]:05d}")


def target_prefixes(prefix: Path, options: BuildOptions) -> tuple[Path, ...]:
    """Where the corpora go: PREFIX for one key; PREFIX_KEY_document, as in Megatron-LM, for several."""
    if len(options.keys) == 1:
        return (prefix,)
    return tuple(megatron_prefix(prefix, key, options.level) for key in options.keys)


def find_eod(tokenizer_path: Path, tokenizer: Tokenizer, options: BuildOptions) -> int | None:
    """Id to append to documents, or None. Raises ConfigError when the tokenizer has no such token."""
    if not options.append_eod:
        return None
    name = options.eod_token or _eos_of_folder(tokenizer_path) or DEFAULT_EOD
    found = tokenizer.find_token(name)
    if found < 0:
        raise ConfigError(f"{tokenizer_path}: has no token {name!r} to end documents with; name one by --eod-token")
    return found


def _eos_of_folder(path: Path) -> str | None:
    config = path / "tokenizer_config.json"
    if not path.is_dir() or not config.is_file():
        return None
    content = json.loads(config.read_bytes())
    token = content.get("eos_token") if isinstance(content, dict) else None
    name = token.get("content") if isinstance(token, dict) else token
    return name if isinstance(name, str) else None


def make_job(
    inputs: Sequence[str | Path], prefix: str | Path, tokenizer: str | Path, options: BuildOptions, command: str
) -> Job:
    """Resolve inputs, tokenizer and names. Raises DataError or ConfigError."""
    found = find_inputs(inputs, options.input_format)
    sources = make_sources(found.files)
    if options.shard is not None:
        sources = shard_of(sources, *options.shard)
    for source in sources:
        _check_source(source, options)
    loaded = Tokenizer.from_file(tokenizer, options.specials_in_text, options.engine)
    base = shard_prefix(corpus_prefix(prefix), options.shard)
    return Job(
        prefix=base,
        targets=target_prefixes(base, options),
        sources=tuple(sources),
        tokenizer=loaded,
        eod=find_eod(Path(tokenizer), loaded, options),
        options=options,
        command=command,
        ignored=tuple(found.ignored),
    )


def _check_source(source: Source, options: BuildOptions) -> None:
    if source.format == "txt" and len(options.keys) > 1:
        raise ConfigError(f"{source.path}: a text file has no keys, but {list(options.keys)} are asked for")
    if source.compression and source.format == "parquet":
        raise DataError(f"{source.path}: parquet is compressed inside, not as a file; decompress it first")


def build_corpus(
    inputs: str | Path | Sequence[str | Path],
    prefix: str | Path,
    tokenizer: str | Path,
    options: BuildOptions | None = None,
    *,
    command: str | None = None,
) -> BuildReport:
    """Build ``PREFIX.bin``, ``PREFIX.idx`` and ``PREFIX.json`` from text.

    ``inputs`` are files, globs or folders; ``tokenizer`` a tokenizer.json or a folder with one. An interrupted build
    resumes when it is called again with the same arguments, and ends with the same bytes. Raises DataError and
    ConfigError, whose messages say what to do.
    """
    start = time.monotonic()
    options = options or BuildOptions()
    names = [inputs] if isinstance(inputs, str | Path) else list(inputs)
    job = make_job(names, prefix, tokenizer, options, command or shlex.join(sys.argv))
    staging = Staging(job.prefix, len(job.targets), dtype_for(job.tokenizer.vocabulary_size))
    try:
        job.prefix.parent.mkdir(parents=True, exist_ok=True)
        with staging.locked():
            resumed = _build(job, staging)
    except OSError as error:
        raise DataError(f"{file_trouble(error)}; what is built is kept") from error
    return BuildReport(
        prefixes=job.targets,
        manifests=tuple(read_manifest(member(target, ".json")) for target in job.targets),
        seconds=time.monotonic() - start,
        resumed_documents=resumed or 0,
        already_complete=resumed is None,
        ignored=job.ignored,
    )


def _build(job: Job, staging: Staging) -> int | None:
    """Build and publish; returns the documents found finished, or None when the corpus was complete."""
    staging.finish_publication()
    complete = is_complete(job)
    resumed = None
    if not complete:
        staging.adopt_plan(job.plan, restart=job.options.restart)
        record = staging.last_whole_record()
        staging.truncate(record)
        run_build(job, staging, record)
        publish_job(job, staging)
        resumed = record.documents if record else 0
    staging.remove()
    return resumed
