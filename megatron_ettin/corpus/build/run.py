"""Running the native builder over the sources of a job."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from megatron_ettin import _native
from megatron_ettin.corpus.build.feed import (
    Feeder,
    StoppedError,
    feed_delimited,
    feed_documents,
    feed_plain_lines,
    feed_stream,
    feed_texts,
    feed_whole_text,
)
from megatron_ettin.corpus.build.job import Job
from megatron_ettin.corpus.build.journal import BuildState
from megatron_ettin.corpus.build.staging import Staging
from megatron_ettin.errors import DataError
from megatron_ettin.progress import Progress, format_count
from megatron_ettin.sources.compressed import PIECES, DamagedStreamError, RawFile
from megatron_ettin.sources.cuts import without_first_line
from megatron_ettin.sources.delimited import DELIMITERS, RecordPlaces
from megatron_ettin.sources.files import Source, require_kind
from megatron_ettin.sources.records import StreamKind
from megatron_ettin.sources.remote.staging import Stager, told_by_address
from megatron_ettin.sources.tables import table_documents

SMALL_BLOCK, LARGE_BLOCK, LARGE_INPUT = 2 << 20, 8 << 20, 64 << 30
LONGEST_LINE_SHOWN, KEYS_SHOWN = 1 << 20, 20
REMEDIES = {
    "invalid_utf8": "re-encode the file as UTF-8",
    "byte_order_mark": "remove the byte order mark",
    "invalid_json": "correct the line: one JSON object a line is read",
    "missing_key": "name the right key by --json-keys",
    "not_a_string": "name a key that holds text by --json-keys",
    "too_long": "raise --max-document-bytes",
    "special_token": "choose --special-tokens-in-text special or split",
    "truncated": "fetch the file again",
    "template_specials": "add --strip-template-specials",
    "invalid_ids": "give the tokenizer that made the ids",
    "ragged_row": "give it a field for each column, quoting those that hold the delimiter",
}


def block_bytes(total: int) -> int:
    """Size of the blocks that threads work on: larger for large inputs, to keep the journal small."""
    return SMALL_BLOCK if total < LARGE_INPUT else LARGE_BLOCK


def run_build(job: Job, staging: Staging, state: BuildState | None, texts: Iterable[str] | None = None) -> None:
    """Encode everything after ``state`` into the staging files. Raises DataError; the build stays resumable.

    ``texts`` are the content of the only source when that is no file; then ``state`` is None.
    """
    with contextlib.ExitStack() as stack:
        splitter: Callable[..., Any] | None = None
        if job.options.split_sentences:
            from megatron_ettin.corpus.build.sentences import SentencePool  # imports numpy

            pool = SentencePool(
                job.options.language,
                keep_newlines=job.options.keep_newlines,
                children=job.options.worker_threads,
            )
            splitter = stack.enter_context(pool)
        stack.enter_context(told_by_address(job.sources))
        first = 0 if state is None else state.source + state.ends_source
        space = job.options.maximum_staged_bytes
        stager = stack.enter_context(Stager(job.sources, first, space, staging.sources_done))
        progress = stack.enter_context(Progress("prepare", job.total_bytes, "B"))
        native = _native_builder(job, staging, state, splitter)
        feeder = Feeder(
            native=native,
            block_bytes=block_bytes(job.total_bytes),
            maximum_record=job.options.maximum_document_bytes,
            on_wait=_progress_lines(job, staging, native, progress, stager, state.documents if state else 0),
        )
        try:
            if texts is None:
                _feed_sources(job, feeder, state, stager)
            else:
                feed_texts(feeder, 0, texts)
            feeder.settle()
        except StoppedError:
            pass
        except DataError:
            feeder.settle()
            raise
        finally:
            native.stop()
        if (failure := native.failure()) is not None:
            raise _failure(job, failure)


def _native_builder(
    job: Job, staging: Staging, state: BuildState | None, splitter: Callable[..., Any] | None
) -> Any:  # noqa: ANN401 - extension type
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
            "encoder": job.tokenizer.huggingface and job.tokenizer.huggingface.encode_utf8,
            "splitter": splitter,
        },
        outputs=[[os.fsencode(path) for path in files] for files in staging.outputs],
        rejects=os.fsencode(staging.rejects),
        journal=os.fsencode(staging.journal),
        sources=[json.dumps(source.name) for source in job.sources],
        record=list(state.words) if state else [],
        threads=options.worker_threads,
        block_bytes=block_bytes(job.total_bytes),
    )


def _is_stream(job: Job, source: Source) -> bool:
    """Whether a source is read from front to back and cut into records meanwhile."""
    return (source.format == "jsonl" and not source.splits) or (
        source.format == "txt" and job.options.text_separator is not None
    )


def _stream_kind(job: Job, source: Source) -> StreamKind | None:
    """How a source, whose file is there, is cut into records when it is a stream; None for other ways to read."""
    if not _is_stream(job, source):
        return None
    if (separator := job.options.text_separator) is None or source.format == "jsonl":
        return StreamKind("\n", lines=True)
    return StreamKind(_separator_in(source, separator), lines=False)


def _separator_in(source: Source, separator: str) -> str:
    r"""The separator as it stands in a file: where the first line ends with \r\n, its newlines are such line ends."""
    if "\n" not in separator or "\r" in separator:
        return separator
    last = b""
    with RawFile(source.path) as raw, contextlib.suppress(DamagedStreamError):
        for piece in PIECES[source.compression](raw):
            if (end := piece.find(b"\n")) >= 0:
                windows = (piece[end - 1 : end] if end else last) == b"\r"
                return separator.replace("\n", "\r\n") if windows else separator
            last = piece[-1:]
    return separator


def _feed_sources(job: Job, feeder: Feeder, state: BuildState | None, stager: Stager) -> None:
    """Feed what is left of the sources after ``state``, which may stand within one."""
    first = 0 if state is None else state.source + state.ends_source
    feeder.fed = sum(source.bytes for source in job.sources[:first])
    left = job.sources[first:]
    streams = [source for source in left if _is_stream(job, source) or source.format in DELIMITERS]
    with contextlib.ExitStack() as stack:
        ahead = None
        if streams:
            from megatron_ettin.sources.read_ahead import ReadAhead

            ahead = stack.enter_context(ReadAhead(streams, job.options.worker_threads, stager.there))
        for number, source in enumerate(left, first):
            if source.remote is not None:
                stager.wait(source, lambda: feeder.on_wait(feeder.fed))
                require_kind(source)
            kind = _stream_kind(job, source)
            within = state if state is not None and state.source == number and not state.ends_source else None
            position = within.end if within else source.begin if source.splits else 0
            if source.splits:
                feed_plain_lines(feeder, number, source, position)
            elif kind is not None and ahead is not None:
                feed_stream(feeder, number, source, position, kind, ahead)
            elif source.format in DELIMITERS and ahead is not None:
                feed_delimited(feeder, number, source, position, job.options.keys, ahead)
            elif source.format == "txt":
                feed_whole_text(feeder, number, source, done=within is not None and within.lines > 0)
            else:
                feed_documents(feeder, number, source, position, table_documents(source, job.options.keys, position))


def _missing_key(source: Source, offset: int, keys: Sequence[str]) -> str | None:
    """Which of the keys a line does not have, and which it has; None when it cannot be read again."""
    line, at = b"", 0
    try:
        with RawFile(source.path, 0 if source.splits else source.begin) as raw:
            pieces = ((piece, 0) for piece in PIECES[source.compression](raw))
            for piece, _ in pieces if source.splits or not source.begin else without_first_line(pieces):
                if at + len(piece) > offset:
                    line += piece[max(0, offset - at) :]
                at += len(piece)
                if b"\n" in line or len(line) > LONGEST_LINE_SHOWN:
                    break
        found = json.loads(line.partition(b"\n")[0])
    except (DamagedStreamError, DataError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    missing = ", ".join(repr(key) for key in keys if key not in found)
    return f"no key {missing}; keys: {', '.join(list(found)[:KEYS_SHOWN]) or 'none'}"


def _place(source: Source, failure: dict[str, Any]) -> str:
    """Where in its file a bad record stands."""
    offset = failure["offset"]
    if source.format in ("jsonl", "txt"):
        counted = f" from byte {source.begin} on" if source.begin else ""
        return f"line {failure['line']}{counted}, byte {offset}"
    if source.format == "texts":
        return f"document {offset}"
    line = None
    if source.format in DELIMITERS:
        with contextlib.suppress(DataError):
            line = RecordPlaces(source).line(offset)
    return f"row {offset}" if line is None else f"line {line}, row {offset}"


def _failure(job: Job, failure: dict[str, Any]) -> DataError:
    """The error that stopped the build: file, line, byte offset, reason, remedy."""
    source = job.sources[failure["source"]]
    if failure["stage"] == "record":
        message = failure["message"]
        if failure["kind"] == "missing_key":
            message = _missing_key(source, failure["offset"], job.options.keys) or message
        kept = "What was built so far is kept; the same command goes on from there unless an input changes"
        return DataError(
            f"{source.name}: {_place(source, failure)}: {failure['kind']}: {message}; {REMEDIES[failure['kind']]}, or "
            f"skip and count such records by --on-error skip. {kept if source.format != 'texts' else 'Nothing is kept'}"
        )
    if failure["stage"] == "output":
        return DataError(
            f"{failure['message']}: writing failed; make room, then the same command goes on where it stopped"
        )
    return DataError(f"{source.name}: {failure['message']}; repair that, then the same command goes on")


def _progress_lines(
    job: Job,
    staging: Staging,
    native: Any,  # noqa: ANN401 - extension type
    progress: Progress,
    stager: Stager,
    documents_before: int,
) -> Callable[[int], None]:
    """What shows the progress of a build, and prints the lines of --log-interval; called with the bytes fed.

    It raises OwnershipError when another process has taken the build over.
    """
    interval, printed = job.options.log_interval, 0

    def show(fed: int) -> None:
        nonlocal printed
        staging.require_owned()
        _, documents, tokens, rejected = native.totals()
        detail = f"{format_count(documents)} documents, {format_count(progress.rate(tokens))} tokens/s"
        detail += f", {format_count(stager.fetched, 'B')} fetched" if stager.fetched else ""
        progress.update(fed, f"{detail}, {rejected} rejected" if rejected else detail)
        if interval and documents // interval > printed // interval:
            printed = documents
            rate = progress.rate(documents)
            print(f"Processed {documents + documents_before} documents ({rate:.0f} docs/s)", file=sys.stderr)

    return show
