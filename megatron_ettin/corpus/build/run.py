"""Running the native builder over the sources of a job."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from megatron_ettin.corpus.build.feed import (
    Feeder,
    StoppedError,
    feed_documents,
    feed_plain_lines,
    feed_stream,
    feed_whole_text,
)
from megatron_ettin.corpus.build.job import Job
from megatron_ettin.corpus.build.options import block_bytes
from megatron_ettin.corpus.build.staging import Record, Staging
from megatron_ettin.errors import DataError
from megatron_ettin.progress import Progress, format_count
from megatron_ettin.sources.files import Source
from megatron_ettin.sources.records import DocumentBatch, StreamKind

if TYPE_CHECKING:
    from megatron_ettin.sources.read_ahead import ReadAhead

REMEDIES = {
    "invalid_utf8": "re-encode the file as UTF-8",
    "byte_order_mark": "remove the byte order mark",
    "invalid_json": "correct the line",
    "missing_key": "name the right key by --json-keys",
    "not_a_string": "name a key that holds text by --json-keys",
    "too_long": "raise --max-document-bytes",
    "special_token": "choose --special-tokens-in-text special or split",
    "truncated": "fetch the file again",
    "template_specials": "add --strip-template-specials",
    "invalid_ids": "give the tokenizer that made the ids",
}


def run_build(job: Job, staging: Staging, record: Record | None) -> None:
    """Encode everything after ``record`` into the staging files. Raises DataError; the build stays resumable."""
    with _splitter(job) as splitter, Progress("prepare", job.total_bytes, "B") as progress:
        native = _native_builder(job, staging, record, splitter)
        log = _Log(job, native, progress, record)
        feeder = Feeder(
            native=native,
            block_bytes=block_bytes(job.total_bytes),
            maximum_record=job.options.maximum_document_bytes,
            on_wait=log,
            kinds=_reject_kinds(),
        )
        try:
            _feed_sources(job, feeder, record)
            feeder.finish()
        except StoppedError:
            raise _failure(job, native.failure()) from None
        except DataError:
            feeder.settle()
            raise
        finally:
            native.stop()


def _reject_kinds() -> tuple[str, ...]:
    from megatron_ettin import _native

    return tuple(_native.REJECT_KINDS)


def _splitter(job: Job) -> contextlib.AbstractContextManager[Callable[..., Any] | None]:
    options = job.options
    if not options.split_sentences:
        return contextlib.nullcontext()
    from megatron_ettin.corpus.build.sentences import SentencePool

    return SentencePool(options.language, keep_newlines=options.keep_newlines, children=options.worker_threads)


def _native_builder(job: Job, staging: Staging, record: Record | None, splitter: Callable[..., Any] | None) -> Any:  # noqa: ANN401 - extension type
    from megatron_ettin import _native

    options = job.options
    return _native.CorpusBuilder(
        options={
            "keys": list(options.keys),
            "vocabulary": job.tokenizer.vocabulary_size,
            "wide": staging.dtype == "int32",
            "append_eod": -1 if job.eod is None else job.eod,
            "template_first": job.tokenizer.special_ids.get("[CLS]", -1),
            "template_last": job.tokenizer.special_ids.get("[SEP]", -1),
            "strip_template": options.strip_template_specials,
            "reject_specials": options.specials_in_text == "reject",
            "maximum_record": options.maximum_document_bytes,
            "on_error_skip": options.on_error == "skip",
            "tokenizer": job.tokenizer.native,
            "policy": getattr(_native.SpecialPolicy, options.specials_in_text),
            "encoder": _encoder(job),
            "splitter": splitter,
        },
        outputs=[[str(path) for path in files] for files in staging.outputs],
        rejects=str(staging.rejects),
        journal=str(staging.journal),
        sources=[json.dumps(str(source.path)) for source in job.sources],
        record=list(record.words) if record else [],
        threads=options.worker_threads,
        block_bytes=block_bytes(job.total_bytes),
    )


def _encoder(job: Job) -> Callable[..., Any] | None:
    if job.options.engine == "native":
        return None
    from megatron_ettin.tokenizer.encoders import HuggingFaceBatches

    return HuggingFaceBatches(job.tokenizer.content, job.options.specials_in_text)


def _feed_sources(job: Job, feeder: Feeder, record: Record | None) -> None:
    first = 0 if record is None else record.source + record.ends_source
    feeder.fed = sum(source.bytes for source in job.sources[:first])
    left = job.sources[first:]
    streams = [source for source in left if _stream_kind(job, source) is not None]
    with _read_ahead(streams, job.options.worker_threads) as ahead:
        for number, source in enumerate(left, first):
            resumed = record if record is not None and record.source == number and not record.ends_source else None
            _feed_source(job, feeder, number, source, resumed, ahead)


def _read_ahead(streams: list[Source], encoders: int) -> contextlib.AbstractContextManager[ReadAhead | None]:
    if not streams:
        return contextlib.nullcontext()
    from megatron_ettin.sources.read_ahead import ReadAhead

    return ReadAhead(streams, encoders)


def _stream_kind(job: Job, source: Source) -> StreamKind | None:
    """How a source is cut into records when it is read from front to back; None for other ways to read."""
    if source.format == "jsonl" and not source.splits:
        return StreamKind("\n", lines=True)
    if source.format == "txt" and job.options.text_separator is not None:
        return StreamKind(job.options.text_separator, lines=False)
    return None


def _feed_source(
    job: Job, feeder: Feeder, number: int, source: Source, record: Record | None, ahead: ReadAhead | None
) -> None:
    """Feed what is left of one source: after the blocks of ``record``, when it is the one that was interrupted."""
    start = source.begin if record is None else record.end
    kind = _stream_kind(job, source)
    if source.splits:
        feed_plain_lines(feeder, number, source, start)
    elif kind is not None:
        assert ahead is not None  # there is one as soon as there are streams
        feed_stream(feeder, number, source, start, kind, ahead)
    elif source.format == "txt":
        feed_whole_text(feeder, number, source, 0 if record is None else record.lines)
    else:
        feed_documents(feeder, number, source, _documents(source, job.options.keys, start), start)


def _documents(source: Source, keys: tuple[str, ...], start: int) -> Iterator[DocumentBatch]:
    """The documents of a format with columns, from document ``start`` on."""
    if source.format == "parquet":
        from megatron_ettin.sources.parquet import parquet_documents

        return parquet_documents(source, keys, start)
    from megatron_ettin.sources.mds import mds_documents

    return mds_documents(source, keys, start)


def _failure(job: Job, failure: dict[str, Any]) -> DataError:
    """The error that stopped the build: file, line, byte offset, reason, remedy."""
    source = job.sources[failure["source"]]
    if failure["stage"] == "record":
        unit = "byte" if source.format in ("jsonl", "txt") else "row"
        return DataError(
            f"{source.path}: line {failure['line']}, {unit} {failure['offset']}: {failure['kind']}: "
            f"{failure['message']}; {REMEDIES[failure['kind']]}, or skip and count such records by --on-error skip. "
            "What was built so far is kept; the same command goes on from there unless an input changes"
        )
    if failure["stage"] == "output":
        return DataError(
            f"{failure['message']}: writing failed; make room, then the same command goes on where it stopped"
        )
    return DataError(f"{source.path}: {failure['message']}; repair that, then the same command goes on")


class _Log:
    """The progress line of a build, and the lines of --log-interval."""

    def __init__(self, job: Job, native: Any, progress: Progress, record: Record | None) -> None:  # noqa: ANN401
        self._native, self._progress, self._interval = native, progress, job.options.log_interval
        self._before = record.documents if record else 0
        self._printed = 0

    def __call__(self, fed: int) -> None:
        _, documents, tokens, rejected = self._native.totals()
        detail = f"{format_count(documents)} documents, {format_count(self._progress.rate(tokens))} tokens/s"
        if rejected:
            detail += f", {rejected} rejected"
        self._progress.update(fed, detail)
        if self._interval and documents // self._interval > self._printed // self._interval:
            self._printed = documents
            total = documents + self._before
            print(f"Processed {total} documents ({self._progress.rate(documents):.0f} docs/s)", file=sys.stderr)
