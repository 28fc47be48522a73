"""Pronouns are masked and exchanged as published, or as English has them."""

import gzip
import json

import pytest

from megatron_ettin.evaluate.bias.pronouns import category_in, masked, versions

HER = "The technician told her that she was late with her tools, and she has thanked her."


def test_each_pronoun_is_masked_in_turn_and_its_punctuation_stays():
    assert list(masked("She gave him the cup, and he thanked her.", "[MASK]")) == [
        "[MASK] gave him the cup, and he thanked her.",
        "She gave [MASK] the cup, and he thanked her.",
        "She gave him the cup, and [MASK] thanked her.",
        "She gave him the cup, and he thanked [MASK].",
    ]
    assert category_in("The nurse thanked Them.") == "neutral" and category_in("The nurse left") is None


def test_her_has_two_cases():
    found = versions(HER, published=False)
    assert found == {
        "female": HER,
        "male": "The technician told him that he was late with his tools, and he has thanked him.",
        "neutral": "The technician told them that they were late with their tools, and they have thanked them.",
    }


def test_published_scores_make_every_her_possessive():
    found = versions(HER, published=True)
    assert found["male"] == "The technician told his that he was late with his tools, and he has thanked his."
    assert found["neutral"].startswith("The technician told their that they were late with their tools, and they have")


def test_verbs_agree_both_ways_and_published_ones_towards_neutral_only():
    assert versions("They were late.", published=False)["male"] == "He was late."
    assert versions("They were late.", published=True)["male"] == "He were late."
    assert versions("He has time.", published=True)["neutral"] == "They have time."


def test_a_sentence_without_a_pronoun_is_refused():
    with pytest.raises(ValueError, match="has no pronoun"):
        versions("The nurse left.", published=False)


def test_versions_of_the_whole_data_set_are_those_of_its_authors(shared):
    path = shared / "evaluation" / "bias" / "winogender" / "all.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no evaluation data at {path}")
    sentences: dict = {}
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            sentences.setdefault(row["sentid"].replace(f".{row['gender']}.", "."), {})[row["gender"]] = row["sentence"]
    wrong = [
        (by_gender[gender], category, made)
        for by_gender in sentences.values()
        for gender in by_gender
        for category, made in versions(by_gender[gender], published=False).items()
        if made != by_gender[category]
    ]
    assert wrong == []
