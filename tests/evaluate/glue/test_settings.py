"""Budgets give the settings that they say, and rules name them."""

import pytest

from megatron_ettin.errors import ConfigError
from megatron_ettin.evaluate.glue.settings import QUICK_EXAMPLES, Budget, Setting
from megatron_ettin.evaluate.glue.tasks import TASKS


def test_the_sweep_is_the_published_grid():
    budget = Budget.parse("sweep", "")
    for name, epochs in (("mnli", (1, 2, 3, 4)), ("cola", (2, 5, 10, 12))):
        settings = budget.settings(TASKS[name])
        assert len(set(settings)) == 5 * 4 * 2 * 4 and {one.epochs for one in settings} == set(epochs)
    assert "160" in budget.facts(TASKS["mnli"])["setting"]


@pytest.mark.parametrize("task", TASKS.values(), ids=str)
def test_one_setting_is_of_the_grid_and_a_quick_one_is_short(task):
    assert Budget.parse("one", "").settings(task) == [task.setting]
    assert task.setting in Budget.parse("sweep", "").settings(task)
    quick = Budget.parse("quick", "")
    assert quick.settings(task)[0].epochs == 1 and quick.most_examples == QUICK_EXAMPLES
    assert quick.facts(task)["training_examples"] == QUICK_EXAMPLES


def test_a_setting_of_ones_own_is_for_every_task():
    text = "rate=8e-05,decay=1e-06,batch=32,epochs=2"
    assert str(Setting.parse(text)) == text
    assert Budget.parse("one", text).settings(TASKS["rte"]) == [Setting.parse(text)]


@pytest.mark.parametrize(
    ("budget", "setting", "message"),
    [("quick", "rate=1,decay=0,batch=1,epochs=1", "both say how"), ("one", "rate=1", "lacks decay, batch, epochs"),
     ("one", "rat=1", "'rat' is no part of a setting; did you mean 'rate'"),
     ("one", "rate=x,decay=0,batch=1,epochs=1", "rate=x is no number"),
     ("one", "rate=1e-4,decay=0,batch=1.5,epochs=1", "batch=1.5 is no number"),
     ("one", "rate=0,decay=0,batch=1,epochs=1", "are above 0")],
)  # fmt: skip
def test_bad_settings_are_refused(budget, setting, message):
    with pytest.raises(ConfigError, match=message):
        Budget.parse(budget, setting)
