"""What is concluded never goes beyond the intervals."""

import pytest

from megatron_ettin.study.conclusions import AHEAD, BEHIND, OPEN, Figure, conclusions, plain
from tests.evaluate.suites.test_table import result

KINDS = ("encoder", "decoder", "encoder-from-decoder", "decoder-from-encoder")


def models(suite="stdlib", task="module_of_function", **scores):
    """Name with _ for - -> result."""
    found = {name.replace("_", "-"): score for name, score in scores.items()}
    return {name: {"kind": name, "suites": {suite: {task: score}}} for name, score in found.items()}


def said(tokens=0, **scores):
    return [plain(sentence) for sentence in conclusions(models(**scores), tokens)]


def test_a_clear_difference_is_told_with_its_interval():
    first = said(encoder=result(0.6), decoder=result(0.5))[0]
    assert first == (
        "Classification, encoder against decoder (the paper: encoder ahead): encoder ahead, as in the paper, in 1 of "
        "1: module_of_function +10.0 [+7.2, +12.8]."
    )


def test_the_other_way_round_is_told_as_well():
    first = said(encoder=result(0.5), decoder=result(0.6))[0]
    assert "decoder ahead, unlike the paper, in 1 of 1" in first and "-10.0" in first


def test_what_the_interval_does_not_tell_is_not_told():
    first = said(encoder=result(0.52), decoder=result(0.5))[0]
    assert "not told apart in 1 of 1: module_of_function +2.0 [-0.8, +4.8]" in first and "as in the paper" not in first


@pytest.mark.parametrize("higher", [True, False])
def test_the_verdict_follows_the_direction_of_the_scale(higher):
    from megatron_ettin.evaluate.suites.columns import sections
    from megatron_ettin.study.conclusions import CLAIMS, comparisons

    scores = {"encoder": result(0.6, higher_is_better=higher), "decoder": result(0.5, higher_is_better=higher)}
    (made,) = comparisons(CLAIMS[0], list(sections(models(**scores))))
    assert made.verdict == (AHEAD if higher else BEHIND)
    close = {"encoder": result(0.51), "decoder": result(0.5)}
    (made,) = comparisons(CLAIMS[0], list(sections(models(**close))))
    assert made.verdict == OPEN


def test_scores_of_different_rules_or_without_error_are_not_compared():
    assert not said(encoder=result(0.6), decoder=result(0.5, limit=10))
    without = result(0.5) | {"standard_error": None}
    assert not said(encoder=result(0.6), decoder=without)


def test_guessing_is_named():
    chance = {"details": {"chance": 0.5}}
    lines = said(encoder=result(0.51, **chance), decoder=result(0.49, **chance))
    assert "module_of_function: no model is told apart from guessing (50.0); its order says nothing." in lines
    lines = said(encoder=result(0.7, **chance), decoder=result(0.51, **chance))
    assert "module_of_function: not told apart from guessing (50.0): decoder." in lines


def test_limits_of_the_study_are_told():
    lines = said(encoder=result(0.6), decoder=result(0.5), tokens=3_000_000)
    assert any("another seed" in line for line in lines) and any("up to 3,000,000 tokens" in line for line in lines)
    assert any("Differences judged: 1, " in line for line in lines)


def test_shares_of_pronouns_prove_no_claim():
    assert not said(suite="bias", task="winogender_male", encoder=result(0.6), decoder=result(0.5))


def test_every_difference_links_to_what_it_is_made_of():
    (sentence, *_) = conclusions(models(encoder=result(0.6), decoder=result(0.5)), 0)
    (figure,) = [part for part in sentence if isinstance(part, Figure)]
    assert figure.data["difference"] == pytest.approx(0.1) and set(figure.data["scores"]) == {"encoder", "decoder"}
