"""End-to-end rows of the corpus builder: jsonl on the disk to .bin/.idx on the disk, against what others use.

    python benchmarks/corpus_build.py [--quick] [--json FILE] [--megabytes N] [--rounds N] [--only WORDS]

Every side is a fresh process; CPU is user plus system time of the process and its children, start-up and imports
included on both sides, medians over interleaved rounds. Modules are compiled before, as those of an installed package
are. Text is read from the page cache; set TMPDIR to a file system in memory, or the wall time holds the disk's. Before
anything is timed the outputs are compared byte for byte. datatrove runs where ETTIN_DATATROVE_PYTHON names a Python
that has it. Claims about other text than the given one name it.
"""

from __future__ import annotations

import argparse
import compileall
import filecmp
import gzip
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import Claim, require  # noqa: E402
from benchmarks.texts import MULTILINGUAL, NOVELS, SHARED, code_texts, given_texts, other_text  # noqa: E402
from megatron_ettin.sources.compressed import PIECES, RawFile  # noqa: E402

PEERS = str(ROOT / "benchmarks" / "corpus_peers.py")
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Run:
    """One process, finished."""

    wall: float
    cpu: float
    megabytes: float
    """Largest resident set of the process and of each of its children."""


def run(command: list[str], **environment: str) -> Run:
    """Run a process to its end. Raises when it fails."""
    start = time.perf_counter()
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, **environment}, cwd=ROOT
    )
    assert child.stderr is not None
    errors = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{command}: status {child.returncode}\n{errors.decode()[-2000:]}")
    return Run(time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def median(runs: list[Run]) -> Run:
    """Medians of each figure."""
    return Run(*(statistics.median(getattr(one, name) for one in runs) for name in ("wall", "cpu", "megabytes")))


def hardware() -> str:
    """The processor and the number of cores this process may use."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else "unknown processor"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


REPEATED = ".repeated"
"""Ending of an empty file beside a text that holds its documents more than once."""


def write_text(path: Path, megabytes: float) -> None:
    """Mixed text as jsonl: novels, other languages and code, shuffled; code is what there is most of.

    Nothing occurs twice unless the text on this machine is less than asked for.
    """
    texts = [*given_texts(NOVELS), *given_texts(MULTILINGUAL)]
    size = sum(len(text.encode()) for text in texts)
    for text in code_texts():
        if size > megabytes * MEGABYTE:
            break
        texts.append(text)
        size += len(text.encode())
    random.Random(0).shuffle(texts)
    written = 0
    with open(path, "w", encoding="utf-8") as stream:
        while written < megabytes * MEGABYTE:
            for text in texts:
                stream.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
                written += len(text.encode())
                if written >= megabytes * MEGABYTE:
                    break
            else:
                path.with_suffix(REPEATED).touch()


def in_a_child(work: Callable[[], object]) -> None:
    """Do something in a forked process: a process starts with the peak memory of the one that starts it."""
    child = os.fork()
    if not child:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("a process that prepares inputs failed")


def find_tokenizer(folder: Path, text: Path) -> Path:
    """The Ettin tokenizer beside the checkout, else one trained on the text."""
    path = SHARED / "tokenizers" / "ettin_encoder_tokenizer.json"
    if path.exists():
        return path
    from megatron_ettin.tokenizer.train import train_tokenizer

    with open(text, encoding="utf-8") as lines:
        texts = [json.loads(line)["text"] for _, line in zip(range(2000), lines, strict=False)]
    path = folder / "tokenizer.json"
    train_tokenizer(iter(texts), 8192).save(str(path))
    return path


class Bench:
    """Inputs, the systems, and the claims made so far."""

    def __init__(self, folder: Path, *, megabytes: float, rounds: int, quick: bool) -> None:
        self.folder, self.rounds, self.quick = folder, rounds, quick
        compileall.compile_dir(ROOT / "megatron_ettin", quiet=1)
        self.text = folder / "text.jsonl"
        self.small = folder / "small.jsonl"
        in_a_child(lambda: write_text(self.text, megabytes))
        in_a_child(lambda: write_text(self.small, min(megabytes, 8)))
        self.other_text = other_text(self.text.with_suffix(REPEATED).exists())
        self.tokenizer = find_tokenizer(folder, self.small)
        self.claims: list[Claim] = []
        self.hardware = hardware()

    def ours(self, source: Path, prefix: str, threads: int, *more: str) -> list[str]:
        """Command of the builder."""
        return [
            sys.executable, "-m", "megatron_ettin", "prepare", "--input", str(source), "--output-prefix",
            str(self.folder / prefix), "--tokenizer-model", str(self.tokenizer), "--append-eod", "--overwrite",
            "--workers", str(threads), *more,
        ]  # fmt: skip

    def peer(self, name: str, source: Path, prefix: str, workers: int) -> list[str]:
        """Command of a peer."""
        python = os.environ["ETTIN_DATATROVE_PYTHON"] if name == "datatrove" else sys.executable
        return [python, PEERS, name, str(source), str(self.folder / prefix), str(self.tokenizer), str(workers)]

    def claim(
        self, text: str, ours: float, peer: float, unit: str, target: float, *, more_is_better: bool = False
    ) -> None:
        """Record a claim: the ratio is how much better we are; ``target`` is the least ratio."""
        text += self.other_text
        ratio = ours / peer if more_is_better else peer / ours
        made = Claim(
            claim=text, ours=round(ours, 4), peer=round(peer, 4), unit=unit, ratio=round(ratio, 3), target=target,
            met=ratio >= target, hardware=self.hardware,
        )  # fmt: skip
        self.claims.append(made)
        mark = "met" if made.met else "not met"
        print(
            f"{text:<74} {ours:>10.3f} {peer:>10.3f} {unit:<6} {ratio:>8.2f}x (target {target:g}x, {mark})", flush=True
        )

    def note(self, text: str, value: float, unit: str) -> None:
        """Record a figure without a peer."""
        text += self.other_text
        self.claims.append(
            Claim(
                claim=text, ours=round(value, 2), peer=None, unit=unit, ratio=None, target=None, met=None,
                hardware=self.hardware,
            )
        )  # fmt: skip
        print(f"{text:<74} {value:>10.1f} {unit}", flush=True)

    def interleave(self, *commands: list[str], rounds: int | None = None) -> list[Run]:
        """Medians of several commands, run in turn; what a command wrote before is gone when it starts."""
        results: list[list[Run]] = [[] for _ in commands]
        for _ in range(rounds or self.rounds):
            for result, command in zip(results, commands, strict=True):
                self.remove_outputs(command)
                result.append(run(command))
        return [median(result) for result in results]

    def remove_outputs(self, command: list[str]) -> None:
        """Delete what a command wrote before: files under a prefix that is one of its arguments."""
        for prefix in (Path(argument) for argument in command):
            if prefix.parent == self.folder and not prefix.suffix:
                for path in self.folder.glob(f"{prefix.name}.*"):
                    path.unlink()

    def same(self, first: str, second: str) -> None:
        """Stop the benchmark when two outputs differ."""
        for suffix in (".bin", ".idx"):
            one, other = (self.folder / f"{name}{suffix}" for name in (first, second))
            if not filecmp.cmp(one, other, shallow=False):
                raise SystemExit(f"{one.name} and {other.name} differ: no timing of unequal work")


def megatron_row(bench: Bench) -> None:
    """Against Megatron-LM's script."""
    source = bench.small if bench.quick else bench.text
    run(bench.ours(bench.small, "a", 2))
    run(bench.peer("megatron", bench.small, "b", 2))
    bench.same("a", "b")
    ours, peer = bench.interleave(bench.ours(source, "a", 2), bench.peer("megatron", source, "b", 2))
    bench.same("a", "b")
    bench.claim(
        f"end to end, {source.stat().st_size / 1e6:.0f} MB: tokenizers + IndexedDatasetBuilder",
        ours.cpu,
        peer.cpu,
        "CPU s",
        130,
    )


def gigatoken_row(bench: Bench) -> None:
    """Against Megatron-LM's newest script."""
    run(bench.ours(bench.small, "a", 2))
    run(bench.peer("gigatoken", bench.small, "b", 2))
    bench.same("a", "b")
    ours, peer = bench.interleave(bench.ours(bench.text, "a", 2), bench.peer("gigatoken", bench.text, "b", 2))
    size = bench.text.stat().st_size / 1e6
    bench.claim(f"end to end, {size:.0f} MB: gigatoken + IndexedDatasetBuilder", ours.cpu, peer.cpu, "CPU s", 8)
    bench.claim(
        f"peak memory, {size:.0f} MB, 2 threads: gigatoken + IndexedDatasetBuilder",
        ours.megabytes,
        peer.megabytes,
        "MiB",
        10,
    )


def require_datatrove() -> None:
    """End the program with status 2 when the Python that was named for it has no datatrove."""
    python = os.environ.get("ETTIN_DATATROVE_PYTHON")
    if not python:
        return
    program = "import datatrove.pipeline.tokens"
    if not shutil.which(python) or subprocess.run([python, "-c", program], capture_output=True, check=False).returncode:
        print(
            f"error: ETTIN_DATATROVE_PYTHON={python} cannot import datatrove; run: {python} -m pip install "
            "'datatrove[io,processing]' tokenizers, or unset the variable",
            file=sys.stderr,
        )
        raise SystemExit(2)


def datatrove_row(bench: Bench) -> None:
    """Against datatrove."""
    if "ETTIN_DATATROVE_PYTHON" not in os.environ:
        print("datatrove: skipped, ETTIN_DATATROVE_PYTHON names no Python that has it")
        return
    ours, peer = bench.interleave(
        bench.ours(bench.text, "a", 2), bench.peer("datatrove", bench.text, "d", 2), rounds=1 if bench.quick else None
    )
    size = bench.text.stat().st_size / 1e6
    bench.claim(f"end to end, {size:.0f} MB: datatrove MegatronDocumentTokenizer", ours.cpu, peer.cpu, "CPU s", 100)


def threads_row(bench: Bench) -> None:
    """Two threads against one; wall time means nothing on a machine that others use."""
    one, two = bench.interleave(bench.ours(bench.text, "a", 1), bench.ours(bench.text, "b", 2))
    bench.same("a", "b")
    start = bench.interleave(bench.ours(bench.small, "c", 1))[0]
    bench.claim(
        "wall, two threads against one, start-up taken off",
        max(two.wall - start.wall, 1e-3),
        one.wall - start.wall,
        "s",
        1.9,
    )
    bench.claim("CPU, two threads against one (1 is perfect)", two.cpu, one.cpu, "CPU s", 0.95)


def memory_row(bench: Bench) -> None:
    """Peak memory whatever the size and the format of the input."""
    inputs = {"jsonl": bench.text}
    for kind, write in {
        "zst, window 128 MiB": write_long_window,
        "parquet, row groups of 64 MB": write_parquet,
    }.items():
        inputs[kind] = bench.folder / f"memory.{'parquet' if kind[0] == 'p' else 'jsonl.zst'}"
        in_a_child(lambda write=write, path=inputs[kind]: write(bench.text, path))
    for kind, source in inputs.items():
        for threads in (1, 2):
            built = run(bench.ours(source, "a", threads))
            text = f"peak memory, {kind}, {threads} threads, against 200 MB + 120 MB a thread"
            bench.claim(text, built.megabytes, (200 + 120 * threads) * MEGABYTE / 2**20, "MiB", 1)


def large_row(bench: Bench) -> None:
    """Many gigabytes, by repeating the text: our peak there, a peer's at a tenth of it, and the steady state."""
    large, tenth = bench.folder / "large.jsonl", bench.folder / "tenth.jsonl"
    copies = 2 if bench.quick else 20
    in_a_child(lambda: repeat(bench.text, large, copies))
    in_a_child(lambda: repeat(bench.text, tenth, max(1, copies // 10)))
    ours, peer = run(bench.ours(large, "a", 2)), run(bench.peer("gigatoken", tenth, "b", 2))
    sizes = [path.stat().st_size / 1e6 for path in (large, tenth)]
    text = f"peak memory, {sizes[0]:.0f} MB, 2 threads: gigatoken + IndexedDatasetBuilder at {sizes[1]:.0f} MB"
    bench.claim(text, ours.megabytes, peer.megabytes, "MiB", 10)
    once = run(bench.ours(bench.text, "a", 2))
    steady = (large.stat().st_size - bench.text.stat().st_size) / 1e6 / (ours.cpu - once.cpu)
    cold = bench.text.stat().st_size / 1e6 / once.cpu
    bench.note(f"steady state over {sizes[0]:.0f} MB of repeated text", steady, "MB a CPU s")
    bench.note(f"the first {bench.text.stat().st_size / 1e6:.0f} MB, start-up included", cold, "MB a CPU s")
    large.unlink()
    tenth.unlink()


def repeat(text: Path, path: Path, copies: int) -> None:
    """A file several times over."""
    data = text.read_bytes()
    with open(path, "wb") as stream:
        for _ in range(copies):
            stream.write(data)


def write_long_window(text: Path, path: Path) -> None:
    """One zstd frame that looks back 128 MiB, the most that is read."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=27, enable_ldm=True)
    path.write_bytes(zstandard.ZstdCompressor(compression_params=parameters).compress(text.read_bytes()))


def write_parquet(text: Path, path: Path) -> None:
    """Row groups of 64 MB of text."""
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"text": [json.loads(line)["text"] for line in text.read_bytes().splitlines()]})
    rows = max(1, round(64 * MEGABYTE / text.stat().st_size * table.num_rows))
    parquet.write_table(table, path, row_group_size=rows)


def roofline_rows(bench: Bench) -> None:
    """The same bytes through what any builder must do at least, one thread, from memory."""
    from megatron_ettin import _native

    data = bench.text.read_bytes()
    target = memoryview(bytearray(len(data)))
    works: dict[str, Callable[[], object]] = {
        "memcpy": lambda: target.__setitem__(slice(None), data),
        "finding newlines": lambda: data.count(b"\n"),
        "UTF-8 validation": lambda: _native.utf8_valid_prefix(data),
        "crc32c": lambda: _native.crc32c(data),
    }
    for name, work in works.items():
        work()
        bench.note(f"roofline: {name}", len(data) / 1e6 / statistics.median(cpu_of(work) for _ in range(5)), "MB/s")
    for suffix in ("gz", "zst"):
        path = bench.folder / f"text.jsonl.{suffix}"
        in_a_child(lambda path=path, suffix=suffix: write_compressed(bench.text, path, suffix))
        for _ in range(2):  # the first also imports
            with RawFile(path) as raw:
                seconds = cpu_of(lambda raw=raw, suffix=suffix: deque(PIECES[suffix](raw), maxlen=0))
        bench.note(f"roofline: decompression of {suffix}", len(data) / 1e6 / seconds, "MB/s")
        path.unlink()


def cpu_of(work: Callable[[], object]) -> float:
    """CPU seconds of a call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compressed_rows(bench: Bench) -> None:
    """gz and zst input against the slower of decompressing and building: with a core to spare, and with none."""
    cores = len(os.sched_getaffinity(0))
    for suffix in ("gz", "zst"):
        path = bench.folder / f"text.jsonl.{suffix}"
        in_a_child(lambda path=path, suffix=suffix: write_compressed(bench.text, path, suffix))
        alone = [sys.executable, "-c", DECOMPRESS, str(path), suffix]
        for threads in sorted({max(1, cores - 1), cores}):
            built, plain, inflate = bench.interleave(
                bench.ours(path, "a", threads), bench.ours(bench.text, "b", threads), alone
            )
            bench.same("a", "b")
            slower = max(plain.wall, inflate.wall)
            text = (
                f"{suffix} input, {threads} encoders on {cores} cores, wall: decompression or plain input, the slower"
            )
            bench.claim(text, built.wall, slower, "s", 0.8)
        path.unlink()


def write_compressed(text: Path, path: Path, suffix: str) -> None:
    """Compress a file: eight gzip members at level 6, or one zstd frame at level 3."""
    import zstandard

    data = text.read_bytes()
    step = len(data) // 8 + 1
    members = (gzip.compress(data[at : at + step], 6) for at in range(0, len(data), step))
    path.write_bytes(zstandard.compress(data, 3) if suffix == "zst" else b"".join(members))


DECOMPRESS = """
import sys
from pathlib import Path
from megatron_ettin.sources.compressed import PIECES, RawFile
with RawFile(Path(sys.argv[1])) as raw:
    for piece in PIECES[sys.argv[2]](raw):
        pass
"""


def read_once(paths: list[Path]) -> None:
    """Read files through a buffer of 1 MiB."""
    buffer = bytearray(1 << 20)
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        while os.readv(descriptor, [buffer]):
            pass
        os.close(descriptor)


def verify_row(bench: Bench) -> None:
    """The full check against reading the files once with one thread, and with as many as the check takes."""
    run(bench.ours(bench.text, "a", 2))
    from megatron_ettin.corpus.verify import verify_corpus

    figures: dict[str, tuple[list[float], list[float]]] = {"wall": ([], []), "CPU": ([], [])}
    clocks = {"wall": time.perf_counter, "CPU": time.process_time}
    for _ in range(4 * bench.rounds + 1):
        for side, work in enumerate((lambda: verify_corpus(bench.folder / "a"), lambda: read_once(files_of(bench)))):
            start = {name: clock() for name, clock in clocks.items()}
            work()
            for name, clock in clocks.items():
                figures[name][side].append(clock() - start[name])
    if not verify_corpus(bench.folder / "a").whole:
        raise SystemExit("the corpus does not verify")
    for name, (checks, reads) in figures.items():
        text = f"verify with every core, {name}, against reading the files once with one"
        bench.claim(text, statistics.median(checks), statistics.median(reads), "s", round(1 / 1.5, 3))


def files_of(bench: Bench) -> list[Path]:
    """The files of the corpus that was built."""
    return [bench.folder / f"a{suffix}" for suffix in (".bin", ".idx", ".tokenizer.json", ".json")]


ROWS: dict[str, Callable[[Bench], None]] = {
    "megatron": megatron_row,
    "gigatoken": gigatoken_row,
    "datatrove": datatrove_row,
    "threads": threads_row,
    "memory": memory_row,
    "compressed": compressed_rows,
    "verify": verify_row,
    "large": large_row,
    "roofline": roofline_rows,
}


def main() -> int:
    """Print a table, then one JSON object a claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small inputs, one round, within a minute on 2 cores")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--megabytes", type=float)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS))
    given = parser.parse_args()
    require("megatron.core", "tokenizers", "zstandard", "pyarrow", install="pip install .")
    if {"gigatoken", "large"} & set(given.only):
        require("gigatoken", "awkward", install="pip install '.[bench]', or choose other rows with --only")
    if "datatrove" in given.only:
        require_datatrove()
    folder = Path(tempfile.mkdtemp(prefix="ettin-corpus-"))
    try:
        megabytes = given.megabytes or (16 if given.quick else 200)
        bench = Bench(folder, megabytes=megabytes, rounds=given.rounds or (1 if given.quick else 3), quick=given.quick)
        print(f"{bench.hardware}; {bench.text.stat().st_size / 1e6:.0f} MB of jsonl, tokenizer {bench.tokenizer.name}")
        for name in ROWS:  # the last ones fill this process, and a child starts with the peak memory of its parent
            if name in given.only:
                ROWS[name](bench)
    finally:
        shutil.rmtree(folder)
    lines = "".join(json.dumps(asdict(claim)) + "\n" for claim in bench.claims)
    print(lines, end="")
    if given.json:
        given.json.write_text(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
