"""Local collections are read in each form, and what is wrong with them is said with file, row, rule and remedy."""

import gzip
import json

import pytest

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.retrieval.collection import BEIR, CODE, MLDR, form_of
from megatron_ettin.evaluate.suites.suite import NotRunError
from tests.evaluate.retrieval import synthetic
from tests.evaluate.retrieval.synthetic import DOCUMENTS, QRELS, QUERIES


def read(folder):
    form = form_of(folder)
    return form.read(form.files(folder))


def test_a_beir_folder_is_read(tmp_path):
    found = read(synthetic.write_beir(tmp_path))
    assert form_of(tmp_path) is BEIR
    assert found.documents["d1"] == {"title": "kettle", "text": "notes about the kettle"}
    assert found.queries == {row["_id"]: row["text"] for row in QUERIES}
    assert found.judgements["q0"] == {"d0": 1, "d7": 0} and found.judgements["q1"] == {"d1": 2}
    assert found.notes == {}


def test_judgements_of_the_dev_split_serve_where_there_is_no_test_split(tmp_path):
    synthetic.write_beir(tmp_path, split="dev")
    assert list(BEIR.files(tmp_path)) == ["corpus", "queries", "qrels/dev"]
    (tmp_path / "qrels" / "dev.tsv").rename(tmp_path / "qrels" / "other.tsv")
    with pytest.raises(NotRunError, match=r"has no test.tsv \(or dev.tsv"):
        BEIR.files(tmp_path)


def test_what_is_odd_but_harmless_is_counted(tmp_path):
    documents = [*DOCUMENTS, {"_id": "empty", "title": "", "text": ""}]
    queries = [*QUERIES, {"_id": "nobody", "text": "no answer"}]
    found = read(synthetic.write_beir(tmp_path, documents, queries, [*QRELS, ("q1", "d5", -2)]))
    assert found.judgements["q1"] == {"d1": 2, "d5": 0}
    assert found.notes == {
        "judgements clipped to 0": 1, "queries without a relevant document, left out": 1, "empty documents": 1,
    }  # fmt: skip
    assert "nobody" not in found.queries and "empty" in found.documents


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qrels": [*QRELS, ("q0", "d99", 1)]}, "test.tsv, row 9: 'd99' is no _id of corpus.jsonl.gz"),
        ({"qrels": [*QRELS, ("q99", "d0", 1)]}, "test.tsv, row 9: 'q99' is no _id of queries.jsonl.gz"),
        ({"qrels": [("q0", "d0", "much")]}, "test.tsv, row 2: .* is no query, document and whole number"),
        ({"qrels": [("q0", "d0")]}, "test.tsv, row 2: .* is no query, document and whole number"),
        ({"qrels": [("q0", "d0", 0)]}, "no query has a relevant document"),
        ({"documents": [*DOCUMENTS, DOCUMENTS[0]]}, "corpus.jsonl.gz, row 9: _id 'd0' is there already"),
        ({"documents": [{"_id": "d0", "title": "x"}]}, "corpus.jsonl.gz, row 1: no column text"),
        ({"queries": [{"_id": "q0", "text": "  "}]}, "queries.jsonl.gz, row 1: text is '  ', and a query is a text"),
    ],
)
def test_a_bad_beir_folder_is_named(changes, message, tmp_path):
    with pytest.raises(DataError, match=message):
        read(synthetic.write_beir(tmp_path, **changes))


def test_judgements_without_their_header_are_named(tmp_path):
    synthetic.write_beir(tmp_path)
    (tmp_path / "qrels" / "test.tsv").write_text("q0\td0\t1\n")
    with pytest.raises(DataError, match="test.tsv, row 1: the header is query-id, corpus-id, score"):
        read(tmp_path)


def test_long_documents_are_read_in_the_form_of_mldr(tmp_path):
    found = read(synthetic.write_mldr(tmp_path))
    assert form_of(tmp_path) is MLDR and MLDR.long_texts
    assert found.queries["a2"] == "meadow" and found.judgements["a2"] == {"m2": 1}
    synthetic.write_mldr(tmp_path, queries=[{**synthetic.ASKED[0], "positive_passages": [{"docid": "m9"}]}])
    with pytest.raises(DataError, match="queries.jsonl.gz, row 1: positive passage 'm9' is no docid of corpus"):
        read(tmp_path)
    synthetic.write_mldr(tmp_path, queries=[{**synthetic.ASKED[0], "positive_passages": "m1"}])
    with pytest.raises(DataError, match="row 1: positive_passages is 'm1'; it is a list"):
        read(tmp_path)


def test_documentation_asks_for_functions_that_do_not_hold_it(tmp_path):
    twice = {**synthetic.CODE[0], "func_documentation_string": "Another way to ask."}
    silent = {**synthetic.CODE[0], "func_code_tokens": ["pass"], "func_documentation_string": ""}
    synthetic.write_rows(tmp_path / "python" / "test.jsonl.gz", [*synthetic.CODE, twice, silent])
    found = read(tmp_path)
    assert form_of(tmp_path) is CODE
    assert len(found.queries) == 9 and len(found.documents) == 9, "equal functions are one, a silent one is no query"
    assert found.judgements["python-9"] == {"python-1": 1}
    assert not any(text in body["text"] for text in found.queries.values() for body in found.documents.values())


def test_a_limit_keeps_the_first_queries_with_their_documents_and_some_others(tmp_path):
    documents = [{"_id": f"d{i}", "title": "", "text": f"t{i}"} for i in range(100)]
    queries = [{"_id": f"q{i}", "text": f"ask {i}"} for i in range(9)]
    qrels = [("q0", "d99", 0), ("q1", "d50", 1), ("q1", "d99", 0), ("q3", "d70", 2), ("q4", "d1", 1)]
    found = read(synthetic.write_beir(tmp_path, documents, queries, qrels))
    limited = found.limited(2)
    assert list(limited.queries) == ["q1", "q3"], "q0 has no relevant document"
    assert len(limited.documents) == 20 and {"d50", "d70", "d99", "d0", "d16"} <= set(limited.documents)
    assert "d17" not in limited.documents, "the first others fill up what the judged ones leave"
    assert found.limited(None) is found and len(found.limited(99).queries) == 3


def test_a_folder_of_something_else_has_no_form(tmp_path):
    synthetic.write_rows(tmp_path / "test.jsonl.gz", synthetic.SIMILAR)
    assert form_of(tmp_path) is None


def test_real_collections_are_read(shared):
    folder = shared / "evaluation" / "retrieval"
    if not folder.is_dir():
        pytest.skip(f"no real collections at {folder}")
    sizes = {}
    for name in ("cranfield", "vaswani", "mldr_like", "code_search_net"):
        found = read(folder / name)
        sizes[name] = (len(found.documents), len(found.queries))
    assert sizes["cranfield"] == (1_400, 225) and sizes["vaswani"] == (11_429, 93) and sizes["mldr_like"] == (58, 348)
    with gzip.open(folder / "code_search_net" / "python" / "test.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    assert sizes["code_search_net"] == (
        len({" ".join(row["func_code_tokens"]) for row in rows}),
        len({row["func_documentation_string"].strip() for row in rows} - {""}),
    )
    assert read(folder / "cranfield").notes == {"empty documents": 2}
