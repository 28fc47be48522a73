"""``ettin vocabulary extend|replace|trim MODEL``: the same model with more, other or fewer tokens."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_ettin.heavy_imports import heavy_imports
from megatron_ettin.tables import pairs

LIMIT = " (of their first billion characters)"


def make_parser() -> argparse.ArgumentParser:
    """The arguments of the verb."""
    parser = argparse.ArgumentParser(
        prog="ettin vocabulary",
        description="Give a model another vocabulary: rows of tokens that stay are kept bit for bit, a new token "
        "begins as the mean of the pieces that its text had before. Training goes on from OUTPUT.",
    )
    verbs = parser.add_subparsers(dest="change", required=True)
    extend = verbs.add_parser("extend", help="all tokens of the model and more")
    replace = verbs.add_parser("replace", help="the tokens of another tokenizer")
    trim = verbs.add_parser("trim", help="some of the model's tokens")
    for verb in (extend, replace, trim):
        verb.add_argument("model", help="RUN, PLAN or PLAN/STAGE, also with @STEP, a Hugging Face folder or a hub name")
        verb.add_argument("--tokenizer", type=Path, required=verb is replace, help="the new one, or a folder with it")
        verb.add_argument("--output", type=Path, required=True, help="the Hugging Face folder to make")
        verb.add_argument("--sample", nargs="+", default=[], help="text files whose tokens a byte are reported" + LIMIT)
        verb.add_argument("--json-key", default="text", help="member of each JSON line, or column, with the text")
        which = "which model is meant of a run of objective mixed, which trains both in one"
        verb.add_argument("--as", dest="kind", choices=("encoder", "decoder"), help=which)
        verb.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="how tensors are stored")
    extend.add_argument("--tokens", type=Path, help="instead of a tokenizer: further tokens, one a line, spaces count")
    extend.add_argument("--unused", action="store_true", help="--tokens take the ids of [unused...] tokens first")
    stay = "instead of a tokenizer: text files whose tokens stay" + LIMIT
    trim.add_argument("--data", nargs="+", default=[], help=stay)
    trim.add_argument("--keep", type=int, default=0, help="of --data the most frequent, so many in all (default: all)")
    return parser


def main(arguments: list[str]) -> int:
    """Make the folder and print the report; status 0 when it is there."""
    options = make_parser().parse_args(arguments)
    with heavy_imports():
        from megatron_ettin.commands.convert import summary
        from megatron_ettin.derive.vocabulary import VocabularySettings, change_vocabulary
        from megatron_ettin.export.parity import import_models

    lists = {name: tuple(value) for name, value in vars(options).items() if isinstance(value, list)}
    settings = VocabularySettings(**(vars(options) | lists))
    settings.refuse_contradictions()
    import_models()
    report = change_vocabulary(settings, print)
    print(pairs(lines(report)))
    print(f"{settings.output}: {summary(settings.output)}")
    return 0


def lines(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The report for people."""
    found = [
        ("tokens", f"{report['tokens_before']:,} -> {report['tokens_after']:,}"),
        ("shared", f"{report['shared']:,}, {report['with_the_same_id']:,} of them with the same id"),
        ("new", f"{report['new']:,}"),
        ("dropped", f"{report['dropped']:,}"),
    ]
    if report["pieces_of_a_new_token"]:
        found.insert(3, ("pieces of a new token", f"{report['pieces_of_a_new_token']:.2f}"))
    if report["without_pieces"]:
        found.insert(3, ("new without pieces", f"{report['without_pieces']:,}, which begin as the mean of all tokens"))
    if sample := report.get("sample"):
        rates = f"{sample['tokens_a_byte_before']:.4f} -> {sample['tokens_a_byte_after']:.4f}"
        found.append(("tokens a byte", f"{rates} of a sample of {sample['bytes']:,} bytes"))
    return found
