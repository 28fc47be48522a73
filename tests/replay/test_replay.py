"""Replay: what a run has read, computed again, by step, by document and between checkpoints."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest

from megatron_ettin.cli import main
from megatron_ettin.config.codec import to_json
from megatron_ettin.config.run import BatchConfig
from megatron_ettin.config.sharing import Sharing
from megatron_ettin.errors import DataError
from megatron_ettin.observe.records import last_recorded_step, recorded_step
from megatron_ettin.replay.replay import newest_step, open_run_data, original_ids, seen_step, sightings
from megatron_ettin.rows.data_record import record_data
from megatron_ettin.rows.loader import Loader
from megatron_ettin.rows.report import source_reports, source_table
from megatron_ettin.rows.run_data import open_data
from tests.rows.conftest import run_config, write_mixture
from tests.twins.corpus_writer import random_documents, write_corpus

BATCH = BatchConfig(rows=24, warmup_tokens=64 * 200, warmup_increment=8)
STEPS = 60


def start_run(folder, config):
    """A run folder as training leaves it: settings, record of the data, digests of its steps."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(config))
    data = open_data(config)
    record_data(data, folder)
    sharing = partial(Sharing, size=4)
    with Loader(data, config.objective, sharing=sharing) as loader, (folder / "metrics.jsonl").open("w") as out:
        for step, batches in loader:
            digest = sum(batch.digest() for batch in batches) % 2**64
            out.write(json.dumps({"kind": "step", "step": step + 1, "batch": f"{digest:016x}"}) + "\n")
            if step % 7 == 0:
                out.write(json.dumps({"kind": "evaluation", "step": step + 1, "loss": 1.0}) + "\n")
            if step + 1 == STEPS:
                break
        out.write('{"kind": "st')
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    folder, rng = tmp_path_factory.mktemp("replay"), np.random.default_rng(8)
    documents = {}
    for name, count in (("web", 150), ("code", 60)):
        documents[name] = random_documents(rng, count)
        write_corpus(folder / name, documents[name])
    write_mixture(
        folder / "mixture.json",
        [{"name": "web", "prefix": "web", "passes": 1.5}, {"name": "code", "prefix": "code", "passes": 2}],
    )
    return folder, documents


CARRIED = {"stage_number": 16, "first_row": 1001}
"""A stage that goes on in the order of the one before, in the middle of a later epoch."""
FALLING = CARRIED | {"mask_share": 0.5, "mask_share_end": 0.1}
"""Beside that, a share of masked tokens that falls over the stage."""


RUNS = [("mlm", {}), ("clm", {}), ("mntp", {}), ("mlm", CARRIED), ("mlm", FALLING), ("mixed", {})]


@pytest.fixture(scope="module", params=RUNS)
def run(request, corpora):
    (folder, _), (objective, fields) = corpora, request.param
    config = run_config(folder / "mixture.json", objective=objective, batch=BATCH, **fields)
    return start_run(folder / f"run-{objective}-{len(fields)}", config)


def test_replayed_steps_are_those_that_were_trained_on(run):
    data = open_run_data(run)
    for step in (1, 2, 17, STEPS):
        seen = seen_step(data, step)
        assert seen.digest() == recorded_step(run, step)["batch"]
        assert seen.batch.rows == len(seen.rows) == data.batch_schedule.rows_at(step - 1)[1]
    assert recorded_step(run, STEPS + 1) is None
    assert last_recorded_step(run) == STEPS
    assert newest_step(run, data) == (STEPS, "metrics.jsonl")
    (run / "checkpoints" / "step-00000040").mkdir(parents=True)
    assert newest_step(run, data) == (40, "the newest checkpoint")
    (run / "checkpoints" / "step-00000040").rmdir()


def test_documents_are_found_in_the_steps_that_read_them(run, corpora):
    data = open_run_data(run)
    read = {}
    for step in range(1, STEPS + 1):
        for place, row in enumerate(seen_step(data, step).rows):
            for document, start, length in row.pieces:
                sighting = (step, place, row.number, row.pass_number, start, length)
                read.setdefault((row.source, document), []).append(sighting)
    for source, texts in corpora[1].items():
        for document in range(len(texts)):
            found = sightings(data, document, STEPS, source)
            values = [(s.step, s.place, s.number, s.pass_number, s.start, s.length) for s in found]
            assert values == sorted(read.get((source, document), []), key=lambda v: (v[0], v[1], v[4]))
    assert 2 * data.pool_rows < STEPS * 24  # several epochs were looked at


def test_the_order_file_holds_what_was_learned_between_two_checkpoints(run, tmp_path, corpora, capsys):
    path = tmp_path / "order.parquet"
    assert main(["order", str(run), "--between", "10", "15", "--output", str(path)]) == 0
    table = pq.read_table(path).to_pydict()
    metadata = pq.read_schema(path).metadata
    data = open_run_data(run)
    rows = [(step, row) for step in range(11, 16) for row in seen_step(data, step).rows]
    assert table["step"] == [step for step, _ in rows]
    assert table["source"] == [row.source for _, row in rows]
    assert table["row"] == [row.number for _, row in rows]
    assert list(zip(table["documents"], table["starts"], table["lengths"], strict=True)) == [
        tuple(list(part) for part in zip(*row.pieces, strict=True)) for _, row in rows
    ]
    for ids, (_, row) in zip(table["input_ids"], rows, strict=True):
        at = 0
        for document, start, length in row.pieces:
            assert ids[at + 1 : at + 1 + length] == corpora[1][row.source][document][start : start + length]
            at += length + 2
        assert len(ids) == 64
    assert metadata[b"sequence_length"] == b"64"
    assert str(pq.read_schema(path).field("input_ids").type) == "list<element: uint16>"
    assert f"{len(rows)} rows" in capsys.readouterr().out


def test_the_command_prints_steps_and_documents(run, capsys):
    assert main(["order", str(run), "--step", "3"]) == 0
    out = capsys.readouterr().out
    assert f"digest {recorded_step(run, 3)['batch']}, as recorded" in out
    assert main(["order", str(run), "--step", "900"]) == 0
    assert "the run has not made this step" in capsys.readouterr().out
    data = open_run_data(run)
    seen = seen_step(data, 3)
    assert out.count("document ") == sum(len(row.pieces) for row in seen.rows)
    predicted = sum(int(line.split()[-2]) for line in out.splitlines() if line.endswith("predicted"))
    assert predicted == seen.batch.labels
    assert main(["order", str(run), "--document", "3", "--source", "web"]) == 0
    assert "document 3: " in capsys.readouterr().out
    held = {d for n in range(data.held_out_packs[0].rows) for d, _, _ in data.held_out_packs[0].native.row(n)}
    assert main(["order", str(run), "--document", str(min(held)), "--source", "web"]) == 0
    assert "it is held out" in capsys.readouterr().out


@pytest.mark.parametrize("arguments,message", [
    (["--step", "0"], "the first step of a run is 1"),
    (["--step", "9", "--row", "0", "99"], "--row 99: step 9 has"),
    (["--document", "1"], "name one of: web, code"),
    (["--document", "1", "--source", "books"], "no source 'books'; name one of: web, code"),
    (["--document", "9999", "--source", "web"], "has no document 9999; it has 150"),
    (["--between", "5", "5"], "the second step must come after the first"),
])  # fmt: skip
def test_questions_that_have_no_answer_are_refused(run, arguments, message, capsys):
    assert main(["order", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_flags_without_effect_are_refused(run, capsys):
    with pytest.raises(SystemExit):
        main(["order", str(run), "--document", "1", "--text"])
    assert "--text goes with --step" in capsys.readouterr().err


def test_a_wrong_digest_is_an_error(corpora, tmp_path, capsys):
    run = start_run(tmp_path / "run", run_config(corpora[0] / "mixture.json", batch=BATCH))
    lines = (run / "metrics.jsonl").read_text().replace(recorded_step(run, 5)["batch"], "0" * 16)
    (run / "metrics.jsonl").write_text(lines)
    assert main(["order", str(run), "--step", "5"]) == 2
    assert "step 5 was trained on rows with digest 0000000000000000" in capsys.readouterr().err


def test_a_changed_corpus_is_refused_by_name(tmp_path):
    rng = np.random.default_rng(9)
    for name in ("a", "b"):
        write_corpus(tmp_path / name, random_documents(rng, 50))
    sources = [{"name": name, "prefix": name, "passes": 1} for name in ("a", "b")]
    write_mixture(tmp_path / "mixture.json", sources)
    config = run_config(tmp_path / "mixture.json")
    record_data(open_data(config), tmp_path / "run")
    record_data(open_data(config), tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text(to_json(config))
    write_mixture(tmp_path / "mixture.json", [sources[0], sources[1] | {"passes": 2}])
    with pytest.raises(DataError, match=r"source 'b' gave \d+ rows and gives \d+"):
        open_run_data(tmp_path / "run")
    write_mixture(tmp_path / "mixture.json", sources[:1])
    with pytest.raises(DataError, match="the sources were a, b and are a"):
        open_run_data(tmp_path / "run")
    write_mixture(tmp_path / "mixture.json", sources)
    write_corpus(tmp_path / "b", random_documents(rng, 50))
    with pytest.raises(DataError, match=r"the corpus of source 'b' \(.*\) has changed"):
        record_data(open_data(config), tmp_path / "run")
    with pytest.raises(DataError, match="row length, pieces, seed, stage or batch sizes differ"):
        other = replace(config, data=replace(config.data, seed=1))
        write_corpus(tmp_path / "c", [[1] * 9])
        single = run_config(tmp_path / "c", held_out_share=0.0)
        record_data(open_data(single), tmp_path / "single")
        changed = replace(single, data=replace(single.data, seed=other.data.seed))
        record_data(open_data(changed), tmp_path / "single")


def test_a_folder_that_is_no_run_is_refused(tmp_path, capsys):
    assert main(["order", str(tmp_path), "--step", "1"]) == 2
    assert "config.json: no such file" in capsys.readouterr().err
    (tmp_path / "config.json").write_text("{}")
    assert main(["order", str(tmp_path), "--step", "1"]) == 2


def test_original_ids_are_what_no_objective_changes(run):
    data = open_run_data(run)
    seen = seen_step(data, 4)
    offset = {"mlm": 0, "mntp": -1, "clm": -1, "mixed": -1}[data.config.objective]
    plain = data.batch(data.step_rows(3), "clm").input_ids_BT
    found = original_ids(seen.batch, offset)
    differs = plain != found
    assert differs.mean() < 0.05 and set(found[differs]) <= {253}


def test_the_objective_of_each_row_of_a_mixed_run_is_told(corpora, tmp_path, capsys):
    folder, _ = corpora
    run = start_run(tmp_path / "run", run_config(folder / "mixture.json", objective="mixed", batch=BATCH))
    data = open_run_data(run)
    expected = ["clm" if causal else "mntp" for causal in seen_step(data, 5).batch.causal_B]
    assert set(expected) == {"clm", "mntp"}
    assert main(["order", str(run), "--step", "5"]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("row ")]
    assert [line.rpartition(", ")[2] for line in rows] == expected
    assert main(["order", str(run), "--between", "4", "5", "--output", str(tmp_path / "order.parquet")]) == 0
    assert pq.read_table(tmp_path / "order.parquet")["objective"].to_pylist() == expected


def test_realised_counts_are_exact(corpora, capsys):
    folder, _ = corpora
    config = run_config(folder / "mixture.json")
    data = open_data(config)
    reports = source_reports(data, count=True)
    resolved = data.pool.resolve(np.arange(data.pool_rows))
    sources = resolved.sources
    tokens = [pack.native.row_tokens(resolved.rows[sources == index]) for index, pack in enumerate(data.packs)]
    assert [item.tokens for item in reports] == [int(counted.sum()) for counted in tokens]
    assert [item.rows for item in reports] == np.bincount(sources).tolist()
    assert "~" not in source_table(data, count=True) and "~" in source_table(data)
    assert main(["pack", str(folder / "mixture.json"), "--row-length", "64", "--held-out-share", "0.05"]) == 0
    assert source_table(data, count=True) in capsys.readouterr().out
