"""`ettin pack DATA`: build the pack indexes of a corpus or mixture ahead of training, and report what they hold."""

from __future__ import annotations

import argparse
from dataclasses import fields

from megatron_ettin.config.run import DataConfig


def parser() -> argparse.ArgumentParser:
    """The arguments of `ettin pack`."""
    defaults = {field.name: field.default for field in fields(DataConfig)}
    result = argparse.ArgumentParser(
        prog="ettin pack",
        description="Build the pack indexes of a corpus or mixture, and report what a run would read.",
    )
    result.add_argument("data", help="a mixture file (.json), or the prefix of a corpus")
    result.add_argument("--row-length", type=int, default=defaults["row_length"], help="tokens of a row (%(default)s)")
    result.add_argument("--piece-length", type=int, help="longest piece, specials included (default: the row length)")
    result.add_argument("--packing", choices=("best_fit", "concatenate"), default=defaults["packing"])
    result.add_argument(
        "--held-out-share", type=float, default=defaults["held_out_share"], help="share held out (%(default)s)"
    )
    result.add_argument("--index-folder", default="", help="keep the indexes here (default: beside each corpus)")
    result.add_argument("--threads", type=int, help="cores to use (default: all)")
    return result


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status."""
    from megatron_ettin.config.codec import with_fields
    from megatron_ettin.config.recipes import recipe
    from megatron_ettin.rows.report import source_table
    from megatron_ettin.rows.run_data import open_data

    options = parser().parse_args(arguments)
    config = with_fields(
        recipe("17m", "mlm", "pretrain"),
        {
            "model.vocabulary": 0,
            "data.data": options.data,
            "data.row_length": options.row_length,
            "data.piece_length": options.piece_length or options.row_length,
            "data.packing": options.packing,
            "data.held_out_share": options.held_out_share,
            "data.index_folder": options.index_folder,
        },
    )
    data = open_data(config, options.threads)
    print(source_table(data, count=True))
    if options.held_out_share:
        print(f"held out: {data.held_out_rows:,} rows at {options.held_out_share:.3%} of the documents")
    return 0
