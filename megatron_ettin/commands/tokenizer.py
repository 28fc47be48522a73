"""`ettin tokenizer train`: a byte-level BPE with the Ettin special tokens, learned from the user's text."""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_ettin.sources.remote.address import INPUTS


def parser() -> argparse.ArgumentParser:
    """The arguments of `ettin tokenizer`."""
    result = argparse.ArgumentParser(prog="ettin tokenizer", description=__doc__)
    verbs = result.add_subparsers(dest="verb", required=True)
    train = verbs.add_parser("train", help="learn a tokenizer from text files")
    formats = ".jsonl, .txt, .csv, .tsv (each also with .gz or .zst), .parquet and .arrow"
    train.add_argument("--input", nargs="+", required=True, help=f"{INPUTS}: {formats}")
    train.add_argument("--output", type=Path, required=True, help="folder to create, with tokenizer.json in it")
    train.add_argument("--vocabulary", type=int, default=50_368, help="tokens, special tokens included (default 50368)")
    train.add_argument(
        "--json-key", "--json-keys", default="text", help="member of each JSON line, or column, with the text"
    )
    train.add_argument("--characters", type=int, default=1_000_000_000, help="read at most this many characters")
    return result


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    from megatron_ettin.tokenizer.train import make_tokenizer

    options = parser().parse_args(arguments)
    made = make_tokenizer(options.input, options.output, options.vocabulary, options.json_key, options.characters)
    print(f"{options.output}/tokenizer.json: {made} tokens")
    if made < options.vocabulary:
        print(f"note: the text gives no more than {made} of the {options.vocabulary} tokens asked for")
    return 0
