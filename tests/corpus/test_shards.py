"""Many machines build one corpus: what is left is told, and shards of two builds never meet."""

import json
import shutil

import pytest

from megatron_ettin.commands import corpus as command
from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.corpus.build.join import join_corpora
from megatron_ettin.corpus.build.shards import array_list, shard_states
from megatron_ettin.errors import DataError
from megatron_ettin.ownership import owned


@pytest.fixture
def build(tmp_path, jsonl, tokenizer):
    """Builds shard i of n of the prefix ``text``."""

    def shard(i, n, inputs=jsonl, **options):
        return build_corpus(inputs, tmp_path / "text", tokenizer, BuildOptions(shard=(i, n), **options)).prefixes[0]

    return shard


def status(prefix, *arguments, capsys):
    """(exit status, what is printed) of the command."""
    code = command.main(["status", str(prefix), *arguments])
    return code, capsys.readouterr().out


def test_status_tells_what_is_left_as_an_array_list(tmp_path, build, capsys):
    prefix = tmp_path / "text"
    with pytest.raises(DataError, match="say how many by --shards"):
        command.main(["status", str(prefix)])
    assert status(prefix, "--shards", "9", "--left", capsys=capsys) == (1, "0-8\n")
    finished = [build(i, 9) for i in (0, 1, 4, 8)]
    (tmp_path / ".text-00005-of-00009.incomplete").mkdir()
    with finished[2].with_name(finished[2].name + ".bin").open("ab") as out:
        out.write(b"ab")
    (tmp_path / ".text-00006-of-00009.incomplete").mkdir()
    with owned(tmp_path, "text-00006-of-00009.build", "ettin prepare"):
        code, shown = status(prefix, capsys=capsys)
        states = [shard.state for shard in shard_states(prefix, 9)]
    assert states == [
        "finished", "finished", "missing", "missing", "damaged", "interrupted", "running", "missing", "finished",
    ]  # fmt: skip
    assert code == 1 and "3 finished, 1 running, 1 interrupted, 3 missing, 1 damaged of 9" in shown
    assert "left: --array=2-3,5,7\n" in shown and "--overwrite: --array=4\n" in shown and "ettin prepare" in shown
    with pytest.raises(DataError, match="built in 9 shards, not in 8"):
        command.main(["status", str(prefix), "--shards", "8"])
    build(4, 9, overwrite=True)
    for i in (2, 3, 5, 6, 7):
        build(i, 9)
    assert status(prefix, "--left", capsys=capsys) == (0, "\n")
    assert command.main(["join", str(prefix)]) == 0


def test_array_lists_are_those_of_sbatch():
    assert array_list([]) == "" and array_list([3]) == "3" and array_list([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


def test_shards_of_several_keys_are_finished_when_every_key_is(tmp_path, tokenizer, capsys):
    source = tmp_path / "two.jsonl"
    source.write_text("".join(json.dumps({"title": "the sea", "text": f"cold {i}"}) + "\n" for i in range(9)))
    for i in range(2):
        build_corpus(source, tmp_path / "text", tokenizer, BuildOptions(keys=("title", "text"), shard=(i, 2)))
    assert status(tmp_path / "text", capsys=capsys)[0] == 0
    (tmp_path / "text-00001-of-00002_title_document.json").unlink()
    assert status(tmp_path / "text", "--left", capsys=capsys) == (1, "\n")
    assert "1 damaged of 2" in status(tmp_path / "text", capsys=capsys)[1]


def test_another_number_of_shards_is_refused(tmp_path, build):
    build(0, 3)
    with pytest.raises(DataError, match="shards of a build in 3 parts are there, but this is one of 4"):
        build(1, 4)
    assert not list(tmp_path.glob("*of-00004*")) and not list(tmp_path.glob(".*of-00004*"))
    build(1, 3)


@pytest.mark.parametrize("other", [{"append_eod": True}, {"on_error": "skip"}])
def test_shards_of_other_settings_are_refused(build, other):
    build(0, 2)
    with pytest.raises(DataError, match=f"other {next(iter(other))}="):
        build(1, 2, **other)


def test_shards_of_other_inputs_are_refused_by_the_build_and_by_the_join(tmp_path, build, jsonl, tokenizer):
    more = tmp_path / "more.jsonl"
    more.write_text('{"text": "cold"}\n')
    first = build(0, 2)
    with pytest.raises(DataError, match="other input files"):
        build(1, 2, inputs=[jsonl, more])
    aside = build_corpus([jsonl, more], tmp_path / "aside" / "text", tokenizer, BuildOptions(shard=(1, 2))).prefixes[0]
    with pytest.raises(DataError, match="other input files"):
        join_corpora([first, aside], tmp_path / "joined")
    for suffix in (".bin", ".idx", ".json"):
        shutil.copy(aside.with_name(aside.name + suffix), tmp_path)
    with pytest.raises(DataError, match="other input files"):
        build(0, 2, overwrite=True)
