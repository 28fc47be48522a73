"""From finished staging files to a published corpus: indexes, manifests, final names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from megatron_ettin import __version__, _native
from megatron_ettin.corpus.build.job import Job, megatron_prefix
from megatron_ettin.corpus.build.journal import BuildState, empty_state
from megatron_ettin.corpus.build.staging import Staging
from megatron_ettin.corpus.checksum import checksum_text, file_checksum
from megatron_ettin.corpus.format import DTYPES, SUFFIXES, hash_path, member, remove_hashes
from megatron_ettin.corpus.manifest import (
    FileChecksum,
    Manifest,
    Shard,
    SourceSummary,
    read_manifest,
)
from megatron_ettin.errors import DataError
from megatron_ettin.publish import write_atomically


def is_complete(job: Job) -> bool:
    """Whether the corpora of this job are there already.

    Raises DataError when something else is there and may not be overwritten.
    """
    if job.options.overwrite:
        return False
    manifests = [member(target, ".json") for target in job.targets]
    if all(path.exists() for path in manifests):
        if all(read_manifest(path).settings.get("plan") == job.identity_hash for path in manifests):
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


def keep_roles(job: Job) -> None:
    """Write roles of special tokens that were named after the corpora were built: ids of texts do not hold them."""
    for target in job.targets:
        manifest = read_manifest(member(target, ".json"))
        if manifest.tokenizer.special_ids != job.tokenizer.special_ids:
            write_atomically(member(target, ".json"), replace(manifest, tokenizer=job.tokenizer.record).to_json())


def publish_job(job: Job, staging: Staging) -> None:
    """Write indexes and manifests, then move everything to its final name, the manifests last."""
    finished = staging.read_journal().finished_sources()
    last = finished[len(job.sources) - 1] if job.sources else empty_state(len(job.targets))
    if job.options.shard is None:
        _require_text(job, staging, list(finished.values()))
    moves: dict[Path, Path] = {}
    manifests: dict[Path, Path] = {}
    for output, target in enumerate(job.targets):
        staged = staging.outputs[output]
        tokens = FileChecksum(
            bytes=last.outputs[output].bytes, checksum=checksum_text(last.outputs[output].checksum)
        )
        if job.options.partitions > 1:
            from megatron_ettin.corpus.build.partitions import reorder  # imports numpy

            staged, tokens = reorder(staged, last, output, staging.itemsize, job.options.partitions)
        index, index_checksum = staging.build_index(last, output, staged)
        files = {".bin": tokens, ".idx": index_checksum, ".tokenizer.json": file_checksum(job.tokenizer.content)}
        manifest = _manifest(job, output, finished, last, staging.dtype, files)
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
        # symbolic links under the names of Megatron-LM's script, for what runs after it
        other = megatron_prefix(job.prefix, job.options.keys[0], job.options.level)
        for suffix in SUFFIXES:
            link = member(other, suffix)
            link.unlink(missing_ok=True)
            link.symlink_to(member(job.targets[0], suffix).name)


def _require_text(job: Job, staging: Staging, finished: list[BuildState]) -> None:
    """Raise DataError, and drop what is staged, when no source gave a document that is not empty."""
    documents = sum(state.source_documents for state in finished)
    for output in range(len(job.targets)):
        if sum(state.outputs[output].empty_documents for state in finished) < documents:
            return
    staging.remove()
    rejected = sum(sum(state.rejected) for state in finished)
    names = ", ".join(source.name for source in job.sources[:3])
    raise DataError(
        f"{names}{' ...' if len(job.sources) > 3 else ''}: no text in the input: {len(job.sources)} files, {documents} "
        f"documents, all empty, {rejected} rejected records; a corpus without documents is not made: name files that "
        "hold text"
    )


def _manifest(
    job: Job,
    output: int,
    finished: dict[int, BuildState],
    last: BuildState,
    dtype: str,
    files: dict[str, FileChecksum],
) -> Manifest:
    sources = []
    for number, source in enumerate(job.sources):
        state = finished[number]
        counts = state.outputs[output]
        kinds = zip(_native.REJECT_KINDS, state.rejected, strict=True)
        sources.append(
            SourceSummary(
                path=source.name,
                format=source.kind,
                bytes=state.source_bytes,
                begin=source.begin,
                documents=state.source_documents,
                empty_documents=counts.empty_documents,
                tokens=counts.tokens,
                text_bytes=counts.text_bytes,
                checksum=checksum_text(state.source_checksum),
                blank_lines=state.blank_lines,
                lone_surrogates=counts.lone_surrogates,
                specials_in_text=counts.specials,
                rejected={kind: count for kind, count in kinds if count},
                file_bytes=source.remote.size if source.remote else 0,
                etag=source.remote.etag if source.remote else "",
                revision=source.remote.revision if source.remote else "",
            )
        )
    shard = job.options.shard
    return Manifest(
        builder=f"megatron-ettin {__version__}",
        command=job.command,
        tokenizer=job.tokenizer.record,
        appended_eod=job.eod,
        dtype=dtype,
        documents=last.documents,
        empty_documents=sum(source.empty_documents for source in sources),
        sequences=last.outputs[output].sequences,
        tokens=last.outputs[output].bytes // DTYPES[dtype],
        specials_in_text=sum(source.specials_in_text for source in sources),
        sources=tuple(sources),
        files=files,
        key=job.options.keys[output],
        level=job.options.level,
        shard=Shard(index=shard[0], count=shard[1]) if shard else None,
        settings=job.manifest_settings,
        left_out=job.left_out,
    )
