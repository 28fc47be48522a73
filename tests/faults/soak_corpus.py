"""Kill a corpus build again and again at random moments: the bytes that come out in the end must never change.

    python -m tests.faults.soak_corpus --kills 200 --json benchmarks/results/corpus_soak.json

Each round builds one corpus; its process is killed with SIGKILL at a random moment, or given a random limit on the
size of files (the disk is full), and started again until it ends by itself. Every round draws the input formats, the
number of threads and whether bad records are skipped.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build import run as run_build_module
from megatron_ettin.corpus.verify import verify_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.tokenizer.train import train_tokenizer

BLOCK_BYTES = 16 << 10
WORDS = "the sea was dark and cold; she went, 12 ships in 1861. Fluß führt Wasser 日本語 текст 🙂".split()  # noqa: SIM905
SUFFIXES = (".bin", ".idx", ".rejects.jsonl")


@dataclass
class Outcome:
    """What happened."""

    rounds: int = 0
    kills: int = 0
    full_disks: int = 0
    resumed: int = 0
    different: int = 0
    damaged: int = 0


def write_inputs(folder: Path, source: random.Random, megabytes: float) -> list[Path]:
    """The same records in four formats, with some bad lines in the plain file."""
    lines, size = [], 0
    while size < megabytes * 1e6:
        text = " ".join(source.choices(WORDS, k=source.randrange(1, 400)))
        lines.append(json.dumps({"text": text}, ensure_ascii=source.random() < 0.5))
        size += len(text)
    good = "\n".join(lines) + "\n"
    for place in range(10, len(lines), 100):
        lines[place] = '{"text": 1}'
    (folder / "plain.jsonl").write_text("\n".join(lines) + "\n")
    half = len(good) // 2
    packed = gzip.compress(good[:half].encode()) + gzip.compress(good[half:].encode())
    (folder / "packed.jsonl.gz").write_bytes(packed)
    (folder / "parted.txt").write_text(good.replace("\n", "\n\n"))
    table = pyarrow.table({"text": [json.loads(line)["text"] for line in good.splitlines()]})
    pyarrow.parquet.write_table(table, folder / "table.parquet", row_group_size=500)
    return sorted(folder.iterdir())


def digest(prefix: Path) -> str:
    """Hash of the files of a corpus."""
    state = hashlib.sha256()
    for suffix in SUFFIXES:
        path = prefix.with_name(prefix.name + suffix)
        state.update(path.read_bytes() if path.exists() else b"none")
    return state.hexdigest()


def run_child(inputs: list[Path], prefix: Path, tokenizer: Path, options: BuildOptions, limit: int | None) -> int:
    """Start a build in a forked process; ``limit`` bounds the size of its files."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        build_corpus(inputs, prefix, tokenizer, options, command="soak")
        status = 0
    except (DataError, OSError) as error:
        status = 3 if "File too large" in str(error) else 4
        if status == 4:
            print(error, file=sys.stderr)
    finally:
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """The status of a process within a time, else None."""
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        if time.monotonic() > end:
            return None
        time.sleep(0.0005)


def one_round(
    folder: Path, inputs: list[Path], tokenizer: Path, source: random.Random, outcome: Outcome, expected: dict[str, str]
) -> None:
    """One corpus, interrupted until it is done."""
    chosen = sorted(source.sample(inputs, source.randrange(1, len(inputs) + 1)))
    options = BuildOptions(
        on_error="skip", threads=source.randrange(1, 4), append_eod=True, text_separator="\n\n",
        partitions=source.choice([1, 1, 3]),
    )  # fmt: skip
    name = " ".join(path.name for path in chosen) + f" {options.partitions}"
    if name not in expected:
        start = time.monotonic()
        build_corpus(chosen, folder / "reference", tokenizer, options, command="soak")
        expected[name] = f"{time.monotonic() - start} {digest(folder / 'reference')}"
        remove(folder, "reference")
    seconds, wanted = expected[name].split(" ")
    prefix, started = folder / "soaked", 0
    while True:
        limit = source.randrange(1, 3_000_000) if source.random() < 0.2 else None
        child = run_child(chosen, prefix, tokenizer, options, limit)
        started += 1
        status = wait(child, source.uniform(0, 1.3) * float(seconds) + 0.002)
        if status is None:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            outcome.kills += 1
        elif os.waitstatus_to_exitcode(status) == 3:
            outcome.full_disks += 1
        elif os.waitstatus_to_exitcode(status) == 0:
            break
        else:
            raise RuntimeError(f"the build failed by itself: {name}, status {status}")
    outcome.resumed += started > 1
    outcome.rounds += 1
    outcome.different += digest(prefix) != wanted
    outcome.damaged += not verify_corpus(prefix, threads=1).whole
    remove(folder, "soaked")


def remove(folder: Path, name: str) -> None:
    """Take the files of a corpus away."""
    for path in folder.glob(f"{name}.*"):
        path.unlink()


def soak(folder: Path, kills: int, seed: int, megabytes: float) -> Outcome:
    """Rounds until that many kills happened."""
    source, outcome, expected = random.Random(seed), Outcome(), {}
    inputs_folder = folder / "inputs"
    inputs_folder.mkdir()
    inputs = write_inputs(inputs_folder, source, megabytes)
    tokenizer = folder / "tokenizer.json"
    train_tokenizer(iter([" ".join(WORDS)] * 3), 400).save(str(tokenizer))
    before = run_build_module.block_bytes
    run_build_module.block_bytes = lambda total: BLOCK_BYTES
    try:
        while outcome.kills < kills:
            one_round(folder, inputs, tokenizer, source, outcome, expected)
    finally:
        run_build_module.block_bytes = before
    return outcome


def main() -> int:
    """Exit status 1 when any corpus came out different."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--megabytes", type=float, default=3)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = soak(Path(folder), given.kills, given.seed, given.megabytes)
    result = {**asdict(outcome), "seed": given.seed, "megabytes": given.megabytes, "block_bytes": BLOCK_BYTES}
    print(json.dumps(result))
    if given.json:
        with contextlib.suppress(FileExistsError):
            given.json.parent.mkdir(parents=True)
        given.json.write_text(json.dumps(result) + "\n")
    return 1 if outcome.different or outcome.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
