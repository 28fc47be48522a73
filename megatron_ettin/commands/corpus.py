"""``ettin corpus``: inspect, verify, show, join, merge and adopt corpora, and how far their shards are."""

from __future__ import annotations

import argparse
import shlex

from megatron_ettin.corpus.build.adopt import adopt_corpus
from megatron_ettin.corpus.build.join import join_corpora
from megatron_ettin.corpus.build.merge import merge_corpora
from megatron_ettin.corpus.build.shards import STATES, array_list, shard_count, shard_states, shards_beside
from megatron_ettin.corpus.inspect import corpus_summary, document_text
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.corpus.verify import verify_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.progress import format_count
from megatron_ettin.tokenizer.special_tokens import SPECIAL_HELP, parse_special


def make_parser() -> argparse.ArgumentParser:
    """The arguments of the verb."""
    parser = argparse.ArgumentParser(prog="ettin corpus", description="Look at, check and join corpora.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    inspect = verbs.add_parser("inspect", help="counts, length percentiles, bytes per token, sources")
    inspect.add_argument("prefix", nargs="+")
    verify = verbs.add_parser("verify", help="check every byte; exit status 1 when something is wrong")
    verify.add_argument("prefix", nargs="+")
    verify.add_argument("--workers", type=int, default=0, help="threads; 0 takes every core")
    show = verbs.add_parser("show", help="decode documents")
    show.add_argument("prefix")
    show.add_argument("document", type=int, nargs="+")
    show.add_argument("--ids", action="store_true", help="print ids instead of text")
    status = verbs.add_parser("status", help="how far the shards of a build are; exit status 1 when some are left")
    status.add_argument("prefix", help="as given to `ettin prepare --shard i/n`")
    status.add_argument("--shards", type=int, metavar="N", help="of how many (default: as those that are there say)")
    status.add_argument("--left", action="store_true", help="print nothing but the list for sbatch --array")
    join = verbs.add_parser("join", help="make one corpus of several, in order, which are read where they lie")
    join.add_argument("prefix", help="of the corpus to make: PREFIX.json alone")
    join.add_argument("parts", nargs="*", help="corpora (default: the shards PREFIX-*-of-*)")
    merge = verbs.add_parser("merge", help="copy corpora, in order, into a new .bin and .idx, also for other readers")
    merge.add_argument("target")
    merge.add_argument("parts", nargs="+")
    adopt = verbs.add_parser("adopt", help="check a .bin/.idx pair of another tool and write its manifest")
    adopt.add_argument("prefix")
    adopt.add_argument("--tokenizer-model", required=True, help="a tokenizer.json, or a folder that holds one")
    adopt.add_argument("--eod-token", help="content of the token that ends every document, if one does")
    adopt.add_argument("--special", nargs="+", action="extend", default=[], metavar="ROLE=TOKEN", help=SPECIAL_HELP)
    return parser


def _verify(prefixes: list[str], workers: int) -> int:
    status = 0
    for prefix in prefixes:
        outcome = verify_corpus(prefix, threads=workers)
        if outcome.whole:
            rate = outcome.bytes / max(outcome.seconds, 1e-9)
            print(f"{prefix}: whole ({format_count(outcome.bytes, 'B')} read, {format_count(rate, 'B')}/s)")
        else:
            status = 1
            print(f"{prefix}: damaged")
            for problem in outcome.problems:
                print(f"  {problem}")
    return status


def _status(prefix: str, told: int | None, *, left_alone: bool) -> int:
    count = shard_count(prefix, told)
    states = shard_states(prefix, count)
    found = {state: [shard for shard in states if shard.state == state] for state in STATES}
    left = array_list(shard.index for shard in states if shard.state in ("interrupted", "missing"))
    if left_alone:
        print(left)
        return int(len(found["finished"]) < count)
    print(f"{prefix}: " + ", ".join(f"{len(shards):,} {state}" for state, shards in found.items()) + f" of {count:,}")
    for state in ("running", "damaged"):
        for shard in found[state]:
            print(f"  {shard.index} {state}: {shard.detail}")
    if left:
        print(f"left: --array={left}")
    if found["damaged"]:
        print(f"to be built again with --overwrite: --array={array_list(shard.index for shard in found['damaged'])}")
    return int(len(found["finished"]) < count)


def main(arguments: list[str]) -> int:
    """Run one of the verbs; exit status 1 when a corpus is damaged, or shards are left to be built."""
    given = make_parser().parse_args(arguments)
    if given.verb == "verify":
        return _verify(given.prefix, given.workers)
    if given.verb == "show":
        corpus = open_corpus(given.prefix)
        for number in given.document:
            try:
                print(" ".join(map(str, corpus.document(number))) if given.ids else document_text(corpus, number))
            except IndexError as error:
                raise DataError(str(error)) from error
        return 0
    if given.verb == "inspect":
        print("\n\n".join(corpus_summary(open_corpus(prefix)) for prefix in given.prefix))
        return 0
    if given.verb == "status":
        return _status(given.prefix, given.shards, left_alone=given.left)
    command = shlex.join(["ettin", "corpus", *arguments])
    if given.verb == "join":
        parts = given.parts or shards_beside(given.prefix)
        print(corpus_summary(join_corpora(parts, given.prefix, command=command)))
        return 0
    if given.verb == "merge":
        print(corpus_summary(merge_corpora(given.parts, given.target, command=command)))
        return 0
    special = parse_special(given.special)
    adopted = adopt_corpus(given.prefix, given.tokenizer_model, eod_token=given.eod_token, special=special)
    print(corpus_summary(adopted))
    return 0
