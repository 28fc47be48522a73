"""The fast three-mask scorer gives what the literal one gives, however its requests are arranged."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron_ettin.errors import CheckpointError, DataError
from megatron_ettin.evaluate.generative import reference
from megatron_ettin.evaluate.generative.engines import PaddedEngine, load_any, load_engine
from megatron_ettin.evaluate.generative.three_masks import Continuation, ThreeMasks, plan
from megatron_ettin.evaluate.scorer import load_scorer
from megatron_ettin.evaluate.suites.subjects import Subject, subject_of
from tests.evaluate.batches import CLS, MASK, SEP

EQUAL = 1e-4
"""Nats, of sums over a continuation: float32 in another order."""


def opened(folder) -> Subject:
    return subject_of("m", str(folder), folder, False)


def scorer_of(subject: Subject) -> ThreeMasks:
    return ThreeMasks(engine=load_engine(subject), mask=MASK, separator=SEP, label_offset=subject.label_offset)


def request(context, continuation) -> Continuation:
    return Continuation(context=np.array([CLS, *context]), ids=np.array([*continuation, SEP]))


def requests(count: int = 14) -> list[Continuation]:
    """Choices that share contexts and beginnings, an empty context, a single token, specials inside."""
    generator = np.random.default_rng(0)
    made = []
    for number in range(count // 2):
        context = generator.integers(0, 256, generator.integers(1, 40)).tolist()
        begun = generator.integers(0, 256, 3).tolist()
        made += [request(context, [*begun, number]), request(context, [*begun, 9, 9])]
    return [*made, request([], [5, 6]), request([7], [8]), request([7, MASK, 8], [MASK, SEP, 3])]


def scores(scorer, asked):
    return np.array([one.log_probability for one in scorer.scores(asked)]), [one.greedy for one in scorer.scores(asked)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, make_export):
    from megatron_ettin.export import write_folder

    found = {}
    for objective in ("mlm", "mntp"):
        found[objective] = tmp_path_factory.mktemp(objective)
        write_folder(found[objective], make_export(objective))
    return found


def plainly(subject, asked, offset=None):
    model = load_any(subject)
    return [
        reference.score(
            model, one.context.tolist(), one.ids.tolist(), mask=MASK, separator=SEP,
            offset=subject.label_offset if offset is None else offset,
        )
        for one in asked
    ]  # fmt: skip


@pytest.mark.parametrize("objective", ["mlm", "mntp"])
def test_scores_are_those_of_the_literal_method(objective, folders):
    subject, asked = opened(folders[objective]), requests()
    found = scorer_of(subject).scores(asked)
    for one, (log_p, greedy) in zip(found, plainly(subject, asked), strict=True):
        assert one.log_probability == pytest.approx(log_p, abs=EQUAL)
        assert one.greedy == greedy


def test_a_greedy_continuation_is_known_as_one(folders):
    scorer = scorer_of(opened(folders["mlm"]))
    context, best = np.array([CLS, 65, 66]), []
    for _ in range(3):
        best += scorer.next_tokens([np.array([*context, *best])])
    asked = [Continuation(context=context, ids=np.array(ids)) for ids in (best, [*best[:2], (best[2] + 1) % 256])]
    assert [one.greedy for one in scorer.scores(asked)] == [True, False]


def test_reading_at_the_wrong_place_is_another_score(folders):
    subject = opened(folders["mntp"])
    assert subject.label_offset == -1
    asked = requests(4)
    in_place = [log_p for log_p, _ in plainly(subject, asked, offset=0)]
    assert np.abs(scores(scorer_of(subject), asked)[0] - in_place).min() > 0.01


def test_the_arrangement_of_requests_changes_nothing(folders):
    scorer, asked = scorer_of(opened(folders["mlm"])), requests()
    whole, greedy = scores(scorer, asked)
    order = np.random.default_rng(1).permutation(len(asked))
    assert scores(scorer, [asked[i] for i in order])[0] == pytest.approx(whole[order], abs=EQUAL)
    assert scores(scorer, [*asked, *asked])[0] == pytest.approx(np.tile(whole, 2), abs=EQUAL)
    assert scores(scorer, asked[3:4])[0] == pytest.approx(whole[3:4], abs=EQUAL)
    for budget in (1, 100, 100_000):
        found, flags = scores(replace(scorer, engine=replace(scorer.engine, tokens_per_pass=budget)), asked)
        assert found == pytest.approx(whole, abs=EQUAL) and flags == greedy


def test_equal_rows_are_computed_once():
    asked = [request([1, 2], [3, 4]), request([1, 2], [3, 5]), request([1, 2], [6]), request([1, 2, 3], [7])]
    rows = plan(asked)
    assert rows.asked == 3 + 3 + 2 + 2
    texts = [asked[i].context.tolist() + asked[i].ids[:place].tolist() for i, place in rows.owners]
    assert texts == [
        [CLS, 1, 2], [CLS, 1, 2, 3], [CLS, 1, 2, 3, 4], [CLS, 1, 2, 3, 5], [CLS, 1, 2, 6], [CLS, 1, 2, 3, 7],
    ]  # fmt: skip
    assert rows.lengths == [len(text) for text in texts]
    assert {token: len(places) for token, places in rows.wanted[0].items()} == {3: 2, 6: 1}
    assert {token: len(places) for token, places in rows.wanted[1].items()} == {4: 1, 5: 1, 7: 1}


def test_a_long_context_is_cut_from_the_left_and_keeps_its_start(folders):
    scorer = scorer_of(opened(folders["mlm"]))
    longest = scorer.engine.maximum_length
    context = np.array([CLS, *range(200), *range(200), *range(200)])
    fitted, cut = scorer.fitted(context, 5)
    assert cut and len(fitted) + 5 + 4 == longest
    assert fitted[0] == CLS and fitted[1:].tolist() == context[-(len(fitted) - 1) :].tolist()
    (at_the_limit,) = scorer.scores([Continuation(context=fitted, ids=np.array([1, 2, 3, 4, 5, SEP]))])
    assert np.isfinite(at_the_limit.log_probability)
    assert scorer.fitted(fitted, 5) == (pytest.approx(fitted), False)
    with pytest.raises(DataError, match="a continuation of 496 tokens does not fit into a model of 500 tokens"):
        scorer.fitted(context, 496)


def test_a_model_of_another_architecture_is_scored_by_transformers(tmp_path, tokenizer_json):
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=301, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40,
        max_position_embeddings=90, pad_token_id=260,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(tokenizer_json.read_text())
    subject = opened(tmp_path)
    scorer = scorer_of(subject)
    assert isinstance(scorer.engine, PaddedEngine) and scorer.engine.maximum_length == 90
    asked = requests()
    for one, (log_p, greedy) in zip(scorer.scores(asked), plainly(subject, asked), strict=True):
        assert one.log_probability == pytest.approx(log_p, abs=EQUAL) and one.greedy == greedy


@pytest.mark.parametrize("load", [load_engine, load_any, lambda subject: load_scorer(subject.folder)])
def test_weights_that_are_no_numbers_are_refused_by_name(load, folders, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["mlm"], tmp_path / "broken")
    tensors = load_file(folder / "model.safetensors")
    tensors["head.dense.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="tensor head.dense.weight .*NaN or infinity"):
        load(opened(folder))
