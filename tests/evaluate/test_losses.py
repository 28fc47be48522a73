"""Held-out losses are those of a plain float64 forward, for all four kinds, on the same text."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.errors import DataError
from megatron_ettin.evaluate import questions, scorer, suite
from megatron_ettin.evaluate.demos import fill_mask, gap_in, go_on
from megatron_ettin.evaluate.losses import MASKED, NEXT, NEXT_SAMPLE, HeldOut, held_out, losses
from megatron_ettin.evaluate.report import print_results, write_results
from megatron_ettin.evaluate.text import PlainPiece, masked_pieces, plain_pieces, token_bytes, unigram_entropy
from megatron_ettin.tokenizer.identity import read_tokenizer
from tests.evaluate.batches import CHOSEN, CLS, MASK, SEP, TEXTS, masked_batch, plain_batch
from tests.export.reference import reference_logits

ROUNDING = 1e-4
"""Nats: float32 logits of size 10 against float64."""


@pytest.fixture
def text(tokenizer_json) -> HeldOut:
    return held_out(
        masked_pieces([masked_batch()]), plain_pieces([plain_batch()]), 9, token_bytes(read_tokenizer(tokenizer_json)),
        {"[MASK]": MASK, "[SEP]": SEP},
    )  # fmt: skip


def log_p(export, ids, position, target) -> float:
    logits = reference_logits(export.model, export.tensors, torch.tensor(ids), export.objective.causal)
    return logits[position].log_softmax(-1)[target].item()


def test_batches_become_pieces_with_the_true_ids():
    masked, plain = masked_pieces([masked_batch()]), plain_pieces([plain_batch()])
    whole = [[CLS, *text, SEP] for text in TEXTS]
    assert [piece.ids_T.tolist() for piece in masked] == [whole[0], whole[2]], "pieces without labels ask nothing"
    assert [piece.positions_L.tolist() for piece in masked] == [CHOSEN[0], CHOSEN[2]]
    assert all((piece.corrupted_T[piece.positions_L] == MASK).all() for piece in masked)
    assert [piece.ids_T.tolist() for piece in plain] == [whole[0], whole[1], whole[2][:-1]], "a cut text has no end"


@pytest.mark.parametrize("objective", ["mlm", "mntp", "clm"])
def test_the_masked_loss_is_read_where_each_kind_predicts(objective, text, make_folder, make_export):
    export = make_export(objective)
    judge = scorer.load_scorer(make_folder(objective))
    found = losses(text, judge.objective, judge.answer, "test")[MASKED]
    expected = []
    for document, chosen in zip(TEXTS, CHOSEN, strict=True):
        ids = [CLS, *document, SEP]
        corrupted = [MASK if i in chosen else token for i, token in enumerate(ids)]
        for i in chosen:
            read, at = (ids, i - 1) if objective == "clm" else (corrupted, i - (objective == "mntp"))
            expected.append(-log_p(export, read, at, ids[i]))
    assert found.nats_per_token == pytest.approx(np.mean(expected), abs=ROUNDING)
    assert found.standard_error == pytest.approx(np.std(expected) / np.sqrt(5), abs=ROUNDING)
    assert found.tokens == 5


@pytest.mark.parametrize("objective", ["mlm", "mntp"])
def test_an_encoder_predicts_the_next_token_from_three_masks(objective, text, make_folder, make_export):
    export = make_export(objective)
    judge = scorer.load_scorer(make_folder(objective))
    found = losses(text, judge.objective, judge.answer, "test")
    assert NEXT not in found
    expected = []
    for piece, position in text.places:
        ids = text.plain[piece].ids_T.tolist()
        read = [*ids[:position], MASK, MASK, MASK, SEP]
        expected.append(-log_p(export, read, position - (objective == "mntp"), ids[position]))
    assert found[NEXT_SAMPLE].nats_per_token == pytest.approx(np.mean(expected), abs=ROUNDING)


def test_a_decoder_is_asked_about_every_next_token_and_about_the_sample(text, make_folder, make_export):
    export = make_export("clm")
    judge = scorer.load_scorer(make_folder("clm"))
    found = losses(text, judge.objective, judge.answer, "test")
    per_token = {}
    for number, piece in enumerate(text.plain):
        ids = piece.ids_T.tolist()
        per_token |= {(number, i): -log_p(export, ids[:-1], i - 1, ids[i]) for i in range(1, len(ids))}
    assert found[NEXT].nats_per_token == pytest.approx(np.mean(list(per_token.values())), abs=ROUNDING)
    sampled = [per_token[place] for place in text.places]
    assert found[NEXT_SAMPLE].nats_per_token == pytest.approx(np.mean(sampled), abs=ROUNDING)
    bytes_asked = sum(len(document) for document in TEXTS)
    assert found[NEXT].nats_per_byte == pytest.approx(sum(per_token.values()) / bytes_asked, abs=ROUNDING)


def test_the_sample_is_even_over_all_tokens_and_never_asks_for_the_start(text):
    every = questions.sampled_places(text.plain, 10**6)
    assert len(every) == len(set(every)) == 15 + 3 + 5
    assert all(1 <= position < len(text.plain[piece].ids_T) for piece, position in every)
    assert set(text.places) <= set(every) and len(text.places) == 9


def test_an_encoder_reads_the_next_token_from_the_first_of_three_masks():
    pieces, places = [PlainPiece(ids_T=np.array([CLS, 1, 2, 3]))], [(0, 2), (0, 3)]
    requests = questions.next_at_places(pieces, places, OBJECTIVES["mntp"], MASK, SEP)
    assert [request.ids_T.tolist() for request in requests] == [
        [CLS, 1, MASK, MASK, MASK, SEP],
        [CLS, 1, 2, MASK, MASK, MASK, SEP],
    ]
    assert [int(request.targets_L[0]) for request in requests] == [2, 3]
    assert [int(request.positions_L[0]) for request in requests] == [1, 2]


def test_answers_do_not_depend_on_how_requests_are_batched(text, make_folder, monkeypatch):
    judge = scorer.load_scorer(make_folder("mlm"))
    requests = questions.next_at_places(text.plain, text.places, judge.objective, MASK, SEP)
    together = judge.answer(requests)
    monkeypatch.setattr(scorer, "TOKENS_PER_BATCH", 1)
    alone = replace(judge, passes=3).answer(requests)
    assert np.abs(together.log_probabilities_L - alone.log_probabilities_L).max() < ROUNDING
    assert (together.first_choices_L == alone.first_choices_L).all()


def test_batches_hold_every_request_once_within_the_limits(monkeypatch):
    monkeypatch.setattr(scorer, "ANSWERS_PER_PASS", 6)
    generator = np.random.default_rng(0)
    requests = [
        scorer.Request(ids_T=np.zeros(n, dtype=np.int64), positions_L=np.zeros(a, dtype=np.int64),
                       targets_L=np.zeros(a, dtype=np.int64))
        for n, a in generator.integers(1, 15, (50, 2))
    ]  # fmt: skip
    lengths = [len(request.ids_T) for request in requests]
    batched = list(scorer.passes(lengths, [len(request.positions_L) for request in requests], 40))
    assert sorted(i for batch in batched for i in batch) == list(range(50))
    for batch in batched:
        tokens = len(batch) * max(len(requests[i].ids_T) for i in batch)
        answers = sum(len(requests[i].positions_L) for i in batch)
        assert len(batch) == 1 or (tokens <= 40 and answers <= 6)


def test_unigram_entropy_is_that_of_the_counts():
    assert unigram_entropy(np.array([1, 1, 2, 2])) == pytest.approx(np.log(2))
    assert unigram_entropy(np.array([7, 7, 7])) == 0
    uneven = unigram_entropy(np.array([1, 1, 1, 2]))
    assert uneven == pytest.approx(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25)))


def test_token_bytes_are_the_bytes_of_the_text(shared):
    from tokenizers import Tokenizer

    path = shared / "tokenizers" / "ettin_encoder_tokenizer.json"
    text = "Caf\u00e9 d\u00e9j\u00e0 vu: \u4f60\u597d    x = 42; \U0001f600"
    ids = Tokenizer.from_file(str(path)).encode(text).ids
    assert token_bytes(read_tokenizer(path))[ids].sum() == len(text.encode())


def test_a_bytelevel_alphabet_counts_one_byte_a_letter(tokenizer_json):
    from tokenizers import Tokenizer

    text = "Caf\u00e9 \u4f60"
    ids = Tokenizer.from_file(str(tokenizer_json)).encode(text, add_special_tokens=False).ids
    assert token_bytes(read_tokenizer(tokenizer_json))[[CLS, *ids, SEP]].sum() == len(text.encode())


def test_four_kinds_share_one_text_and_report(text, make_folder, tokenizer_json, tmp_path, capsys):
    from megatron_ettin.evaluate.report import plot_losses

    folders = {
        "encoder": make_folder("mlm"), "decoder": make_folder("clm"), "encoder from decoder": make_folder("mntp"),
        "decoder from encoder": make_folder("clm", seed=1),
    }  # fmt: skip
    results = suite.evaluate(folders, text, tokenizer_json, ["ab cd ef"])
    read = json.loads(write_results(tmp_path, results).read_text())
    assert list(read["models"]) == list(folders)
    assert read["text"]["tokens"] == 23 and read["text"]["bytes"] == 21
    plot_losses(results, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
    print_results(results)
    shown = capsys.readouterr().out
    assert all(name in shown for name in ("encoder from decoder", "unigram entropy", "[MASK]"))


def test_a_model_of_another_tokenizer_is_refused(text, make_folder, tokenizer_json, tmp_path):
    other = json.loads(tokenizer_json.read_text())
    other["added_tokens"][-1]["content"] = "[other]"
    (tmp_path / "other.json").write_text(json.dumps(other))
    with pytest.raises(DataError, match="another tokenizer than the text"):
        suite.evaluate({"model": make_folder("mlm")}, text, tmp_path / "other.json", [])


@pytest.mark.parametrize("objective", ["mlm", "mntp", "clm"])
def test_demonstrations_are_the_plain_forwards_choices(objective, make_folder, make_export):
    from transformers import AutoTokenizer

    judge, export = scorer.load_scorer(make_folder(objective)), make_export(objective)
    tokenizer = AutoTokenizer.from_pretrained(judge.folder)
    filled = fill_mask(judge, tokenizer, "ab [MASK]c", choices=3)
    ids = tokenizer("ab [MASK]c")["input_ids"]
    at = ids.index(MASK) + export.objective.label_offset
    logits = reference_logits(export.model, export.tensors, torch.tensor(ids), export.objective.causal)[at]
    assert [word for word, _ in filled.choices] == [tokenizer.decode([i]) for i in logits.topk(3).indices.tolist()]
    assert go_on(judge, tokenizer, "abc", tokens=6) == go_on(judge, tokenizer, "abc", tokens=6)


def test_a_gap_replaces_one_inner_word():
    gap = gap_in("one two three four")
    assert gap.split()[0] == "one" and gap.split()[-1] == "four" and gap.count("[MASK]") == 1


def test_small_models_are_evaluated_several_texts_at_a_time_and_large_ones_by_all_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    sizes = (2_000_000, 17_000_000, 32_000_000, 1_000_000_000)
    assert [scorer.threads_and_passes(size) for size in sizes] == [(1, 8), (1, 8), (3, 2), (8, 1)]
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(scorer.os, "sched_getaffinity", lambda _: range(2))
    assert scorer.threads_and_passes(10**9) == (2, 1)
    assert scorer.threads_and_passes(10**6) == (1, 2)
