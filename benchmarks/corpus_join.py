#!/usr/bin/env python3
"""A corpus of very many documents in a thousand parts: join, open, first batch, ``ettin order --document``.

One part with a real index, whose text is a hole, is linked under a thousand names, so that a corpus of 2,000,000,000
documents takes the disk of one part. Each step is a process of its own and tells its time and its peak memory. A first
batch needs the pack index, 8 bytes a piece, written to the disk: the corpus for it has --packed documents. How fast the
disk reads and writes is measured first.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.data_parts import corpora  # noqa: E402
from benchmarks.data_parts.probe import AnonymousPeak  # noqa: E402
from benchmarks.data_parts.runs import run_on  # noqa: E402
from benchmarks.reporting import Claim, claim, show  # noqa: E402
from megatron_ettin import cli  # noqa: E402
from megatron_ettin.config.codec import to_json  # noqa: E402
from megatron_ettin.corpus.build.join import join_corpora  # noqa: E402
from megatron_ettin.corpus.build.merge import merge_corpora  # noqa: E402
from megatron_ettin.corpus.reader import open_corpus  # noqa: E402

PARTS = 1000
CHECKED_PARTS, CHECKED_DOCUMENTS = 5, 5000
JOIN_SECONDS, OPEN_SECONDS = 60, 1
QUICK_SHARE = 100
INDEX_BYTES, HASH_BYTES, PACK_BYTES = 20, 4, 16
"""Of a document: in .idx, in its text hashes, and, with a margin, in the pack index."""
DISK_BYTES, PIECE_BYTES = 2 << 30, 8 << 20
"""Size of the file by which the disk is measured, and of each write to it."""
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


def disk_limits(folder: Path) -> tuple[float, float]:
    """GB/s at which the disk of a folder writes and reads: one file, one thread, to the disk and not to the cache."""
    path, piece = folder / "disk", memoryview(os.urandom(PIECE_BYTES))
    begun = time.perf_counter()
    with path.open("wb", buffering=0) as stream:
        for _ in range(DISK_BYTES // PIECE_BYTES):
            stream.write(piece)
        os.fsync(stream.fileno())
        written = time.perf_counter()
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    buffer = bytearray(PIECE_BYTES)
    begun_reading = time.perf_counter()
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass
    read = time.perf_counter() - begun_reading
    path.unlink()
    return DISK_BYTES / (written - begun) / 1e9, DISK_BYTES / read / 1e9


def measured(question: str, folder: Path, document: int = 0) -> dict[str, float]:
    """Wall and CPU seconds and peak anonymous MiB of a child of this script."""
    command = [sys.executable, __file__, "--child", question, "--folder", str(folder), "--document", str(document)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(question: str, folder: Path, document: int) -> None:
    """Join the parts beside a prefix, open it, or ask a run for a document; the imports are not counted."""
    parts = sorted(path.with_suffix("") for path in folder.parent.glob("part-*.json"))
    memory = AnonymousPeak()
    begun, spent = time.perf_counter(), time.process_time()
    if question == "join":
        join_corpora(parts, folder)
    elif question == "open":
        open_corpus(folder)
    else:
        asked = ["order", str(folder), "--document", str(document), "--until", "1000"]
        if cli.main(asked):
            raise SystemExit("error: the document was not found")
    wall, cpu = time.perf_counter() - begun, time.process_time() - spent
    print(json.dumps({"wall": wall, "cpu": cpu, "mebibytes": memory.close()}))


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
    index = INDEX_BYTES * documents / 1e9
    for question, target in (("join", JOIN_SECONDS), ("open", OPEN_SECONDS)):
        found = measured(question, folder / "joined")
        more = f"{note}, {found['cpu']:.2f} CPU s"
        if question == "join":
            more += f", {index / found['wall']:.1f} GB/s of index from the page cache"
        yield claim(f"{question}: wall time", found["wall"], None, "s", target, lower_is_better=True, note=more)
        yield claim(f"{question}: peak memory", found["mebibytes"], None, "MiB", note=note)


def reading_claims(folder: Path, documents: int, parts: int, write_limit: float) -> Iterator[Claim]:
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
        if state == "absent":
            size = sum(path.stat().st_size for path in folder.glob("joined.*.pack"))
            read = (INDEX_BYTES + HASH_BYTES) * documents / 1e9 / found["seconds"]
            yield claim(
                "pack index, written", size / 1e9 / found["seconds"], write_limit, "GB/s", peer_name="the disk",
                note=f"{size / documents:.1f} bytes a document; {read:.2f} GB/s of indexes read from the page cache",
            )  # fmt: skip
    run = folder / "run"
    run.mkdir()
    (run / "config.json").write_text(to_json(run_on(str(joined.prefix))))
    for state in ("absent", "present"):
        found, what = measured("document", run, documents * TEXT_READ // 4), f"held-out index {state}"
        more = f"{note}, {found['cpu']:.2f} CPU s"
        yield claim(f"ettin order --document, {what}", found["wall"], None, "s", lower_is_better=True, note=more)
        yield claim(f"ettin order --document, {what}: memory", found["mebibytes"], None, "MiB", note=note)


def require_space(folder: Path, packed: int) -> None:
    """End the program with status 2 where the disk has no room for the pack index."""
    needed, free = PACK_BYTES * packed + DISK_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        print(f"error: {folder} has {free / 1e9:.0f} GB free, {needed / 1e9:.0f} are needed", file=sys.stderr)
        raise SystemExit(2)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=int, default=2_000_000_000, help="of the corpus that is joined and opened")
    parser.add_argument("--packed", type=int, default=2_000_000_000, help="of the corpus that a batch is read from")
    parser.add_argument("--quick", action="store_true", help="a hundredth of the documents, in a tenth of the parts")
    parser.add_argument("--folder", type=Path, help="where the corpora are made (default: a passing one)")
    parser.add_argument("--json", type=Path, help="also write the claims there")
    parser.add_argument("--child", choices=("join", "open", "document"), help=argparse.SUPPRESS)
    parser.add_argument("--document", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.folder, given.document)
        return
    share, parts = (QUICK_SHARE, PARTS // 10) if given.quick else (1, PARTS)
    with tempfile.TemporaryDirectory(prefix="ettin-join-", dir=given.folder) as passing:
        require_space(Path(passing), given.packed // share)
        check(Path(passing, "check"))
        written, read = disk_limits(Path(passing))
        claims = [claim("the disk, writing", written, None, "GB/s"), claim("the disk, reading", read, None, "GB/s")]
        claims += joining_claims(Path(passing, "joining"), given.documents // share, parts)
        claims += reading_claims(Path(passing, "reading"), given.packed // share, parts, written)
    show(claims, given.json)


if __name__ == "__main__":
    main()
