"""Reads that a disk or a network file system cuts short, interrupts or refuses."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from megatron_ettin.corpus.build import build_corpus
from megatron_ettin.rows.run_data import open_data
from tests.corpus.conftest import jsonl, texts, tokenizer  # noqa: F401 - fixtures
from tests.rows.conftest import run_config
from tests.sources.mds_writer import encode_shard
from tests.twins.corpus_writer import random_documents, write_corpus

SOURCE = Path(__file__).with_name("faulty_reads.c")
DIGEST = """
import sys
from megatron_ettin.rows.run_data import open_data
from megatron_ettin.errors import DataError
from tests.rows.conftest import run_config
try:
    stage = open_data(run_config(sys.argv[1]))
    print(stage.batch(stage.step_rows(0), "mlm").digest())
except DataError as error:
    print("DataError:", error)
"""

BUILD = """
import sys
import megatron_ettin.corpus.build.run as run
from megatron_ettin.corpus.build import build_corpus
from megatron_ettin.errors import DataError
run.block_bytes = lambda total: 700
try:
    print(build_corpus(*sys.argv[1:]).corpus.fingerprint)
except DataError as error:
    print("DataError:", error)
"""


FEW = 100
"""Lines that are read seven bytes at a time: enough for some fifty blocks, each of many reads."""


@pytest.fixture(scope="module")
def faulty_reads(tmp_path_factory):
    """A shared library that stands in front of pread."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("faulty") / "faulty_reads.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"], check=True)
    return library


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text", random_documents(np.random.default_rng(0), 300))


def batch_digest(corpus, library, root, suffix, kind):
    """What a process prints that reads files with this suffix through the library."""
    environment = os.environ | {"LD_PRELOAD": str(library), "FAULTY_SUFFIX": suffix, "FAULTY_KIND": kind}
    command = [sys.executable, "-c", DIGEST, str(corpus)]
    return subprocess.run(command, cwd=root, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".pack"])
def test_short_and_interrupted_reads_change_nothing(corpus, faulty_reads, root, suffix):
    stage = open_data(run_config(corpus))
    expected = stage.batch(stage.step_rows(0), "mlm").digest()
    assert batch_digest(corpus, faulty_reads, root, suffix, "short") == str(expected)


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".pack"])
def test_a_disk_error_names_the_file_and_the_offset(corpus, faulty_reads, root, suffix):
    open_data(run_config(corpus))
    message = batch_digest(corpus, faulty_reads, root, suffix, "EIO")
    assert message.startswith("DataError: ") and suffix in message
    assert "bytes at offset" in message and "Input/output error" in message


def pack(folder, jsonl, suffix, lines=None):  # noqa: F811
    """The first lines of a file, or all, in another format."""
    path = folder / f"text{suffix}"
    content = b"".join(jsonl.read_bytes().splitlines(keepends=True)[:lines])
    if suffix == ".mds":
        samples = [{"text": json.loads(line)["text"]} for line in content.splitlines() if line.strip()]
        path.write_bytes(encode_shard(samples, {"text": "str"}))
    else:
        kinds = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": zstandard.compress}
        path.write_bytes(kinds[suffix](content))
    return path


def build_with(library, root, arguments, suffix, kind, first=0):
    """What a process prints that builds a corpus, its input read through the library."""
    faults = {"LD_PRELOAD": str(library), "FAULTY_SUFFIX": suffix, "FAULTY_KIND": kind, "FAULTY_FROM": str(first)}
    command = [sys.executable, "-c", BUILD, *map(str, arguments)]
    done = subprocess.run(command, cwd=root, env=os.environ | faults, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".mds"])
def test_short_and_interrupted_reads_do_not_change_a_build(tmp_path, jsonl, tokenizer, faulty_reads, root, suffix):  # noqa: F811
    path = pack(tmp_path, jsonl, suffix, FEW)
    whole = build_corpus(path, tmp_path / "whole", tokenizer).corpus.fingerprint
    assert build_with(faulty_reads, root, (path, tmp_path / "c", tokenizer), suffix, "short") == whole


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".mds"])
def test_a_disk_error_in_a_build_names_the_place_and_is_resumed(tmp_path, jsonl, tokenizer, faulty_reads, root, suffix):  # noqa: F811
    path = pack(tmp_path, jsonl, suffix)
    first = path.stat().st_size * 3 // 4
    arguments = (path, tmp_path / "c", tokenizer)
    message = build_with(faulty_reads, root, arguments, suffix, "EIO", first)
    assert message.startswith(f"DataError: {path}: ")
    assert f"at byte {first} failed" in message
    assert "Input/output error" in message
    assert "the same command goes on" in message
    assert not (tmp_path / "c.json").exists()
    report = build_corpus(*arguments)
    assert suffix != ".jsonl" or report.resumed_documents > 0
    assert report.corpus.fingerprint == build_corpus(path, tmp_path / "whole", tokenizer).corpus.fingerprint
