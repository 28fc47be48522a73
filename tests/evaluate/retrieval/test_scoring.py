"""Scores are those of mteb on the same data, with intervals from the same scores; outcomes are kept."""

import json
import math
import shlex
import shutil

import numpy as np
import pytest

from megatron_ettin.errors import DataError
from megatron_ettin.evaluate.retrieval.collection import form_of
from megatron_ettin.evaluate.retrieval.settings import ContrastSettings
from megatron_ettin.evaluate.retrieval.suite import RetrievalSuite, measured, ranked
from megatron_ettin.evaluate.retrieval.tasks import BENCHMARK, ENGLISH_TASKS, NAMED, TYPES
from megatron_ettin.evaluate.suites.results import read_results
from megatron_ettin.evaluate.suites.session import ALONE, Shard, evaluate_suites
from megatron_ettin.evaluate.suites.subjects import opened_subjects
from megatron_ettin.evaluate.suites.suite import Options
from tests.evaluate.retrieval import synthetic

mteb = pytest.importorskip("mteb", reason="mteb is not installed: pip install -e .[eval-embed]")
from megatron_ettin.evaluate.retrieval.contrast import load  # noqa: E402
from megatron_ettin.evaluate.retrieval.mteb_tasks import (  # noqa: E402
    collection_task,
    hub_task,
    limit_data,
    rows_task,
)
from megatron_ettin.evaluate.retrieval.rows import local_rows  # noqa: E402
from megatron_ettin.evaluate.retrieval.scoring import Scored  # noqa: E402

pytestmark = pytest.mark.slow

EQUAL = 1e-6
ROUNDED = 5.1e-6
"""mteb rounds the scores of retrieval to five places."""
SETTINGS = ContrastSettings(batch=8, mini_batch=8, learning_rates=(1e-3,))


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MTEB_CACHE", str(tmp_path / "mteb-cache"))


def evaluated(folders, local, output, tasks=(), shard=ALONE, **options):
    chosen = Options(local=local, retrieval=SETTINGS, keep=output / "models", **options)
    with opened_subjects({name: str(folder) for name, folder in folders.items()}) as subjects:
        return evaluate_suites(
            subjects, [RetrievalSuite(chosen)], chosen, output, tasks=tasks, shard=shard, say=lambda line: None
        )["models"]


def directly(task, model):
    """The score by mteb's own driver."""
    found = mteb.evaluate(model, tasks=[task], cache=None, overwrite_strategy="always", show_progress_bar=False)
    return found.task_results[0].get_score()


def retrieval_by_hand(model, documents, queries, judgements):
    """nDCG@10 of each query, from embeddings alone."""
    names = list(documents)
    matrix = model.encode([f"{documents[name]['title']} {documents[name]['text']}".strip() for name in names])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    scores = {}
    for query, text in queries.items():
        vector = model.encode([text])[0]
        order = np.argsort(-(matrix @ (vector / np.linalg.norm(vector))), kind="stable")[:10]
        gains = [judgements[query].get(names[i], 0) for i in order]
        ideal = sorted(judgements[query].values(), reverse=True)[:10]
        discounts = [1 / math.log2(place + 2) for place in range(10)]
        scores[query] = np.dot(gains, discounts[: len(gains)]) / np.dot(ideal, discounts[: len(ideal)])
    return scores


@pytest.fixture
def results(make_folder, tmp_path):
    local, output = synthetic.write(tmp_path / "data"), tmp_path / "out"
    found = evaluated({"enc": make_folder("mlm"), "dec": make_folder("clm")}, local, output)
    return local, output, found


def test_every_local_task_is_scored_as_mteb_itself_scores_it(results):
    local, output, models = results
    for name, reading in (("enc", "mean of"), ("dec", "lasttoken of")):
        tasks = models[name]["suites"]["retrieval"]
        done = {task: result for task, result in tasks.items() if result["status"] == "done"}
        collections, rows = {"code_search_net", "mldr_like", "words"}, {"STS13", "word_clusters", "word_kinds"}
        assert set(done) == {"triplets", *collections, *rows}
        assert tasks["msmarco"]["reason"].startswith("no folder of this name")
        assert done["words"]["identity"]["protocol"]["reading"] == f"{reading} [CLS] text [SEP], at most 500 tokens"
        model = load(next((output / "models" / "retrieval").glob(f"{name}-*")))
        for task in rows:
            own = rows_task(task, local_rows(local / "mteb" / task), None)
            assert done[task]["value"] == pytest.approx(directly(own, model), abs=EQUAL), task
        for task in collections:
            folder = local / "retrieval" / task
            form = form_of(folder)
            collection = form.read(form.files(folder))
            by_hand = list(
                retrieval_by_hand(model, collection.documents, collection.queries, collection.judgements).values()
            )
            assert done[task]["metric"] == "ndcg_at_10" and done[task]["examples"] == len(by_hand)
            assert done[task]["value"] == pytest.approx(directly(collection_task(task, collection), model), abs=EQUAL)
            assert done[task]["value"] == pytest.approx(np.mean(by_hand), abs=ROUNDED), task
            error = np.std(by_hand, ddof=1) / math.sqrt(len(by_hand))
            assert done[task]["standard_error"] == pytest.approx(error, abs=EQUAL), task
    assert done["words"]["details"]["learning_rate"] == 1e-3 and done["words"]["details"]["documents"] == 8


def test_finished_tasks_are_kept_and_models_are_not_trained_again(results, make_folder):
    local, output, models = results
    files = [*(output / "parts").iterdir(), *(output / "models").rglob("*.json")]
    kept = {path: path.stat().st_mtime_ns for path in files}
    part = output / "parts" / "dec--retrieval--words.json"
    before = json.loads(part.read_text())["result"]["value"]
    part.unlink()
    again = evaluated({"enc": make_folder("mlm"), "dec": make_folder("clm")}, local, output)
    assert again["dec"]["suites"]["retrieval"]["words"]["value"] == before
    written = [path for path in kept if path.stat().st_mtime_ns != kept[path]]
    statuses = {json.loads(path.read_text())["result"]["status"] for path in written if path != part}
    assert statuses <= {"not run"}, "what could not run is looked at again"


def test_shards_share_one_trained_model(make_folder, tmp_path):
    local, output = synthetic.write(tmp_path / "data"), tmp_path / "out"
    folder = make_folder("mlm")
    for index in (1, 2, 3):
        evaluated({"m": folder}, local, output, tasks=["words", "mldr_like", "STS13"], shard=Shard.parse(f"{index}/3"))
    found = read_results(output)["models"]["m"]["suites"]["retrieval"]
    assert set(found) == {"words", "mldr_like", "STS13"} and all(one["status"] == "done" for one in found.values())
    assert len(list((output / "models" / "retrieval").iterdir())) == 1


def test_several_seeds_are_averaged_and_their_spread_is_in_the_error(make_folder, tmp_path):
    local = synthetic.write(tmp_path / "data")
    found = evaluated({"m": make_folder("mlm")}, local, tmp_path / "out", tasks=["words", "triplets"], seeds=2)
    words = found["m"]["suites"]["retrieval"]["words"]
    assert words["value"] == pytest.approx(np.mean(words["details"]["scores"])) and len(words["details"]["scores"]) == 2
    one = Scored(metric="m", value=0.4, examples=9, standard_error=0.03)
    two = Scored(metric="m", value=0.6, examples=9, standard_error=0.05)
    merged = measured([one, two], {"type": "Retrieval"})
    assert merged.value == 0.5
    assert merged.standard_error == pytest.approx(math.sqrt((0.03**2 + 0.05**2) / 2 + 0.02 / 2))
    assert merged.others["standard deviation over seeds"] == pytest.approx(math.sqrt(0.02))
    assert ranked([3, 5], 10, {}).value == 0.4


def test_a_limit_is_kept_to(make_folder, tmp_path):
    local = synthetic.write(tmp_path / "data")
    found = evaluated({"m": make_folder("mlm")}, local, tmp_path / "out", tasks=["words", "STS13"], limit=4)
    tasks = found["m"]["suites"]["retrieval"]
    assert tasks["words"]["examples"] == 4 and tasks["STS13"]["examples"] == 4
    assert tasks["words"]["details"]["triplets_trained_on"] == 4


def test_the_tasks_of_the_benchmark_are_those_of_mteb():
    tasks = mteb.get_benchmark(BENCHMARK).tasks
    assert {task.metadata.name: task.metadata.type for task in tasks} == {
        task: kind for kind, names in TYPES.items() for task in names
    }
    for name, named in NAMED.items():
        task = hub_task(name, named)
        assert task.metadata.name == named.mteb and task.metadata.main_score == "ndcg_at_10"
    assert hub_task("mldr", NAMED["mldr"]).hf_subsets == ["en"]
    assert hub_task("mldr", NAMED["mldr"]).eval_splits == ["test"] and len(ENGLISH_TASKS) == 41


def test_a_limit_cuts_the_hubs_collections_as_local_ones(tmp_path):
    from datasets import Dataset

    folder = synthetic.write_beir(tmp_path)
    form = form_of(folder)
    collection = form.read(form.files(folder))
    whole, limited = collection_task("words", collection), collection_task("words", collection.limited(1))
    limit_data(whole, 1)
    for one in (whole, limited):
        part = one.dataset["default"]["test"]
        assert part["queries"]["id"] == ["q0"] and set(part["relevant_docs"]) == {"q0"}
    whole_ids, limited_ids = (one.dataset["default"]["test"]["corpus"]["id"] for one in (whole, limited))
    assert set(whole_ids) == set(limited_ids)
    similar = rows_task("STS13", local_rows(synthetic.write(tmp_path / "d") / "mteb" / "STS13"), None)
    limit_data(similar, 3)
    assert isinstance(similar.dataset["test"], Dataset) and len(similar.dataset["test"]) == 3


def test_rows_of_another_type_than_mtebs_task_are_named(make_folder, tmp_path):
    local = synthetic.write(tmp_path / "data")
    synthetic.write_rows(local / "mteb" / "STS12" / "test.jsonl.gz", synthetic.CLUSTERS)
    with pytest.raises(DataError, match="mteb's STS12 is a task of type STS, and the rows are of Clustering"):
        evaluated({"m": make_folder("mlm")}, local, tmp_path / "out", tasks=["STS12"])


def test_an_offline_hub_says_what_to_do(make_folder, tmp_path, monkeypatch):
    from megatron_ettin.evaluate.retrieval import mteb_tasks

    task = hub_task("SCIDOCS", None)
    monkeypatch.setattr(type(task), "load_data", lambda *_, **__: (_ for _ in ()).throw(ConnectionError("no route")))
    with pytest.raises(DataError, match=r"the data of SCIDOCS cannot be fetched \(no route\).*--local FOLDER"):
        mteb_tasks.fetched(task, None)


def test_real_collections_are_scored_as_mteb_itself_scores_them(make_folder, shared, tmp_path):
    local = shared / "evaluation"
    if not local.is_dir():
        pytest.skip(f"no real collections at {local}")
    tasks = ["cranfield", "STS13"]
    found = evaluated({"m": make_folder("mlm")}, local, tmp_path / "out", tasks=tasks, limit=60)["m"]["suites"]
    model = load(next((tmp_path / "out" / "models" / "retrieval").iterdir()))
    own = rows_task("STS13", local_rows(local / "mteb" / "STS13"), 60)
    assert found["retrieval"]["STS13"]["value"] == pytest.approx(directly(own, model), abs=EQUAL)
    form = form_of(local / "retrieval" / "cranfield")
    part = form.read(form.files(local / "retrieval" / "cranfield")).limited(60)
    by_hand = np.mean(list(retrieval_by_hand(model, part.documents, part.queries, part.judgements).values()))
    value = found["retrieval"]["cranfield"]["value"]
    assert value == pytest.approx(directly(collection_task("cranfield", part), model), abs=EQUAL)
    assert value == pytest.approx(by_hand, abs=ROUNDED)


def test_the_command_of_the_page_runs(make_folder, root, tmp_path, monkeypatch, capsys):
    from megatron_ettin.cli import main

    lines = (root / "docs" / "evaluate.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("ettin evaluate") and "--suite retrieval" in line]
    place = shutil.copytree(root / "tests" / "artifacts", tmp_path / "place")
    (place / "run-mlm").rename(place / "my_encoder")
    make_folder("clm").rename(place / "my_decoder")
    synthetic.write(place / "my_data")
    monkeypatch.chdir(place)
    assert main(shlex.split(line)[1:]) == 0
    shown = capsys.readouterr().out
    for words in ("## retrieval", "| my_encoder | encoder |", "| my_decoder | decoder |", "words (ndcg_at_10)"):
        assert words in shown
