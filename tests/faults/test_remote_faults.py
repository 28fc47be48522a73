"""Builds of text elsewhere that are killed at any moment end with the same bytes, and fetch hardly anything twice."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from megatron_ettin.corpus.build import build_corpus
from megatron_ettin.sources.remote import staging, transfer
from tests.corpus.conftest import tokenizer  # noqa: F401 - a fixture
from tests.sources.remote.test_web import lines, on_disk, same
from tests.sources.remote.web import Web, serving
from tests.support.launch import environment

PART = 2000
KILLS = 12
PROGRAM = f"""
import sys
from megatron_ettin.cli import main
from megatron_ettin.sources.remote import transfer
transfer.PART_BYTES = {PART}
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_killed_builds_of_text_elsewhere_end_with_the_same_bytes(tmp_path, tokenizer):  # noqa: F811
    source = random.Random(3)
    files = {f"/d/{number}.jsonl": lines(150, number) for number in range(6)}
    whole = sum(map(len, files.values()))
    with serving(Web(files)) as web:
        command = [sys.executable, "-c", PROGRAM, "prepare", "--input", f"{web.address}/d/", "--output-prefix",
                   str(tmp_path / "b"), "--tokenizer-model", str(tokenizer)]  # fmt: skip
        kills = 0
        for _ in range(KILLS):
            wanted = len(web.requests) + source.randrange(8, whole // PART // KILLS * 2)
            process = subprocess.Popen(command, env=environment(), start_new_session=True)
            while process.poll() is None and len(web.requests) < wanted:
                time.sleep(0.001)
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
            process.wait()
        assert kills >= KILLS // 2
        subprocess.run(command, env=environment(), check=True)
        local = build_corpus(on_disk(web, tmp_path) / "d", tmp_path / "a", tokenizer)
        assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
        assert same(build_corpus(f"{web.address}/d/", tmp_path / "b", tokenizer), local)
        # a kill loses the parts that are under way
        most = KILLS * staging.FILES_AT_ONCE * transfer.PARTS_AT_ONCE * PART
        assert sum(web.sent.values()) <= whole + most
