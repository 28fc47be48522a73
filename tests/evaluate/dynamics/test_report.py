"""Curves show values by tokens, and the largest change with what was read meanwhile."""

import pytest

from megatron_ettin.evaluate.dynamics.curves import axis_of, curves_of, place_on
from megatron_ettin.evaluate.dynamics.report import dynamics_text
from megatron_ettin.replay.order_file import write_order_file
from megatron_ettin.replay.replay import open_run_data, sources_between
from tests.evaluate.suites.test_table import result


def model(curve, step, value, tokens=None, run=None, stage=0, **changes):
    point = {
        "curve": curve, "revision": f"step{step}", "stage": stage, "step": step, "tokens": tokens, "run": run,
        "known_by": "",
    }  # fmt: skip
    return {"kind": "encoder", "point": point, "suites": {"s": {"t": result(value, **changes)}}}


def test_the_largest_change_is_between_neighbours_in_the_order_of_training():
    values = {1: 0.1, 2: 0.2, 10: 0.5, 30: 0.45}
    models = {str(step): model("a", step, values[step], tokens=10 * step) for step in (30, 1, 10, 2)}
    (curve,) = curves_of(models)
    assert [one.step for one in curve.measurements] == [1, 2, 10, 30]
    change = curve.largest_change
    assert (change.before.step, change.after.step, change.within) == (2, 10, False)
    text = dynamics_text(models)
    assert "| step10 | 100 | 50.0 [48.0, 52.0] |" in text
    assert "| t | +30.0 | step2 | step10 | not known: give the folder of the run |" in text


def test_a_change_within_its_interval_is_marked():
    (curve,) = curves_of({"a": model("a", 1, 0.50, tokens=1), "b": model("a", 2, 0.49, tokens=2)})
    assert curve.largest_change.within
    assert "| t | \u22121.0 \u2248 | step1 | step2 |" in dynamics_text(
        {"a": model("a", 1, 0.50, tokens=1), "b": model("a", 2, 0.49, tokens=2)}
    )


def test_checkpoints_with_one_between_that_did_not_run_are_no_neighbours():
    models = {str(step): model("a", step, 0.1 * step, tokens=step) for step in (1, 2, 4)}
    models["2"]["suites"]["s"]["t"] = {"status": "not run", "reason": "it is damaged"}
    (curve,) = curves_of(models)
    assert curve.largest_change is None
    assert "- t (2): it is damaged" in dynamics_text(models)


def test_values_of_other_rules_are_other_curves():
    models = {"a": model("c", 1, 0.5, tokens=1), "b": model("c", 2, 0.6, tokens=2, limit=10)}
    assert [len(curve.measurements) for curve in curves_of(models)] == [1, 1]
    assert "| checkpoint | tokens | t (acc) rules 1 | t (acc) rules 2 |" in dynamics_text(models)


def test_without_tokens_curves_are_drawn_by_steps_or_in_order():
    known = curves_of({"a": model("a", 1, 0.5, tokens=7), "b": model("a", 2, 0.6, tokens=9)})
    assert (axis_of(known), [place_on("tokens", one) for one in known[0].measurements]) == ("tokens", [7, 9])
    steps = curves_of({"a": model("a", 1, 0.5), "b": model("a", 2, 0.6)})
    assert (axis_of(steps), [place_on("steps", one) for one in steps[0].measurements]) == ("steps", [1, 2])
    stages = curves_of({"a": model("a", 9, 0.5), "b": model("a", 2, 0.6, stage=1)})
    assert axis_of(stages) == "places"
    assert [place_on("places", one) for one in stages[0].measurements] == [0, 1]


def test_what_was_read_between_two_checkpoints_is_told_by_source(run, tmp_path):
    import pyarrow.parquet as pq

    data = open_run_data(run)
    models = {
        "a": model("a", 2, 0.2, tokens=2, run=str(run)), "b": model("a", 4, 0.5, tokens=4, run=str(run)),
        "c": model("a", 6, 0.6, tokens=6, run=str(run)),
    }  # fmt: skip
    counts = sources_between(data, 2, 4)
    write_order_file(data, 2, 4, tmp_path / "order.parquet")
    sources = pq.read_table(tmp_path / "order.parquet")["source"].to_pylist()
    assert counts == {name: sources.count(name) for name in counts} and sum(counts.values()) == len(sources) == 8
    text = dynamics_text(models)
    assert f"| step2 | step4 | {', '.join(f'{name} {count}' for name, count in counts.items())} |" in text
    assert f"ettin order {run} --between 2 4\n" in text


def test_a_corpus_that_is_gone_costs_no_table(tmp_path):
    models = {str(step): model("a", step, 0.1 * step, tokens=step, run=str(tmp_path)) for step in (1, 2)}
    assert "cannot be told: " in dynamics_text(models)


@pytest.mark.parametrize(("first", "last"), [(4, 4), (5, 2), (-1, 3)])
def test_steps_in_another_order_are_refused(first, last, run):
    from megatron_ettin.errors import DataError

    with pytest.raises(DataError, match="must come after the first"):
        sources_between(open_run_data(run), first, last)
