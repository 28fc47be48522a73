"""Reads that a disk or a network file system cuts short, interrupts or refuses."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from megatron_ettin.data.stage import open_stage
from tests.data.conftest import run_config
from tests.twins.corpus_writer import random_documents, write_corpus

SOURCE = Path(__file__).with_name("faulty_reads.c")
DIGEST = """
import sys
from megatron_ettin.data.stage import open_stage
from megatron_ettin.errors import DataError
from tests.data.conftest import run_config
try:
    stage = open_stage(run_config(sys.argv[1]))
    print(stage.batch(stage.step_rows(0), "mlm").digest())
except DataError as error:
    print("DataError:", error)
"""


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
    stage = open_stage(run_config(corpus))
    expected = stage.batch(stage.step_rows(0), "mlm").digest()
    assert batch_digest(corpus, faulty_reads, root, suffix, "short") == str(expected)


@pytest.mark.parametrize("suffix", [".bin", ".idx", ".pack"])
def test_a_disk_error_names_the_file_and_the_offset(corpus, faulty_reads, root, suffix):
    open_stage(run_config(corpus))
    message = batch_digest(corpus, faulty_reads, root, suffix, "EIO")
    assert message.startswith("DataError: ") and suffix in message
    assert "bytes at offset" in message and "Input/output error" in message
