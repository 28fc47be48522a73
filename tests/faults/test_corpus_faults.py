"""Kills, full disks and unreadable inputs leave a corpus build that can go on."""

import gzip
import os
import resource
import subprocess
import sys

import pytest

from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.reader import open_corpus
from megatron_ettin.errors import DataError
from tests.corpus.conftest import jsonl, texts, tokenizer  # noqa: F401 - fixtures
from tests.faults.soak_corpus import soak

KILLS = 12


def test_killed_builds_end_with_the_same_bytes(tmp_path):
    outcome = soak(tmp_path, KILLS, seed=1, megabytes=1)
    assert outcome.kills >= KILLS
    assert outcome.resumed
    assert not outcome.different
    assert not outcome.damaged


@pytest.mark.slow
def test_two_hundred_kills_end_with_the_same_bytes(tmp_path):
    outcome = soak(tmp_path, 200, seed=2, megabytes=3)
    assert not outcome.different
    assert not outcome.damaged


@pytest.fixture
def limited_files():
    """A limit of 4 kB on the size of files, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def small_blocks(monkeypatch):
    monkeypatch.setattr("megatron_ettin.corpus.build.run.block_bytes", lambda total: 700)


def test_a_full_disk_is_told_and_resumed(tmp_path, jsonl, tokenizer, monkeypatch, request):  # noqa: F811
    small_blocks(monkeypatch)
    expected = build_corpus(jsonl, tmp_path / "whole", tokenizer).corpus
    request.getfixturevalue("limited_files")
    with pytest.raises(DataError, match="writing failed.*the same command goes on"):
        build_corpus(jsonl, tmp_path / "c", tokenizer)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    with pytest.raises(DataError, match="only with its manifest"):
        open_corpus(tmp_path / "c")
    report = build_corpus(jsonl, tmp_path / "c", tokenizer)
    assert report.resumed_documents > 0
    assert report.corpus.fingerprint == expected.fingerprint


def test_another_command_does_not_take_over_an_unfinished_build(tmp_path, jsonl, tokenizer, texts, monkeypatch):  # noqa: F811
    small_blocks(monkeypatch)
    broken = tmp_path / "broken.jsonl"
    broken.write_bytes(jsonl.read_bytes() + b'{"text": 1}\n')
    with pytest.raises(DataError, match="not_a_string"):
        build_corpus(broken, tmp_path / "c", tokenizer)
    with pytest.raises(DataError, match="--restart"):
        build_corpus(jsonl, tmp_path / "c", tokenizer)
    build_corpus(jsonl, tmp_path / "c", tokenizer, BuildOptions(restart=True))
    assert open_corpus(tmp_path / "c").documents == len(texts)


def test_a_changed_input_is_not_resumed(tmp_path, jsonl, tokenizer):  # noqa: F811
    path = tmp_path / "t.jsonl"
    path.write_bytes(jsonl.read_bytes() + b"broken\n")
    with pytest.raises(DataError, match="invalid_json"):
        build_corpus(path, tmp_path / "c", tokenizer)
    path.write_bytes(jsonl.read_bytes())
    with pytest.raises(DataError, match="they changed since"):
        build_corpus(path, tmp_path / "c", tokenizer)


def test_a_damaged_staging_file_is_found_at_resuming(tmp_path, jsonl, tokenizer, monkeypatch):  # noqa: F811
    small_blocks(monkeypatch)
    expected = build_corpus(jsonl, tmp_path / "whole", tokenizer).corpus
    path = tmp_path / "t.jsonl"
    path.write_bytes(jsonl.read_bytes() + b"broken\n")
    options = BuildOptions(maximum_document_bytes=1 << 20)
    with pytest.raises(DataError):
        build_corpus(path, tmp_path / "c", tokenizer, options)
    for name in ("0.tokens", "0.lengths", "0.documents", "journal"):
        staged = tmp_path / ".c.incomplete" / name
        content = bytearray(staged.read_bytes())
        content[len(content) // 2] ^= 1
        staged.write_bytes(content)
        with pytest.raises(DataError, match="invalid_json"):
            build_corpus(path, tmp_path / "c", tokenizer, options)
    options = BuildOptions(maximum_document_bytes=1 << 20, on_error="skip", restart=True)
    assert build_corpus(path, tmp_path / "c", tokenizer, options).corpus.tokens == expected.tokens


NO_FLOCK = "#include <errno.h>\nint flock(int fd, int op) { (void)fd; (void)op; errno = ENOLCK; return -1; }\n"
BUILD = "import sys; from megatron_ettin.cli import main; sys.exit(main(['prepare', *sys.argv[1:]]))"


@pytest.fixture(scope="module", params=["flock", "no flock"])
def environment(request, tmp_path_factory):
    """Of a process on a file system with and without flock."""
    if request.param == "flock":
        return dict(os.environ)
    folder = tmp_path_factory.mktemp("library")
    (folder / "flock.c").write_text(NO_FLOCK)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "flock.so", folder / "flock.c"], check=True)
    return os.environ | {"LD_PRELOAD": str(folder / "flock.so")}


def test_two_builds_of_one_prefix_do_not_run_together(tmp_path, jsonl, tokenizer, environment, monkeypatch):  # noqa: F811
    pipe = tmp_path / "slow.jsonl.gz"
    pipe.write_bytes(gzip.compress(jsonl.read_bytes()))
    command = [
        "--input", str(pipe), "--tokenizer-model", str(tokenizer), "--output-prefix", str(tmp_path / "c"),
    ]  # fmt: skip
    stopped = BUILD.replace("import sys;", "import sys, time; import megatron_ettin.corpus.build.build as b; "
                            "b.run_build = lambda *_: (print('building', flush=True), time.sleep(600));")  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, "-c", stopped, *command], env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert first.stdout.readline() == "building\n"
        monkeypatch.setattr("megatron_ettin.ownership.GRACE", 0.5)
        with pytest.raises(DataError, match=f"another process is building this corpus.*process {first.pid} on"):
            build_corpus(pipe, tmp_path / "c", tokenizer)
    finally:
        first.kill()
        first.wait()
    second = subprocess.run(
        [sys.executable, "-c", BUILD, *command], env=environment, capture_output=True, text=True, check=False
    )
    assert second.returncode == 0, second.stderr
    names = sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".hash"))
    assert names == ["c.bin", "c.idx", "c.json", "c.tokenizer.json", "slow.jsonl.gz"]


def test_the_program_ends_with_a_message_and_a_status(tmp_path, root):
    command = [sys.executable, "tools/preprocess_data.py", "--input", "absent.jsonl", "--output-prefix",
               str(tmp_path / "c"), "--tokenizer-model", "absent"]  # fmt: skip
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: absent.jsonl: no such file or folder\n"
