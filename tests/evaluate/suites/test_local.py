"""Local data is read in every form, and each bad file is named with its row, rule and remedy."""

import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.evaluate.suites.intervals import bootstrap, wilson
from megatron_ettin.evaluate.suites.local import file_facts, read_rows, split_file
from megatron_ettin.evaluate.suites.optional import library
from megatron_ettin.evaluate.suites.suite import NotRunError

ROWS = [{"text": "a", "label": 1}, {"text": "b", "label": 0}]


def test_every_form_gives_the_same_rows(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "plain.jsonl").write_text(lines)
    (tmp_path / "packed.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "table.parquet")
    for split in ("plain", "packed", "table"):
        assert list(read_rows(split_file(tmp_path, split), ("text", "label"))) == ROWS
        assert list(read_rows(split_file(tmp_path, split), ("text",), limit=1)) == ROWS[:1]


def test_a_split_that_is_not_there_is_a_reason_not_to_run(tmp_path):
    with pytest.raises(NotRunError, match="has no test.jsonl.gz"):
        split_file(tmp_path, "test")
    with pytest.raises(NotRunError, match="no folder"):
        split_file(tmp_path / "task", "test")


def test_a_missing_column_names_file_row_and_columns(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text('{"text": "a", "label": 1}\n{"text": "b"}\n')
    with pytest.raises(DataError, match=r"test.jsonl, row 2: no column label; it has text\. .*text, label"):
        list(read_rows(path, ("text", "label")))


@pytest.mark.parametrize("damage", [b'{"text": \n', b'{"text": "\xff"}\n', b"[1]\n"])
def test_a_damaged_row_is_named(damage, tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_bytes(b'{"text": "a"}\n' + damage)
    with pytest.raises(DataError, match="test.jsonl, row [12]"):
        list(read_rows(path, ("text",)))


def test_a_cut_archive_is_named(tmp_path):
    path = tmp_path / "test.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a"}\n' * 100)[:-12])
    with pytest.raises(DataError, match="test.jsonl.gz, row"):
        list(read_rows(path, ("text",)))


def test_files_are_known_by_their_hash(tmp_path):
    path = tmp_path / "test.jsonl"
    path.write_text("x\n")
    assert file_facts({"test": path})["test"]["sha256"].startswith("73cb3858a687a8494ca3323053016282")


def test_a_missing_library_is_one_line_with_the_command():
    with pytest.raises(ConfigError, match=r"pip install 'megatron-ettin\[eval-lm\]'"):
        library("no_such_library_at_all.part", "eval-lm")


def test_wilson_holds_the_share_and_is_open_at_the_ends():
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    low, high = wilson(0.0, 20)
    assert low == 0 and 0.1 < high < 0.2, "no success among 20 does not mean that there is none"


def test_the_bootstrap_gives_the_standard_error_of_a_mean():
    import numpy as np

    values = np.arange(100) % 2
    error, (low, high) = bootstrap(lambda chosen: float(values[chosen].mean()), len(values))
    assert error == pytest.approx(0.05, abs=0.005)
    assert low == pytest.approx(0.40, abs=0.02) and high == pytest.approx(0.60, abs=0.02)
