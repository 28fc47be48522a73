"""``ettin prepare`` = ``tools/preprocess_data.py``: text to a corpus, with the flags of Megatron-LM's script."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Sequence

from megatron_ettin.corpus.build.build import BuildReport, build_corpus
from megatron_ettin.corpus.build.job import MAXIMUM_DOCUMENT_BYTES, MAXIMUM_STAGED_BYTES, BuildOptions
from megatron_ettin.corpus.manifest import SourceSummary
from megatron_ettin.errors import ConfigError
from megatron_ettin.progress import format_count, format_seconds
from megatron_ettin.sources.files import FORMAT_NAMES
from megatron_ettin.sources.remote.address import INPUTS
from megatron_ettin.tokenizer.special_tokens import SPECIAL_HELP, missing_roles, parse_special

HUGGING_FACE = "HuggingFaceTokenizer"
NAMES_SHOWN = 3
"""Names that are printed of a list; the manifest holds all."""
DESCRIPTION = """Tokenize text into PREFIX.bin and PREFIX.idx (Megatron-Core's format) and PREFIX.json (the manifest).

One --json-keys key gives PREFIX itself; several give PREFIX_KEY_document each. With --tokenizer-type, as Megatron-LM's
script is called, a single corpus is also linked as PREFIX_KEY_document (PREFIX_KEY_sentence when split).
Interrupted, the same command goes on where it stopped."""


def parse_shard(text: str) -> tuple[int, int]:
    """``i/n`` -> (i, n)."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n, with i from 0 to n - 1")
    return int(index), int(count)


def separator(text: str) -> str:
    r"""A separator as typed: \n, \t, \0 and \\ are escapes."""
    return (
        text.replace("\\\\", "\0\0")
        .replace("\\n", "\n")
        .replace("\\t", "\t")
        .replace("\\0", "\0")
        .replace("\0\0", "\\")
    )


def make_parser() -> argparse.ArgumentParser:
    """The arguments of the verb."""
    parser = argparse.ArgumentParser(
        prog="ettin prepare", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    group = parser.add_argument_group("input")
    group.add_argument("--input", nargs="+", required=True, help=INPUTS)
    group.add_argument("--input-format", choices=("auto", *FORMAT_NAMES), default="auto")
    group.add_argument("--json-keys", nargs="+", default=["text"], help="keys (columns) that hold text")
    group.add_argument("--text-separator", type=separator, help=r"cut text files at this (\n, \t, \0 are escapes)")
    group.add_argument("--split-sentences", action="store_true", help="a sequence for each sentence (nltk punkt)")
    group.add_argument("--keep-newlines", action="store_true", help="keep newlines between sentences")
    group.add_argument("--lang", default="english", help="language of the sentence splitter")
    group.add_argument("--shard", type=parse_shard, metavar="i/n", help="build part i of n into PREFIX-i-of-n")
    group = parser.add_argument_group("tokenizer")
    group.add_argument("--tokenizer-model", required=True, help="a tokenizer.json, or a folder that holds one")
    group.add_argument("--tokenizer-type", help=f"{HUGGING_FACE}: also give the output Megatron-LM's names")
    group.add_argument("--tokenizer-engine", choices=("native", "huggingface"), default="native")
    group.add_argument("--special-tokens-in-text", choices=("special", "split", "reject"), default="special")
    group.add_argument("--special", nargs="+", action="extend", default=[], metavar="ROLE=TOKEN", help=SPECIAL_HELP)
    group.add_argument("--append-eod", action="store_true", help="end every document with the end-of-document id")
    group.add_argument("--eod-token", help="content of that token")
    group.add_argument("--strip-template-specials", action="store_true", help="from documents that come as ids")
    group = parser.add_argument_group("output")
    group.add_argument("--output-prefix", required=True)
    group.add_argument("--overwrite", action="store_true", help="replace a corpus that is there")
    group.add_argument("--restart", action="store_true", help="drop an unfinished build instead of resuming it")
    group = parser.add_argument_group("bad records")
    group.add_argument("--on-error", choices=("stop", "skip"), default="stop")
    group.add_argument("--max-document-bytes", type=int, default=MAXIMUM_DOCUMENT_BYTES)
    group = parser.add_argument_group("running")
    group.add_argument("--max-staged-bytes", type=int, default=MAXIMUM_STAGED_BYTES, help="disk for fetching ahead")
    group.add_argument("--workers", type=int, default=0, help="threads; 0 takes every core")
    group.add_argument("--partitions", type=int, default=1, help="order of documents as Megatron-LM's partitions give")
    group.add_argument("--keep-sequential-samples", action="store_true", help="keep the input's order in partitions")
    group.add_argument("--log-interval", type=int, help="documents between lines of progress")
    return parser


def options_of(given: argparse.Namespace) -> BuildOptions:
    """The settings of a build from the parsed arguments."""
    if given.tokenizer_type not in (None, HUGGING_FACE):
        raise ConfigError(
            f"--tokenizer-type {given.tokenizer_type}: only {HUGGING_FACE} is read here; convert the tokenizer to a "
            "tokenizer.json"
        )
    return BuildOptions(
        keys=tuple(given.json_keys),
        append_eod=given.append_eod,
        eod_token=given.eod_token,
        special=parse_special(given.special),
        engine=given.tokenizer_engine,
        specials_in_text=given.special_tokens_in_text,
        input_format=given.input_format,
        text_separator=given.text_separator,
        split_sentences=given.split_sentences,
        language=given.lang,
        keep_newlines=given.keep_newlines,
        partitions=1 if given.keep_sequential_samples else given.partitions,
        strip_template_specials=given.strip_template_specials,
        on_error=given.on_error,
        maximum_document_bytes=given.max_document_bytes,
        shard=given.shard,
        maximum_staged_bytes=given.max_staged_bytes,
        threads=given.workers,
        overwrite=given.overwrite,
        restart=given.restart,
        megatron_names=given.tokenizer_type is not None,
        log_interval=given.log_interval,
    )


def table(report: BuildReport) -> str:
    """What was built, for people."""
    lines = []
    for prefix, manifest in zip(report.prefixes, report.manifests, strict=True):
        size = sum(source.bytes for source in manifest.sources)
        lines.append(f"{prefix}.bin .idx .json")
        lines.append(f"  documents  {manifest.documents:,} ({manifest.empty_documents:,} empty)")
        lines.append(f"  tokens     {manifest.tokens:,} as {manifest.dtype}")
        kinds = Counter(source.format for source in manifest.sources)
        texts = [source for source in manifest.sources if source.format.startswith("txt")]
        uncut = [source for source in texts if source.documents + sum(source.rejected.values()) <= 1]
        shown = ", ".join(f"{count:,} {kind}" for kind, count in kinds.items())
        lines.append(f"  input      {len(manifest.sources):,} files, {format_count(size, 'B')}: {shown}")
        notes = {
            "rejected": sum(manifest.rejected.values()),
            "blank lines": sum(source.blank_lines for source in manifest.sources),
            "lone surrogates (now U+FFFD)": sum(source.lone_surrogates for source in manifest.sources),
            "special tokens in text": manifest.specials_in_text,
            "text files in which the separator cuts nothing": len(uncut)
            if manifest.settings.get("text_separator")
            else 0,
        }
        lines += [f"  {name}: {count:,}" for name, count in notes.items() if count]
        lines += [f"    {kind}: {count:,}" for kind, count in manifest.rejected.items()]
    if missing := missing_roles(report.manifests[0].tokenizer.special_ids):
        flags = " ".join(f"{role}=TOKEN" for role in missing)
        lines.append(
            f"  roles      no token for {', '.join(missing)}; pretraining here needs them (Megatron-LM does not): name "
            f"them by the same command with --special {flags}, which builds nothing anew"
        )
    twins = _twins(report.manifests[0].sources)
    noted = {
        "read, though their bytes are those of another input": twins,
        "whole in this shard, though more than two shares: no place to cut": report.uncut,
    }
    listed = report.left_out | {reason: paths for reason, paths in noted.items() if paths}
    for reason, paths in listed.items():
        some = ", ".join(paths[:NAMES_SHOWN]) + (" ..." if len(paths) > NAMES_SHOWN else "")
        lines.append(f"  {'note' if reason in noted else 'left out':<10} {len(paths):,} ({reason}): {some}")
    return "\n".join(lines)


def _twins(sources: Sequence[SourceSummary]) -> tuple[str, ...]:
    """Files whose size and checksum an earlier one has."""
    seen: set[tuple[int, int, str]] = set()
    found = []
    for source in sources:
        key = (source.begin, source.bytes, source.checksum)
        if key in seen and source.bytes:
            found.append(source.path)
        seen.add(key)
    return tuple(found)


def speed(report: BuildReport) -> str:
    """How long it took."""
    if report.already_complete:
        return "complete already: nothing to do (--overwrite builds it again)"
    size = sum(source.bytes for source in report.manifests[0].sources)
    text = f"  time       {format_seconds(report.seconds)} ({report.seconds:.1f} s)"
    if report.resumed_documents:
        return f"{text}, resumed after {report.resumed_documents:,} documents"
    tokens = sum(manifest.tokens for manifest in report.manifests)
    return f"{text}, {size / report.seconds / 1e6:.0f} MB/s, {format_count(tokens / report.seconds)} tokens/s"


def main(arguments: list[str]) -> int:
    """Build a corpus; exit status 0 when it is whole."""
    given = make_parser().parse_args(arguments)
    command = shlex.join(["ettin", "prepare", *arguments])
    report = build_corpus(given.input, given.output_prefix, given.tokenizer_model, options_of(given), command=command)
    print(table(report))
    print(speed(report))
    return 0
