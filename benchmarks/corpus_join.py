#!/usr/bin/env python3
"""A corpus of very many documents in a thousand parts: join, open, first batch, ``ettin order --document``.

One part with a real index, whose text is a hole, is linked under a thousand names, so that a corpus of 2,000,000,000
documents takes the disk of one part. Each step is a process of its own and tells its time and its peak memory. A first
batch needs the pack index, 8 bytes a piece: the corpus for it has --packed documents.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.data_parts import corpora  # noqa: E402
from benchmarks.data_parts.runs import run_on  # noqa: E402
from benchmarks.reporting import Claim, claim, show  # noqa: E402
from megatron_ettin.config.codec import to_json  # noqa: E402
from megatron_ettin.corpus.build.join import join_corpora  # noqa: E402
from megatron_ettin.corpus.build.merge import merge_corpora  # noqa: E402
from megatron_ettin.corpus.reader import open_corpus  # noqa: E402

PARTS = 1000
CHECKED_PARTS, CHECKED_DOCUMENTS = 5, 5000
JOIN_SECONDS, OPEN_SECONDS = 60, 1
MIB = 2**20
TEXT_READ = 3
"""The document that is asked for lies after this part of the corpus."""


def write_parts(folder: Path, documents: int, parts: int) -> list[Path]:
    """One part, linked under many names."""
    folder.mkdir(parents=True)
    first = corpora.write_hollow_corpus(folder / "made", documents // parts)
    files = [path for path in folder.iterdir() if path.name.startswith("made.")]
    names = [folder / f"part-{number:05d}" for number in range(parts)]
    for name in names:
        for path in files:
            os.link(path, folder / (name.name + path.name.removeprefix(first.name)))
    return names


def measured(question: str, prefix: Path) -> dict[str, float]:
    """Wall and CPU seconds and peak resident MiB of a child of this script that joins or opens."""
    command = [sys.executable, __file__, "--child", question, "--folder", str(prefix)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(question: str, prefix: Path) -> None:
    """Join the parts beside a prefix, or open it; the imports are not counted."""
    parts = sorted(path.with_suffix("") for path in prefix.parent.glob("part-*.json"))
    begun, spent = time.perf_counter(), time.process_time()
    if question == "join":
        join_corpora(parts, prefix)
    else:
        open_corpus(prefix)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    wall, cpu = time.perf_counter() - begun, time.process_time() - spent
    print(json.dumps({"wall": wall, "cpu": cpu, "mebibytes": peak / MIB}))


def check(folder: Path) -> None:
    """A joined corpus is the merged one."""
    parts = write_parts(folder, CHECKED_DOCUMENTS, CHECKED_PARTS)
    joined, merged = join_corpora(parts, folder / "joined"), merge_corpora(parts, folder / "merged")
    if joined.fingerprint != merged.fingerprint or joined.documents != merged.documents:
        raise SystemExit("error: the joined corpus is not the merged one")


def joining_claims(folder: Path, documents: int, parts: int) -> Iterator[Claim]:
    """Join and open."""
    write_parts(folder, documents, parts)
    note = f"{documents:,} documents in {parts:,} parts"
    index = 20 * documents / 1e9
    for question, target in (("join", JOIN_SECONDS), ("open", OPEN_SECONDS)):
        found = measured(question, folder / "joined")
        more = f"{note}, {found['cpu']:.2f} CPU s"
        if question == "join":
            more += f", {index / found['wall']:.1f} GB/s of index from the page cache"
        yield claim(f"{question}: wall time", found["wall"], None, "s", target, lower_is_better=True, note=more)
        yield claim(f"{question}: peak memory", found["mebibytes"], None, "MiB", note=note)


def reading_claims(folder: Path, documents: int, parts: int) -> Iterator[Claim]:
    """The first batch of a training, and where a document was read."""
    joined = join_corpora(write_parts(folder, documents, parts), folder / "joined")
    note = f"{documents:,} documents in {parts:,} parts"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for state in ("absent", "present"):
        command = [sys.executable, "-m", "benchmarks.data_parts.probe", str(joined.prefix)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment, cwd=ROOT)
        found = json.loads(done.stdout.strip().splitlines()[-1])
        yield claim(f"first batch, pack index {state}", found["seconds"], None, "s", lower_is_better=True, note=note)
        yield claim(f"first batch, pack index {state}: memory", found["anonymous_mib"], None, "MiB", note=note)
    run = folder / "run"
    run.mkdir()
    (run / "config.json").write_text(to_json(run_on(str(joined.prefix))))
    asked = ["--document", str(documents * TEXT_READ // 4), "--until", "1000"]
    command = [sys.executable, "-m", "megatron_ettin", "order", str(run), *asked]
    for state in ("absent", "present"):
        begun = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, env=environment, cwd=ROOT)
        seconds, what = time.perf_counter() - begun, f"ettin order --document, held-out index {state}"
        yield claim(what, seconds, None, "s", lower_is_better=True, note=note)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=2_000_000_000, help="of the corpus that is joined and opened")
    parser.add_argument("--packed", type=int, default=100_000_000, help="of the corpus that a batch is read from")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the documents, in a tenth of the parts")
    parser.add_argument("--folder", type=Path, help="where the corpora are made (default: a passing one)")
    parser.add_argument("--json", type=Path, help="also write the claims there")
    parser.add_argument("--child", choices=("join", "open"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.folder)
        return
    share, parts = (100, PARTS // 10) if given.quick else (1, PARTS)
    with tempfile.TemporaryDirectory(prefix="ettin-join-", dir=given.folder) as passing:
        check(Path(passing, "check"))
        claims = list(joining_claims(Path(passing, "joining"), given.documents // share, parts))
        claims += reading_claims(Path(passing, "reading"), given.packed // share, parts)
    show(claims, given.json)


if __name__ == "__main__":
    main()
