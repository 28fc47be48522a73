"""From finished staging files to a published corpus: indexes, manifests, final names."""

from __future__ import annotations

from pathlib import Path

from megatron_ettin import __version__
from megatron_ettin.corpus.build.job import Job, megatron_prefix
from megatron_ettin.corpus.build.staging import OutputFiles, Record, Staging, empty_record, plan_hash
from megatron_ettin.corpus.manifest import (
    FileRecord,
    Manifest,
    ShardRecord,
    SourceRecord,
    TokenizerRecord,
    read_manifest,
)
from megatron_ettin.corpus.names import SUFFIXES, hash_path, member, remove_hashes
from megatron_ettin.errors import DataError
from megatron_ettin.publish import write_atomically


def checksum_text(value: int) -> str:
    """A checksum as manifests store it."""
    return f"crc32c:{value:08x}"


def content_record(content: bytes) -> FileRecord:
    """Size and checksum of a small file."""
    from megatron_ettin import _native

    return FileRecord(bytes=len(content), checksum=checksum_text(_native.crc32c(content)))


def is_complete(job: Job) -> bool:
    """Whether the corpora of this job are there already.

    Raises DataError when something else is there and may not be overwritten.
    """
    if job.options.overwrite:
        return False
    manifests = [member(target, ".json") for target in job.targets]
    if all(path.exists() for path in manifests):
        if all(read_manifest(path).settings.get("plan") == plan_hash(job.plan) for path in manifests):
            return True
        raise DataError(
            f"{manifests[0]}: a corpus from other inputs or settings is there; choose another --output-prefix, or "
            "replace it by --overwrite"
        )
    for target in job.targets:
        for suffix in SUFFIXES:
            if member(target, suffix).exists():
                raise DataError(
                    f"{member(target, suffix)}: is there, but is no whole corpus of this tool; move it away, or "
                    "replace it by --overwrite"
                )
    return False


def _source_records(job: Job, finished: dict[int, Record], output: int) -> tuple[SourceRecord, ...]:
    from megatron_ettin import _native

    records = []
    for number, source in enumerate(job.sources):
        record = finished[number]
        state = record.outputs[output]
        records.append(
            SourceRecord(
                path=str(source.path),
                format=source.kind,
                bytes=record.source_bytes,
                begin=source.begin,
                documents=record.source_documents,
                empty_documents=state.empty_documents,
                tokens=state.tokens,
                text_bytes=state.text_bytes,
                checksum=checksum_text(record.source_checksum),
                blank_lines=record.blank_lines,
                lone_surrogates=state.lone_surrogates,
                specials_in_text=state.specials,
                rejected={
                    kind: count for kind, count in zip(_native.REJECT_KINDS, record.rejected, strict=True) if count
                },
            )
        )
    return tuple(records)


def _ordered(job: Job, staging: Staging, last: Record, output: int) -> tuple[OutputFiles, int]:
    """The staged files of one output in their final order, and the checksum of the ids."""
    files, partitions = staging.outputs[output], job.options.partitions
    if partitions == 1:
        return files, last.outputs[output].checksum
    from megatron_ettin.corpus.build.partitions import reorder

    return reorder(files, last, output, staging.itemsize, partitions)


def _manifest(
    job: Job,
    output: int,
    sources: tuple[SourceRecord, ...],
    staging: Staging,
    last: Record,
    files: dict[str, FileRecord],
) -> Manifest:
    state = last.outputs[output]
    shard = job.options.shard
    return Manifest(
        builder=f"megatron-ettin {__version__}",
        command=job.command,
        tokenizer=TokenizerRecord(
            sha256=job.tokenizer.fingerprint,
            vocabulary=job.tokenizer.vocabulary_size,
            special_ids=job.tokenizer.special_ids,
        ),
        appended_eod=job.eod,
        dtype=staging.dtype,
        documents=last.documents,
        empty_documents=sum(source.empty_documents for source in sources),
        sequences=state.sequences,
        tokens=state.bytes // staging.itemsize,
        specials_in_text=sum(source.specials_in_text for source in sources),
        sources=sources,
        files=files,
        key=job.options.keys[output],
        level=job.options.level,
        shard=ShardRecord(index=shard[0], count=shard[1]) if shard else None,
        settings={**job.options.content_settings(), "plan": plan_hash(job.plan)},
    )


def publish_job(job: Job, staging: Staging) -> None:
    """Write indexes and manifests, then move everything to its final name, the manifests last."""
    finished = staging.finished_sources()
    last = finished[len(job.sources) - 1] if job.sources else empty_record(len(job.targets))
    moves: dict[Path, Path] = {}
    manifests: dict[Path, Path] = {}
    for output, target in enumerate(job.targets):
        staged, checksum = _ordered(job, staging, last, output)
        index, index_size, index_checksum = staging.build_index(last, output, staged)
        files = {
            ".bin": FileRecord(bytes=last.outputs[output].bytes, checksum=checksum_text(checksum)),
            ".idx": FileRecord(bytes=index_size, checksum=checksum_text(index_checksum)),
            ".tokenizer.json": content_record(job.tokenizer.content),
        }
        manifest = _manifest(job, output, _source_records(job, finished, output), staging, last, files)
        text, tokenizer = staging.folder / f"{output}.json", staging.folder / f"{output}.tokenizer.json"
        write_atomically(text, manifest.to_json())
        write_atomically(tokenizer, job.tokenizer.content)
        moves[staged.tokens] = member(target, ".bin")
        remove_hashes(target)
        moves[staged.hashes] = hash_path(target, manifest.fingerprint)
        moves[index] = member(target, ".idx")
        moves[tokenizer] = member(target, ".tokenizer.json")
        manifests[text] = member(target, ".json")
    if last.rejects_bytes:
        moves[staging.rejects] = member(job.prefix, ".rejects.jsonl")
    else:
        member(job.prefix, ".rejects.jsonl").unlink(missing_ok=True)
    staging.publish(moves, manifests)
    if job.options.megatron_names and len(job.targets) == 1:
        _link_megatron_names(job)


def _link_megatron_names(job: Job) -> None:
    """Symbolic links under the names of Megatron-LM's script, for what runs after it."""
    other = megatron_prefix(job.prefix, job.options.keys[0], job.options.level)
    for suffix in SUFFIXES:
        link = member(other, suffix)
        link.unlink(missing_ok=True)
        link.symlink_to(member(job.targets[0], suffix).name)
