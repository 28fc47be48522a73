"""Tasks are the named ones, the benchmark's and the local folders'; what cannot run says why."""

import importlib.util

import pytest

from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.evaluate.retrieval.rows import local_rows
from megatron_ettin.evaluate.retrieval.suite import RetrievalSuite
from megatron_ettin.evaluate.retrieval.tasks import ENGLISH, ENGLISH_TASKS, NAMED
from megatron_ettin.evaluate.suites.session import chosen_tasks, evaluate_suites
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.evaluate.suites.suite import NotRunError, Options
from tests.evaluate.retrieval import synthetic


def suite(local):
    return RetrievalSuite(Options(local=local))


def test_local_folders_are_tasks_of_their_names(tmp_path):
    local = synthetic.write(tmp_path)
    names = suite(local).tasks()
    assert names[:5] == ["triplets", "msmarco", "codesearchnet", "codesearchnet_coir", "mldr"]
    assert names[5:46] == list(ENGLISH_TASKS) and len(set(ENGLISH_TASKS)) == 41
    assert names[46:] == ["code_search_net", "mldr_like", "words", "word_clusters", "word_kinds"]
    assert suite(None).tasks() == names[:46]
    synthetic.write_beir(local / "mteb" / "words")
    with pytest.raises(ConfigError, match="two tasks of one name; rename one"):
        suite(local).tasks()


def test_the_benchmark_is_one_word_on_the_command_line(tmp_path):
    chosen = chosen_tasks([suite(synthetic.write(tmp_path))], [ENGLISH, "words"])
    assert chosen["retrieval"] == [*ENGLISH_TASKS, "words"]


def test_data_are_known_by_the_hashes_of_what_is_trained_on_and_scored(tmp_path):
    one = suite(synthetic.write(tmp_path))
    before = {task: one.data(task) for task in ("words", "mldr_like", "STS13", "word_kinds", "triplets")}
    assert set(before["words"]) == {"trained_on", "corpus", "queries", "qrels/test"}
    assert set(before["word_kinds"]) == {"trained_on", "train", "test"}
    synthetic.write_rows(tmp_path / "retrieval" / "triplets" / "more.jsonl.gz", synthetic.TRIPLETS)
    assert all(one.data(task)["trained_on"] != facts["trained_on"] for task, facts in before.items())


@pytest.mark.parametrize("task", ["msmarco", "SCIDOCS"])
def test_a_task_without_a_folder_is_not_run(task, tmp_path):
    with pytest.raises(NotRunError, match="no folder of this name in .*retrieval or .*mteb"):
        suite(synthetic.write(tmp_path)).data(task)


def test_nothing_runs_without_triplets(tmp_path):
    synthetic.write_beir(tmp_path / "retrieval" / "words")
    with pytest.raises(NotRunError, match="no triplets to train on"):
        suite(tmp_path).data("words")


def test_rows_are_of_the_type_that_their_columns_show(tmp_path):
    local = synthetic.write(tmp_path)
    forms = {name: local_rows(local / "mteb" / name).form.type for name in ("STS13", "word_kinds", "word_clusters")}
    assert forms == {"STS13": "STS", "word_kinds": "Classification", "word_clusters": "Clustering"}
    synthetic.write_rows(tmp_path / "other" / "test.jsonl.gz", [{"a": 1}])
    with pytest.raises(NotRunError, match="has columns a, and local rows are read of these types: STS: sentence1"):
        local_rows(tmp_path / "other")


def test_a_limit_is_for_the_scored_split(tmp_path):
    found = local_rows(synthetic.write(tmp_path) / "mteb" / "word_kinds").read(5)
    assert found["test"] == synthetic.LABELLED[:5] and found["train"] == synthetic.LABELLED


@pytest.mark.parametrize(
    ("row", "message"),
    [({"text": "", "label": 1}, "test.jsonl.gz, row 2: text is ''; it is a text"),
     ({"text": "a", "label": None}, "row 2: label is None; it is a number or a name"),
     ({"text": "a"}, "row 2: no column label")],
)  # fmt: skip
def test_a_bad_row_is_named(row, message, tmp_path):
    local = synthetic.write(tmp_path)
    synthetic.write_rows(local / "mteb" / "word_kinds" / "test.jsonl.gz", [synthetic.LABELLED[0], row])
    with pytest.raises(DataError, match=message):
        local_rows(local / "mteb" / "word_kinds").read(None)


@pytest.mark.skipif(importlib.util.find_spec("mteb") is not None, reason="mteb is installed here")
def test_a_missing_library_is_one_line_with_the_command(make_folder, tmp_path):
    options = Options(local=synthetic.write(tmp_path / "data"))
    with (
        opened_subjects({"m": str(make_folder("mlm"))}) as subjects,
        pytest.raises(
            ConfigError, match=r"sentence_transformers is not installed.*pip install 'megatron-ettin\[eval-embed\]'"
        ),
    ):
        evaluate_suites(subjects, [RetrievalSuite(options)], options, tmp_path / "out")


def test_the_named_tasks_say_which_of_mtebs_they_are():
    assert {name: task.mteb for name, task in NAMED.items()} == {
        "msmarco": "MSMARCO", "codesearchnet": "CodeSearchNetRetrieval",
        "codesearchnet_coir": "COIRCodeSearchNetRetrieval", "mldr": "MultiLongDocRetrieval",
    }  # fmt: skip
    assert NAMED["mldr"].long_texts and NAMED["mldr"].subsets == ("en",) and NAMED["msmarco"].splits == ("dev",)
