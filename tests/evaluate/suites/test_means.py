"""Means over the tasks of a group, and over its types."""

import math

from megatron_ettin.evaluate.suites.table import compare
from tests.evaluate.suites.test_table import result, write


def task(value, kind, group="MTEB(eng, v2)", size=41, **changes):
    return result(value, details={"group": group, "type": kind, "group_size": size}, **changes)


def test_tasks_and_types_weigh_alike(tmp_path):
    tasks = {
        "a": task(0.2, "Retrieval", error=0.03), "b": task(0.4, "Retrieval", error=0.04), "c": task(0.9, "STS"),
        "d": task(0.5, "STS", group="local tasks", size=0), "e": result(0.1),
    }  # fmt: skip
    text = compare([write(tmp_path / "x", "retrieval", m=tasks, n={"a": task(0.1, "Retrieval")})])
    titles = next(line for line in text.splitlines() if line.startswith("| model |")).split(" | ")
    row = next(line for line in text.splitlines() if line.startswith("| m |")).split(" | ")
    over_tasks = titles.index("MTEB(eng, v2), over tasks (mean of 3 of 41)")
    over_types = next(i for i, title in enumerate(titles) if title.startswith("MTEB(eng, v2), over types (mean of 2)"))
    error = math.sqrt(0.03**2 + 0.04**2 + 0.01**2) / 3
    assert row[over_tasks].startswith(f"50.0 [{50 - 195.9964 * error:.1f}, {50 + 195.9964 * error:.1f}]")
    assert row[over_types].startswith("60.0 ["), "the mean of 30 and 90"
    assert not any("local tasks" in title for title in titles), "one task has no mean"
    other = next(line for line in text.splitlines() if line.startswith("| n |")).split(" | ")
    assert other[over_tasks] == "-", "a model that lacks a task has no mean"


def test_a_task_of_two_sets_of_rules_is_in_no_mean(tmp_path):
    one = {"a": task(0.2, "STS"), "b": task(0.4, "STS"), "c": task(0.6, "STS")}
    two = {"a": task(0.2, "STS", metric="other")}
    text = compare([write(tmp_path / "x", "retrieval", m=one), write(tmp_path / "y", "retrieval", n=two)])
    assert "over tasks (mean of 2 of 41)" in text and "| 50.0 [" in text.replace("**", "")
