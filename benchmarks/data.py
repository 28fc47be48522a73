"""Speed, fill and memory of the data side, each claim beside a peer in the same run.

python benchmarks/data.py [--quick] [--only PART ...] [--documents N] [--folder DIR] [--json FILE]

--quick: smaller inputs, under a minute, no targets where they are tied to the full size. PART is packing, order,
masking, loader or opening. The corpora that are opened are kept in --folder, and used again; a corpus of 500,000,000
documents (--only opening --documents 500000000) takes 19 GB there.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from benchmarks.data_parts import corpora, peers  # noqa: E402
from benchmarks.data_parts.runs import run_on  # noqa: E402
from benchmarks.reporting import Claim, claim, cpu_seconds, interleaved, require, show, wall_seconds  # noqa: E402
from megatron_ettin import _native  # noqa: E402
from megatron_ettin.config.codec import to_json  # noqa: E402
from megatron_ettin.config.sharing import Sharing  # noqa: E402
from megatron_ettin.corpus.reader import open_corpus  # noqa: E402
from megatron_ettin.rows.assembly import mask_rule  # noqa: E402
from megatron_ettin.rows.data_record import record_data  # noqa: E402
from megatron_ettin.rows.loader import Loader  # noqa: E402
from megatron_ettin.rows.order import (  # noqa: E402
    Permutation,  # noqa: E402
    Stream,
    permutation_keys,
)
from megatron_ettin.rows.packing import native_corpus, pack_spec  # noqa: E402
from megatron_ettin.rows.run_data import open_data  # noqa: E402
from tests.twins import packing as packing_twin  # noqa: E402
from tests.twins import randomness  # noqa: E402

FULL_DOCUMENTS, QUICK_DOCUMENTS = 100_000_000, 2_000_000
MASKED_TOGETHER = 64
"""Rows of a micro-batch that is masked, for all sides."""
PARTS = ["packing", "order", "masking", "loader", "opening"]


def pack(corpus: _native.IndexedCorpus, row_length: int, piece_length: int) -> list[tuple]:
    """All blocks of a corpus on one core."""
    blocks = -(-corpus.documents // _native.BLOCK_DOCUMENTS)
    return _native.pack_blocks(
        corpus, 0, blocks, row_length=row_length, piece_length=piece_length, concatenated=False, hashes=None, key=0,
        below=0, held_out=False, threads=1,
    )  # fmt: skip


def packing_claims(folder: Path, quick: bool) -> Iterator[Claim]:
    """Fill and speed of packing."""
    documents = 400_000 if quick else 4_000_000
    prefix = corpora.write_hollow_corpus(folder / "packing", documents)
    corpus = native_corpus(open_corpus(prefix))
    lengths = np.concatenate([corpora.web_lengths(min(corpora.CHUNK, documents))])
    check_packing(folder)
    for row_length, piece_length, target in ((1024, 1024, 30), (8192, 8192, 15)):
        sample = peers.pieces_of(lengths[: 100_000 if row_length == 1024 else 200_000], piece_length)
        greedy_fill = peers.greedy_best_fit(sample, row_length)
        blocks = pack(corpus, row_length, piece_length)
        pieces, rows = sum(len(block[0]) for block in blocks), sum(block[2] for block in blocks)
        fill = (int(lengths.sum(dtype=np.int64)) + peers.SPECIALS * pieces) / (rows * row_length)
        yield claim(
            f"packing fill at {row_length:,}", 100 * fill, 100 * greedy_fill, "% of positions", 99.95,
            peer_name="greedy best fit with a buffer", note="nothing truncated",
        )  # fmt: skip
        seconds = interleaved({
            "ours": partial(cpu_seconds, partial(pack, corpus, row_length, piece_length)),
            "greedy": partial(cpu_seconds, partial(peers.greedy_best_fit, sample, row_length)),
        })  # fmt: skip
        yield claim(
            f"packing speed at {row_length:,}", pieces / seconds["ours"] / 1e6, len(sample) / seconds["greedy"] / 1e6,
            "M pieces per CPU second", target, peer_name="greedy best fit in plain Python",
        )  # fmt: skip


def check_packing(folder: Path) -> None:
    """The native rows are those of the plain definition, and as few as plain best-fit decreasing needs."""
    prefix = corpora.write_hollow_corpus(folder / "check", 3000)
    lengths = corpora.web_lengths(3000)
    ((entries, _, rows, _),) = pack(native_corpus(open_corpus(prefix)), 1024, 1024)
    expected = packing_twin.best_fit_rows(lengths.tolist(), 1024, 1024)
    starts = np.flatnonzero(entries >> 63)
    found = [
        [(int(e) >> 46 & 0x1FFFF, int(e) >> 15 & 0x7FFFFFFF, int(e) & 0x7FFF) for e in part]
        for part in np.split(entries, starts[1:])
    ]
    assert found == [[(p.document, p.start, p.length) for p in row] for row in expected]
    assert rows == peers.best_fit_decreasing(peers.pieces_of(lengths, 1024), 1024)


def order_claims(quick: bool) -> Iterator[Claim]:
    """Random access into the order."""
    size = 10_000_000 if quick else 200_000_000
    keys = permutation_keys(21, Stream.ORDER, 0, 0)
    ours, rng = Permutation(size, keys), np.random.default_rng(0)
    twin = randomness.Permutation(size, keys)
    places = rng.integers(0, size, 2_000_000)
    assert ours.at(places[:200]).tolist() == [twin.at(int(place)) for place in places[:200]]
    table = rng.permutation(size)
    seconds = interleaved({
        "ours": partial(cpu_seconds, partial(ours.at, places)),
        "inverse": partial(cpu_seconds, partial(ours.position_of, places)),
        "table": partial(cpu_seconds, partial(table.__getitem__, places)),
    })  # fmt: skip
    name = f"numpy permutation of {size:,} in {table.nbytes / 2**30:.1f} GiB"
    for job, text in (("ours", "order: row at a place"), ("inverse", "order: place of a row")):
        yield claim(
            text, len(places) / seconds[job] / 1e6, len(places) / seconds["table"] / 1e6, "M rows per CPU second", 20,
            peer_name=name, note="no table",
        )  # fmt: skip


def masking_claims(quick: bool) -> Iterator[Claim]:
    """Masking of rows in memory."""
    import torch

    torch.set_num_threads(1)
    config = run_on("none").data
    rule = mask_rule(config, corpora.VOCABULARY, corpora.SPECIAL_IDS, None)
    rows = np.random.default_rng(0).integers(300, 50_000, (1024 if quick else 8192, 1024)).astype(np.int32)
    specials = torch.tensor(list(corpora.SPECIAL_IDS.values()))
    sets = _native.instruction_sets()

    def ours(part: np.ndarray, instructions: _native.InstructionSet = sets[-1]) -> tuple:
        return _native.mask_rows(part, rule, (1, 2), (3, 4), 0, 0, instructions)

    for a, b in zip(ours(rows[:100]), ours(rows[:100], sets[0]), strict=True):
        assert (a == b).all()
    draws = _native.row_draws((1, 2), 5, 0, 100)
    assert draws.tolist() == [randomness.row_draw((1, 2), 5, 0, token) for token in range(100)]
    parts, rng = rows.reshape(-1, MASKED_TOGETHER, 1024), np.random.default_rng(1)
    sample = parts[:16]
    arguments = corpora.SPECIAL_IDS["[MASK]"], corpora.VOCABULARY, config.mask_share
    seconds = interleaved({
        "ours": lambda: cpu_seconds(lambda: [len(ours(part)) for part in parts]),
        "numpy": lambda: cpu_seconds(lambda: [peers.mask_numpy(part, *arguments, rng) for part in sample.copy()]),
        "collator": lambda: cpu_seconds(
            lambda: [peers.mask_huggingface(part, *arguments, specials) for part in torch.from_numpy(sample.copy())]
        ),
    })  # fmt: skip
    speed = rows.size / seconds["ours"] / 1e6
    for peer, name in (("collator", "algorithm of the Hugging Face collator"), ("numpy", "numpy")):
        yield claim(
            "masking, index form",
            speed,
            sample.size / seconds[peer] / 1e6,
            "M tokens per CPU second",
            200,
            peer_name=name,
        )


def loader_claims(folder: Path, quick: bool) -> Iterator[Claim]:
    """Batches out of the loader."""
    prefix = corpora.write_random_corpus(folder / "loader", 30_000 if quick else 200_000)
    for row_length, rows in ((1024, 16), (8192, 4)):
        peer = torch_loader_speed(str(prefix), row_length, rows, quick)
        for objective in ("mlm", "clm"):
            stage = open_data(run_on(str(prefix), row_length, objective))
            speeds = [loader_speed(stage, rows, 3 if quick else 10) for _ in range(3)]
            yield claim(
                f"loader, rows of {row_length:,}, {objective}, 2 cores", float(np.median(speeds)), peer,
                "M tokens per second", 60, peer_name="torch DataLoader, 2 workers, numpy masking",
            )  # fmt: skip


def loader_speed(stage, micro_batch_rows: int, steps: int) -> float:  # noqa: ANN001
    """Million tokens a second after the first step."""
    with Loader(stage, stage.config.objective, sharing=partial(Sharing, size=micro_batch_rows)) as loader:
        next(loader)
        tokens = 0

        def run() -> None:
            nonlocal tokens
            tokens = sum(batch.tokens for _ in range(steps) for batch in next(loader)[1])

        seconds = wall_seconds(run)
    return tokens / seconds / 1e6


def torch_loader_speed(prefix: str, row_length: int, batch_rows: int, quick: bool) -> float:
    """The same for torch's DataLoader, after its workers have started; its rows are compared with ours first."""
    from torch.utils.data import DataLoader

    stage = open_data(run_on(prefix, row_length))
    count = batch_rows * (40 if quick else 200)
    numbers = np.concatenate([stage.step_rows(step) for step in range(1 + count // 600)])[:count]
    dataset = peers.RowDataset(prefix, row_length, stage.pool.resolve(numbers).rows)
    batch = stage.batch(numbers[:20], "mlm")
    restored = batch.input_ids_BT.reshape(-1).copy()
    restored[batch.label_positions_L] = batch.label_ids_L
    texts = [dataset.text(int(row)) for row in dataset.rows[:20]]
    assert (restored.reshape(20, -1) == np.stack([ids for ids, _, _ in texts])).all()
    assert (batch.positions_BT == np.stack([positions for _, positions, _ in texts])).all()
    loader = iter(DataLoader(dataset, batch_size=batch_rows, num_workers=2, prefetch_factor=8))  # type: ignore[arg-type]
    for _ in range(8):
        next(loader)
    tokens = 0

    def run() -> None:
        nonlocal tokens
        tokens = sum(int(part["tokens"].sum()) for part in loader)

    seconds = wall_seconds(run)
    return tokens / seconds / 1e6


def child(*command: str) -> dict[str, float]:
    """Run a probe as a process of its own and read its last line."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *command], check=True, capture_output=True, text=True, env=environment, cwd=ROOT
    )
    result: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def opening_claims(folder: Path, documents: int, full: bool, with_peer: bool) -> Iterator[Claim]:
    """Open a corpus and serve a batch, without and with its pack index; ask what a run on it has read."""
    prefix = folder / f"web-{documents}"
    if not prefix.with_name(prefix.name + ".json").exists():
        corpora.write_hollow_corpus(prefix, documents)
        os.sync()
    for path in folder.glob(f"{prefix.name}.*.pack"):
        path.unlink()
    peer = None
    if with_peer:
        (folder / "cache").mkdir(exist_ok=True)
        tokens = open_corpus(prefix).tokens
        peer = child("benchmarks.data_parts.gpt_dataset", str(prefix), str(folder / "cache"), str(tokens))
        shutil.rmtree(folder / "cache")
    name = "Megatron-Core GPTDataset, same .idx" if with_peer else ""
    absent = child("benchmarks.data_parts.probe", str(prefix))
    present = child("benchmarks.data_parts.probe", str(prefix))
    note = f"{documents:,} documents"
    for title, ours, seconds, mebibytes in (
        ("pack index absent", absent, 12, 1024),
        ("pack index present", present, 1, 300),
    ):
        yield claim(
            f"first batch, {title}", ours["seconds"], peer and peer["seconds"], "s", seconds if full else None,
            lower_is_better=True, peer_name=name, note=note,
        )  # fmt: skip
        yield claim(
            f"anonymous memory, {title}", ours["anonymous_mib"], peer and peer["anonymous_mib"], "MiB",
            mebibytes if full else None, lower_is_better=True, peer_name=name, note=note,
        )  # fmt: skip
    pack_bytes = pack_spec(run_on(str(prefix)).data).path(open_corpus(prefix)).stat().st_size
    yield claim("pack index on disk", pack_bytes / documents, None, "bytes per document", note=note)
    yield from order_command_claims(folder, prefix, documents, full)


def order_command_claims(folder: Path, prefix: Path, documents: int, full: bool) -> Iterator[Claim]:
    """The whole `ettin order` command, from its start to its end."""
    run = Path(tempfile.mkdtemp(prefix="run-", dir=folder))
    config = run_on(str(prefix))
    (run / "config.json").write_text(to_json(config))
    record_data(open_data(config), run)
    for question in (["--step", "30000"], ["--document", str(documents // 3), "--until", "599525"]):
        command = ["megatron_ettin", "order", str(run), *question]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        job = partial(
            subprocess.run, [sys.executable, "-m", *command], check=True, capture_output=True, env=environment, cwd=ROOT
        )
        seconds = sorted(wall_seconds(job) for _ in range(3))[1]
        yield claim(
            f"ettin order {question[0]}", seconds, None, "s", 1 if full else None, lower_is_better=True,
            note=f"{documents:,} documents",
        )  # fmt: skip


@contextmanager
def working_folder(given: Path | None) -> Iterator[Path]:
    """The folder that was given, or one that is removed at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    folder = Path(tempfile.mkdtemp(prefix="ettin-data-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--documents", type=int, help="documents of the corpus that is opened (default 100,000,000)")
    parser.add_argument("--folder", type=Path, help="where the generated corpora go, and stay")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    require("torch", "megatron.core", install="pip install .")
    documents = options.documents or (QUICK_DOCUMENTS if options.quick else FULL_DOCUMENTS)
    with working_folder(options.folder) as folder:
        parts = {
            "packing": lambda: packing_claims(folder, options.quick),
            "order": lambda: order_claims(options.quick),
            "masking": lambda: masking_claims(options.quick),
            "loader": lambda: loader_claims(folder, options.quick),
            "opening": lambda: opening_claims(
                folder, documents, full=documents == FULL_DOCUMENTS, with_peer=documents <= FULL_DOCUMENTS
            ),
        }
        claims = [row for name in options.only for row in parts[name]()]
    show(claims, options.json)


if __name__ == "__main__":
    main()
