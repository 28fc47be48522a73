"""Nothing of the input is lost without a word: what is read, left out or found twice is told and kept."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ettin.commands.prepare import table
from megatron_ettin.corpus.build import BuildOptions, build_corpus
from megatron_ettin.errors import DataError
from megatron_ettin.sources import files
from megatron_ettin.sources.files import find_inputs

LINE = '{"text": "a word"}\n'


@pytest.fixture
def folder(tmp_path):
    """A folder as of a dataset hub: a card, a list and data."""
    made = tmp_path / "hub"
    (made / "data").mkdir(parents=True)
    (made / "README.md").write_text("# A card\n")
    (made / "urls.txt").write_text("https://example.org\n")
    (made / ".gitattributes").write_text("")
    (made / "picture.png").write_text("")
    (made / "data" / "train.jsonl").write_text(LINE)
    return made


def names(found):
    return [path.name for path, _, _ in found.files]


def test_text_beside_data_is_left_out_told_and_kept(tmp_path, folder, tokenizer):
    report = build_corpus(folder, tmp_path / "c", tokenizer)
    assert report.manifests[0].documents == 1
    kept = {reason: [Path(path).name for path in paths] for reason, paths in report.manifests[0].left_out.items()}
    assert kept == {
        files.HIDDEN: [".gitattributes"], files.NAMELESS: ["picture.png"], files.BESIDE_DATA: ["README.md", "urls.txt"],
    }  # fmt: skip
    shown = table(report)
    assert ": 1 jsonl" in shown
    assert all(name in shown for name in ("README.md", "urls.txt", "picture.png", ".gitattributes"))
    assert names(find_inputs([folder / "README.md", folder])) == ["README.md", "train.jsonl"]
    assert len(names(find_inputs([f"{folder}/**"]))) == 1


def test_a_file_that_is_there_twice_is_read_once(tmp_path, tokenizer):
    first = tmp_path / "a.jsonl"
    first.write_text(LINE)
    os.link(first, tmp_path / "b.jsonl")
    (tmp_path / "c.jsonl").symlink_to(first)
    report = build_corpus([first, tmp_path / "b.jsonl", tmp_path / "c.jsonl", first], tmp_path / "c", tokenizer)
    assert report.manifests[0].documents == 1
    assert len(report.left_out[files.DOUBLED]) == 3
    (tmp_path / "d.jsonl").write_text(LINE)
    copies = build_corpus([first, tmp_path / "d.jsonl"], tmp_path / "copies", tokenizer)
    assert copies.manifests[0].documents == 2
    assert "bytes are those of another input): " + str(tmp_path / "d.jsonl") in table(copies)


def test_tokenizer_train_says_what_it_leaves_out_and_names_no_flag_of_another_verb(folder, capsys):
    from megatron_ettin.tokenizer.train import text_files

    assert [source.path.name for source in text_files([str(folder)])] == ["train.jsonl"]
    assert "README.md" in capsys.readouterr().err
    with pytest.raises(DataError, match="rename it") as caught:
        text_files([str(folder / "picture.png")])
    assert "--input-format" not in str(caught.value)


def test_linked_folders_are_read_and_links_in_circles_end(tmp_path, folder):
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "more.jsonl").write_text(LINE * 2)
    (folder / "more").symlink_to(linked)
    (linked / "back").symlink_to(folder)
    found = find_inputs([folder])
    assert names(found) == ["train.jsonl", "more.jsonl"]
    assert [path.name for path in found.left_out["a link to a folder above it"]] == ["back"]


def test_pipes_and_dangling_links_are_refused_by_name(tmp_path):
    os.mkfifo(tmp_path / "p.jsonl")
    with pytest.raises(DataError, match="p.jsonl: a pipe.*write what it gives to a file"):
        find_inputs([tmp_path / "p.jsonl"])
    with pytest.raises(DataError, match="no input file there"):
        find_inputs([tmp_path])
    (tmp_path / "x.jsonl").symlink_to("gone.jsonl")
    for item in (tmp_path, tmp_path / "x.jsonl", f"{tmp_path}/x*"):
        with pytest.raises(DataError, match="x.jsonl: a link to gone.jsonl, which is not there"):
            find_inputs([item])


@pytest.mark.parametrize("what", ["data", "data/train.jsonl"])
def test_what_may_not_be_read_stops_the_build_by_name(folder, tmp_path, tokenizer, what):
    (folder / "other.jsonl").write_text(LINE * 2)
    os.chmod(folder / what, 0)
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []  # root reads all
    for inputs in (str(folder), f"{folder}/**/*.jsonl"):
        done = subprocess.run(
            [*command, sys.executable, "-m", "megatron_ettin", "prepare", "--input", inputs,
             "--tokenizer-model", str(tokenizer), "--output-prefix", str(tmp_path / "c")],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 2, done.stdout
        assert f"{folder / what}: cannot be read (Permission denied)" in done.stderr
    os.chmod(folder / what, 0o700)


@pytest.mark.parametrize("kind", ["shrinks", "grows", "is replaced"])
def test_a_file_that_changes_while_it_is_read_makes_no_corpus(tmp_path, tokenizer, monkeypatch, kind):
    path = tmp_path / "t.jsonl"
    path.write_text(LINE * 100)
    before = path.stat()
    if kind == "is replaced":
        (tmp_path / "new").write_text(LINE.replace("word", "bird") * 100)
    from megatron_ettin.corpus.build import build

    def run_and_change(*arguments):
        if kind == "shrinks":
            os.truncate(path, len(LINE) * 50)
        build_module_run(*arguments)
        if kind == "grows":
            path.write_text(LINE * 101)
        elif kind == "is replaced":
            os.utime(tmp_path / "new", ns=(before.st_atime_ns, before.st_mtime_ns))
            os.replace(tmp_path / "new", path)

    build_module_run = build.run_build
    monkeypatch.setattr(build, "run_build", run_and_change)
    with pytest.raises(DataError, match="t.jsonl: changed while it was read"):
        build_corpus(path, tmp_path / "c", tokenizer)
    assert not (tmp_path / "c.json").exists()
    monkeypatch.undo()
    build_corpus(path, tmp_path / "c", tokenizer, BuildOptions(restart=True))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_separator_of_newlines_cuts_text_of_windows_too(tmp_path, tokenizer, end):
    (tmp_path / "t.txt").write_bytes(f"one{end}more{end}{end}two{end}{end}three".encode())
    report = build_corpus(tmp_path / "t.txt", tmp_path / "c", tokenizer, BuildOptions(text_separator="\n\n"))
    assert report.manifests[0].documents == 3
    assert "cuts nothing" not in table(report)
    report = build_corpus(tmp_path / "t.txt", tmp_path / "d", tokenizer, BuildOptions(text_separator="###"))
    assert "text files in which the separator cuts nothing: 1" in table(report)


def test_the_first_bytes_must_be_of_the_kind_that_the_name_says(tmp_path):
    from megatron_ettin.sources.files import make_sources, require_kind

    cases = {
        "a.json": (b'[{"text": "a"}]', "JSON array, but one JSON object a line.*json.load"),
        "b.jsonl.gz": (b"{}", "not gzip data"),
        "c.jsonl.zst": (gzip.compress(b"{}"), r"not zstd data.*\(it is gzip data\)"),
        "d.jsonl": (gzip.compress(b"{}"), "name that ends in .gz"),
        "e.jsonl": (b"PAR1", "name that ends in .parquet"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        (source,) = make_sources(find_inputs([tmp_path / name]).files)
        with pytest.raises(DataError, match=message):
            require_kind(source)


def test_names_that_are_not_utf8_are_read_told_and_kept(tmp_path, tokenizer):
    folder = os.fsencode(tmp_path) + b"/in\xff"
    os.mkdir(folder)
    for name, content in ((b"a\xfe.jsonl", LINE), (b"b\xfd.txt", "text"), (b"c\xfc.jsonl.gz", None)):
        with open(folder + b"/" + name, "wb") as stream:
            stream.write(content.encode() if content else gzip.compress(b'{"text": "more"}\n'))
    done = subprocess.run(
        [os.fsencode(sys.executable), b"-m", b"megatron_ettin", b"prepare", b"--input", folder,
         b"--tokenizer-model", os.fsencode(tokenizer), b"--output-prefix", os.fsencode(tmp_path) + b"/out\xfb"],
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = json.loads(Path(os.fsdecode(os.fsencode(tmp_path) + b"/out\xfb.json")).read_text())
    assert manifest["documents"] == 2
    assert os.fsencode(manifest["sources"][0]["path"]) == folder + b"/a\xfe.jsonl"


@pytest.mark.parametrize("packed", [False, True])
def test_a_missing_key_is_named_among_the_keys_that_there_are(tmp_path, tokenizer, packed):
    lines = (LINE * 3 + '{"content": "a", "id": 1}\n' + LINE).encode()
    path = tmp_path / ("t.jsonl.gz" if packed else "t.jsonl")
    path.write_bytes(gzip.compress(lines) if packed else lines)
    with pytest.raises(DataError, match="line 4, .*no key 'text'; keys: content, id; name the right key"):
        build_corpus(path, tmp_path / "c", tokenizer)


def test_parquet_columns_of_bytes_and_dictionaries_are_read(tmp_path, tokenizer):
    import pyarrow
    from pyarrow import parquet

    texts = ["a word", None, "more"]
    columns = {
        "text": pyarrow.array(texts),
        "binary": pyarrow.array([text and text.encode() for text in texts], pyarrow.large_binary()),
        "dictionary": pyarrow.array(texts).dictionary_encode(),
    }
    built = {}
    for name, column in columns.items():
        parquet.write_table(pyarrow.table({"text": column}), tmp_path / f"{name}.parquet")
        options = BuildOptions(on_error="skip")
        built[name] = build_corpus(tmp_path / f"{name}.parquet", tmp_path / name, tokenizer, options).manifests[0]
    assert {manifest.documents for manifest in built.values()} == {2}
    assert len({manifest.files[".bin"].checksum for manifest in built.values()}) == 1
    parquet.write_table(pyarrow.table({"text": pyarrow.array([b"\xff", b"a"])}), tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="row 0: invalid_utf8"):
        build_corpus(tmp_path / "bad.parquet", tmp_path / "bad", tokenizer)
    parquet.write_table(pyarrow.table({"text": [1.5]}), tmp_path / "float.parquet")
    with pytest.raises(DataError, match="column 'text' holds double; .*write this one as text"):
        build_corpus(tmp_path / "float.parquet", tmp_path / "float", tokenizer)


def test_a_full_disk_is_told_where_a_name_is_not_known(monkeypatch, capsys):
    import errno

    from megatron_ettin import cli
    from megatron_ettin.commands import estimate

    for number in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        def fail(_, number=number):
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(estimate, "main", fail)
        assert cli.main(["estimate"]) == 2
        assert os.strerror(number) in capsys.readouterr().err
