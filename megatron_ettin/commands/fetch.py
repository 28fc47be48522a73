"""`ettin fetch`: the published Ettin text from the hub, or a part of each of its sources."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from megatron_ettin.progress import format_count

DESCRIPTION = """Fetch the text that the published Ettin models were trained on, as MDS shards with their indexes.

Every file is compared with the checksum that the hub names. Interrupted, the same command goes on where it stopped,
with the same revision. A token for the hub is taken from HF_TOKEN."""


def parser() -> argparse.ArgumentParser:
    """The arguments of the verb."""
    from megatron_ettin.sources.remote.mixtures import REPOSITORIES

    result = argparse.ArgumentParser(
        prog="ettin fetch", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--mixture", choices=tuple(REPOSITORIES), required=True, help="by the stage it was made for")
    result.add_argument("--output", type=Path, required=True, help="an empty folder, or one that this was begun in")
    result.add_argument("--fraction", type=float, default=1.0, help="of the shards of each source, at least one")
    result.add_argument("--revision", default="", help="branch, tag or commit; by default the newest")
    return result


def main(arguments: list[str]) -> int:
    """Fetch; exit status 0 when all is there."""
    from megatron_ettin.sources.remote.mixtures import fetch_mixture

    given = parser().parse_args(arguments)
    command = shlex.join(["ettin", "fetch", *arguments])
    found = fetch_mixture(given.mixture, given.output, given.fraction, given.revision, command)
    size = sum(file.bytes for file in found.files)
    print(
        f"{given.output}: {len(found.files):,} shards, {format_count(size, 'B')}, of {found.repository} at "
        f"{found.plan.commit}"
    )
    for source in sorted({file.path.partition("/")[0] for file in found.files}):
        shards = [file for file in found.files if file.path.startswith(f"{source}/")]
        columns = ", ".join(f"{name} ({kind})" for name, kind in found.columns.get(source, {}).items())
        print(f"  {source}: {len(shards):,} shards, {format_count(sum(f.bytes for f in shards), 'B')}; {columns}")
    print("next, for each source: ettin prepare --input FOLDER/SOURCE --json-keys COLUMN ...")
    return 0
