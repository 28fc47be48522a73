"""A stage: batches by the rules, the same for both members of a pair, for every world size, and never held-out text."""

import itertools
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.run import BatchConfig
from megatron_ettin.config.sharing import Sharing
from megatron_ettin.errors import ConfigError, DataError
from megatron_ettin.rows.loader import Loader
from megatron_ettin.rows.run_data import open_data
from tests.rows.conftest import run_config, write_mixture
from tests.twins import rows as twin
from tests.twins.corpus_writer import SPECIAL_IDS, random_documents, write_corpus
from tests.twins.packing import Piece

OBJECTIVE_NAMES = ("mlm", "clm", "mntp", "mixed")


def all_rows(batches):
    """The pool rows of some batches, in order."""
    return np.concatenate([batch.rows_B for batch in batches])


@pytest.fixture(scope="module")
def stage(corpus):
    return open_data(run_config(corpus))


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """Three sources: two and a half passes, less than one, and by passes."""
    folder, rng = tmp_path_factory.mktemp("mixture"), np.random.default_rng(5)
    for name, count in (("web", 300), ("code", 200), ("books", 40)):
        write_corpus(folder / name, random_documents(rng, count))
    sizes = {name: open_data(run_config(folder / name)).packs[0].tokens for name in ("web", "code")}
    return write_mixture(
        folder / "mixture.json",
        [
            {"name": "web", "prefix": "web", "tokens": 2.5 * sizes["web"]},
            {"name": "code", "prefix": "code", "tokens": sizes["code"] // 3},
            {"name": "books", "prefix": "books", "passes": 2},
        ],
    )


def twin_rows(stage, numbers, documents):
    resolved = stage.pool.resolve(numbers)
    packs = [stage.packs[source] for source in resolved.sources]
    pieces = [
        [Piece(*piece) for piece in pack.native.row(int(row))] for pack, row in zip(packs, resolved.rows, strict=True)
    ]
    return list(zip(resolved.rows.tolist(), resolved.passes.tolist(), pieces, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVE_NAMES)
@pytest.mark.parametrize("number", ["pretrain", "decay"])
def test_batches_are_those_of_the_plain_definition(corpus, documents, objective, number):
    stage = open_data(run_config(corpus, stage=number, piece_length=40))
    numbers = np.concatenate((stage.step_rows(0), stage.step_rows(3), stage.step_rows(0) + 2 * stage.pool_rows))
    batch = stage.batch(numbers, objective)
    stage_number = {"pretrain": 0, "decay": 2}[number]
    expected = twin.assemble(
        twin_rows(stage, numbers, documents), documents, 64, OBJECTIVES[objective], stage.config.data, stage_number
    )
    assert batch.input_ids_BT.reshape(-1).tolist() == expected.input_ids
    assert batch.positions_BT.reshape(-1).tolist() == expected.positions
    assert batch.cu_seqlens_S.tolist() == expected.segments
    assert list(zip(batch.label_positions_L.tolist(), batch.label_ids_L.tolist(), strict=True)) == expected.labels
    assert batch.tokens == expected.tokens == stage.packs[0].native.row_tokens(stage.pool.resolve(numbers).rows).sum()
    assert (batch.rows_B == numbers).all() and (batch.sources_B == 0).all()


FALLING = {"mask_share": 0.4, "mask_share_end": 0.1}


@pytest.mark.parametrize("objective", ["mlm", "mntp", "mixed"])
def test_the_mask_share_goes_evenly_from_row_to_row_over_the_stage(corpus, documents, objective):
    config = run_config(corpus, **FALLING)
    stage = open_data(replace(config, schedule=replace(config.schedule, tokens=64 * 1200)))
    assert stage.pool_rows < 1200  # the second epoch is masked by what has been consumed before it
    positions = [0, 1, 7, 500, 1199, 1200, 5000]
    numbers = np.concatenate([stage.order.at(position, 1) for position in positions])
    shares = [max(0.1, 0.4 - 0.3 * position / 1200) for position in positions]
    batch = stage.batch(numbers, objective)
    expected = twin.assemble(
        twin_rows(stage, numbers, documents), documents, 64, OBJECTIVES[objective], stage.config.data, 0, shares=shares
    )
    assert batch.input_ids_BT.reshape(-1).tolist() == expected.input_ids
    assert list(zip(batch.label_positions_L.tolist(), batch.label_ids_L.tolist(), strict=True)) == expected.labels


def test_a_mask_share_that_falls_changes_neither_rows_nor_held_out_text_nor_next_tokens(corpus):
    constant, falling = open_data(run_config(corpus, mask_share=0.4)), open_data(run_config(corpus, **FALLING))
    numbers = constant.step_rows(2)
    assert constant.fingerprint == falling.fingerprint and (numbers == falling.step_rows(2)).all()
    assert constant.batch(numbers, "clm").digest() == falling.batch(numbers, "clm").digest()
    for ours, theirs in zip(constant.held_out("mlm", 8), falling.held_out("mlm", 8), strict=True):
        assert ours.digest() == theirs.digest()
    first, late = falling.batch(falling.order.at(0, 1), "mlm"), falling.batch(falling.order.at(20_000, 64), "mlm")
    assert first.digest() == constant.batch(falling.order.at(0, 1), "mlm").digest()
    assert 0.08 < late.labels / late.tokens < 0.12


def test_a_falling_mask_share_is_the_same_for_every_layout_and_start(corpus):
    stage = open_data(run_config(corpus, batch=WARMUP, **FALLING))
    expected = {step: stage.batch(stage.step_rows(step), "mlm").digest() for step in range(30, 34)}
    for data_size, size, start in ((1, 64, 30), (2, 16, 31), (4, 8, 33)):
        found = dict.fromkeys(range(start, 34), 0)
        for rank in range(data_size):
            with Loader(stage, "mlm", rank, shared(size, ranks=data_size), start_step=start) as loader:
                for step, batches in itertools.islice(loader, 34 - start):
                    found[step] += sum(batch.digest() for batch in batches)
        assert {step: digest % 2**64 for step, digest in found.items()} == {
            step: digest for step, digest in expected.items() if step >= start
        }


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_rows_of_both_kinds_are_drawn_one_by_one_in_the_order_of_all_objectives(corpus, share):
    mixed = open_data(run_config(corpus, objective="mixed", causal_share=share))
    plain = open_data(run_config(corpus))
    numbers = np.concatenate([mixed.step_rows(step) for step in range(200)])
    assert mixed.fingerprint == plain.fingerprint and (mixed.step_rows(7) == plain.step_rows(7)).all()
    batch = mixed.batch(numbers, "mixed")
    assert batch.causal_B.tolist() == [name == "clm" for name in mixed.row_objectives(numbers)]
    assert abs(batch.causal_B.mean() - share) < 4 * np.sqrt(share * (1 - share) / len(numbers))
    again = mixed.batch(numbers[::-1], "mixed")  # whatever stands beside a row
    assert (again.causal_B[::-1] == batch.causal_B).all()
    other = mixed.batch(numbers + mixed.pool_rows, "mixed")  # another pass
    assert (other.causal_B != batch.causal_B).any()
    for objective, causal in (("mntp", False), ("clm", True)):
        chosen = numbers[batch.causal_B == causal]
        assert mixed.batch(chosen, "mixed").digest() == plain.batch(chosen, objective).digest()


def test_held_out_text_of_a_mixed_run_is_that_of_either_objective(mixture):
    mixed, plain = open_data(run_config(mixture, objective="mixed")), open_data(run_config(mixture))
    for objective, causal in (("mntp", False), ("clm", True)):
        for ours, theirs in zip(mixed.held_out(objective, 10, 4), plain.held_out(objective, 10, 4), strict=True):
            assert ours.digest() == theirs.digest() and (ours.causal_B == causal).all()
            assert theirs.causal_B is None


def test_both_members_of_a_pair_see_the_same_text(stage):
    rows = np.arange(stage.pool_rows)
    encoder, decoder = stage.batch(rows, "mlm"), stage.batch(rows, "clm")
    assert encoder.tokens == decoder.tokens
    original = encoder.input_ids_BT.reshape(-1).copy()
    original[encoder.label_positions_L] = encoder.label_ids_L
    other = decoder.input_ids_BT.reshape(-1)
    differs = original != other
    assert (original[differs] == SPECIAL_IDS["[SEP]"]).all() and (other[differs] == SPECIAL_IDS["[PAD]"]).all()
    assert differs.any()  # pieces that were cut: the only difference is their end position


def test_mntp_predicts_the_same_tokens_one_position_earlier(stage):
    rows = stage.step_rows(1)
    mlm, mntp = stage.batch(rows, "mlm"), stage.batch(rows, "mntp")
    assert (mlm.input_ids_BT == mntp.input_ids_BT).all()
    assert (mlm.label_ids_L == mntp.label_ids_L).all()
    assert (mlm.label_positions_L - 1 == mntp.label_positions_L).all()


def test_next_token_labels_stay_in_their_segment(stage):
    batch = stage.batch(np.arange(stage.pool_rows), "clm")
    flat = batch.input_ids_BT.reshape(-1)
    assert (flat[batch.label_positions_L + 1] == batch.label_ids_L).all()
    assert not np.isin(batch.label_ids_L, (SPECIAL_IDS["[PAD]"], SPECIAL_IDS["[CLS]"])).any()
    segment = np.searchsorted(batch.cu_seqlens_S, batch.label_positions_L, side="right")
    assert (segment == np.searchsorted(batch.cu_seqlens_S, batch.label_positions_L + 1, side="right")).all()


def test_segments_tile_the_rows_and_positions_restart(stage):
    for objective in OBJECTIVE_NAMES:
        batch = stage.batch(np.arange(stage.pool_rows), objective)
        bounds = batch.cu_seqlens_S
        assert bounds[0] == 0 and bounds[-1] == batch.input_ids_BT.size and (np.diff(bounds) > 0).all()
        assert np.isin(np.arange(batch.rows) * 64, bounds).all()
        expected = np.arange(bounds[-1]) - np.repeat(bounds[:-1], np.diff(bounds))
        assert (batch.positions_BT.reshape(-1) == expected).all()


def test_special_ids_in_the_text_are_neither_masked_nor_lost(tmp_path):
    text = [SPECIAL_IDS["[MASK]"], 5, SPECIAL_IDS["[SEP]"], SPECIAL_IDS["<|endoftext|>"]] * 10
    stage = open_data(run_config(write_corpus(tmp_path / "odd", [text] * 40), mask_share=1.0, held_out_share=0.0))
    batch = stage.batch(np.arange(stage.pool_rows), "mlm")
    assert set(batch.label_ids_L) == {5}
    assert batch.tokens == 40 * 42


def test_held_out_documents_are_never_trained_on(mixture):
    stage = open_data(run_config(mixture))
    for train, held_out in zip(stage.packs, stage.held_out_packs, strict=True):
        sides = [{d for n in range(pack.rows) for d, _, _ in pack.native.row(n)} for pack in (train, held_out)]
        assert sides[1] and not sides[0] & sides[1]


def test_held_out_batches_are_the_same_for_every_stage_and_seed(mixture):
    first = open_data(run_config(mixture)).held_out("mlm", 10, 4)
    other = open_data(run_config(mixture, stage="cross", seed=99)).held_out("mlm", 10, 4)
    pair = open_data(run_config(mixture)).held_out("clm", 10, 4)
    assert [batch.rows for batch in first] == [4, 4, 4]
    assert (all_rows(first)[:10] >= 0).all() and (all_rows(first)[10:] == -1).all()
    for a, b, c in zip(first, other, pair, strict=True):
        assert (a.input_ids_BT == b.input_ids_BT).all() and (a.label_positions_L == b.label_positions_L).all()
        assert (a.rows_B == c.rows_B).all() and (a.sources_B == c.sources_B).all() and a.tokens == c.tokens
    assert len(set(np.concatenate([batch.sources_B for batch in first]).tolist())) > 1


def test_a_mixture_reads_each_source_as_often_as_asked(mixture):
    stage = open_data(run_config(mixture))
    resolved = stage.pool.resolve(np.arange(stage.pool_rows))
    for index, passes in enumerate((2.5, 1 / 3, 2)):
        rows = stage.packs[index].rows
        counts = np.bincount(resolved.rows[resolved.sources == index], minlength=rows)
        assert abs(counts.sum() - passes * rows) <= 1
        assert counts.max() - counts.min() <= 1
        assert counts.max() == int(np.ceil(passes))
    assert stage.sources == ["web", "code", "books"]
    for index, row in ((0, 3), (1, 5), (2, 1)):
        numbers = stage.pool.numbers_of(index, row)
        found = np.flatnonzero((resolved.sources == index) & (resolved.rows == row))
        assert sorted(numbers) == found.tolist()


def test_the_pool_does_not_depend_on_the_length_of_the_run(mixture):
    config = run_config(mixture)
    longer = replace(config, schedule=replace(config.schedule, tokens=10**9), batch=BatchConfig(rows=32))
    numbers = np.arange(open_data(config).pool_rows)
    a, b = open_data(config).pool.resolve(numbers), open_data(longer).pool.resolve(numbers)
    assert (a.rows == b.rows).all() and (a.passes == b.passes).all() and (a.sources == b.sources).all()


def test_a_repeated_row_is_masked_differently_in_every_pass(mixture):
    stage = open_data(run_config(mixture))
    numbers = stage.pool.numbers_of(2, 0) + [number + stage.pool_rows for number in stage.pool.numbers_of(2, 0)]
    assert stage.pool.resolve(numbers).passes.tolist() == [0, 1, 2, 3]
    batch = stage.batch(numbers, "mlm")
    assert len({tuple(row) for row in batch.input_ids_BT.tolist()}) == 4


WARMUP = BatchConfig(rows=192, warmup_tokens=64 * 3000, warmup_increment=64)


def shared(size: int = 1, ranks: int = 1):
    return partial(Sharing, size=size, ranks=ranks)


@pytest.mark.parametrize("data_size", [1, 3, 5, 64, 100])
def test_the_rows_of_a_step_do_not_depend_on_the_data_size(corpus, data_size):
    """The ranks' batches end to end are the step; ranks beyond its micro-batches get one short batch of padding."""
    stage = open_data(run_config(corpus, batch=WARMUP))
    sharing = shared(size=2, ranks=data_size)
    for step in (0, 50, 120):
        whole = stage.step_rows(step)
        found = []
        for rank in range(data_size):
            with Loader(stage, "mlm", rank, sharing, start_step=step, threads=1) as loader:
                _, batches = next(loader)
            read = [batch for batch in batches if not batch.empty]
            assert len(read) == len(batches) or (read == [] and len(batches) == 1)
            if not read:
                assert batches[0].labels == 0 and batches[0].input_ids_BT.size < stage.config.data.row_length
            assert [batch.first_row for batch in read] == [sum(map(len, found)) + 2 * i for i in range(len(read))]
            found += [np.concatenate([batch.rows_B for batch in read])] if read else []
        assert (np.concatenate(found) == whole).all()


def test_interleaved_stages_get_empty_micro_batches_of_the_shape_of_the_others(corpus):
    stage = open_data(run_config(corpus, batch=WARMUP))
    for rank, count in enumerate((5, 5, 6)):
        with Loader(stage, "clm", rank, lambda rows: Sharing(rows, ranks=3, size=4, round=4), threads=1) as loader:
            _, batches = next(loader)
        assert [batch.empty for batch in batches] == [False] * count + [True] * (8 - count)
        assert {batch.input_ids_BT.shape for batch in batches} == {(4, stage.config.data.row_length)}
        assert sum(batch.labels + batch.tokens for batch in batches if batch.empty) == 0


def test_micro_batches_may_grow_with_the_batch(corpus):
    stage = open_data(run_config(corpus, batch=WARMUP))
    with Loader(stage, "mlm", sharing=lambda rows: Sharing(rows, size=rows // 4)) as loader:
        for step, batches in itertools.islice(loader, 60):
            assert (all_rows(batches) == stage.step_rows(step)).all()
            assert [batch.rows for batch in batches] == [len(stage.step_rows(step)) // 4] * 4


def test_a_carried_order_is_that_of_the_stage_before_without_a_gap(corpus):
    """Rows and masks of one long stage, read by two."""
    whole = open_data(run_config(corpus, "pretrain"))
    after = open_data(run_config(corpus, "decay", stage_number=0, first_row=5 * 8))
    for step in range(30):
        assert (after.step_rows(step) == whole.step_rows(5 + step)).all()
        ours, theirs = (data.batch(data.step_rows(at), "mlm") for data, at in ((after, step), (whole, 5 + step)))
        assert ours.digest() == theirs.digest()
    assert (after.order.position_of(whole.step_rows(4)) == np.arange(-8, 0)).all()


def test_a_stage_with_a_number_of_its_own_reads_other_rows_under_other_masks(corpus):
    first, again = (open_data(run_config(corpus, "pretrain", stage_number=number)) for number in (-1, 16))
    rows = first.step_rows(0)
    assert (rows != again.step_rows(0)).any() and first.fingerprint != again.fingerprint
    assert first.batch(rows, "mlm").digest() != again.batch(rows, "mlm").digest()
    assert first.batch(rows, "clm").digest() == again.batch(rows, "clm").digest()


@pytest.mark.parametrize("batch", [BatchConfig(rows=192), WARMUP])
def test_steps_and_rows_answer_each_other(corpus, batch):
    stage = open_data(run_config(corpus, batch=batch))
    consumed = 0
    sizes = set()
    for step in range(60):
        first, count = stage.batch_schedule.rows_at(step)
        assert first == consumed
        assert {stage.batch_schedule.step_of_row(row) for row in (first, first + count - 1)} == {step}
        assert (stage.order.position_of(stage.step_rows(step)) == np.arange(first, first + count)).all()
        consumed += count
        sizes.add(count)
    assert sizes == ({192} if batch is not WARMUP else {64, 128, 192})


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 64), st.integers(0, 20), st.integers(1, 3))
def test_batches_do_not_depend_on_how_rows_are_grouped(stage, count, step, part):
    rows = stage.step_rows(step)
    rows = np.tile(rows, count // len(rows) + 1)[:count]
    whole = stage.batch(rows, "mlm")
    parts = [stage.batch(rows[i : i + part], "mlm") for i in range(0, count, part)]
    assert (np.concatenate([p.input_ids_BT for p in parts]) == whole.input_ids_BT).all()
    assert sum(p.tokens for p in parts) == whole.tokens and sum(p.labels for p in parts) == whole.labels


@pytest.mark.parametrize("start", [0, 3])
def test_the_loader_gives_each_rank_its_part_of_every_step(corpus, start):
    stage = open_data(run_config(corpus, batch=WARMUP))
    steps = {}
    for rank in range(4):
        with Loader(stage, "mlm", rank, shared(8, ranks=4), start_step=start, threads=3, ahead=5) as loader:
            for step, batches in loader:
                steps.setdefault(step, []).extend(batches)
                if step == start + 4:
                    break
            assert loader.step == start + 5
    assert list(steps) == list(range(start, start + 5))
    for step, batches in steps.items():
        whole = stage.batch(stage.step_rows(step), "mlm")
        assert (all_rows(batches) == stage.step_rows(step)).all()
        assert (np.concatenate([batch.input_ids_BT for batch in batches]) == whole.input_ids_BT).all()


def test_the_loader_refuses_what_cannot_be_shared(corpus):
    stage = open_data(run_config(corpus, batch=BatchConfig(rows=192)))
    with pytest.raises(ConfigError, match="192 rows cannot be cut in micro-batches of 5"):
        Loader(stage, "mlm", sharing=shared(5))
    with pytest.raises(ConfigError, match=r"data rank 2 is not in \[0, 2\)"):
        Loader(stage, "mlm", 2, shared(ranks=2))


def test_an_error_while_reading_is_raised_and_names_file_and_offset(tmp_path, documents):
    prefix = write_corpus(tmp_path / "text", documents)
    stage = open_data(run_config(prefix, batch=BatchConfig(rows=32)))
    with Loader(stage, "clm") as loader:
        next(loader)
        with (tmp_path / "text.bin").open("r+b") as file:
            file.truncate(1000)
        with pytest.raises(DataError, match=r"text\.bin: the file ends before offset"):
            for _ in range(40):
                next(loader)


def test_ids_beyond_the_tokenizer_are_named(tmp_path):
    prefix = write_corpus(tmp_path / "text", [[1, 2, 300, 4]] * 5)
    stage = open_data(run_config(prefix, held_out_share=0.0))
    with pytest.raises(DataError, match=r"source 'text': document \d holds token id 300, but the tokenizer has 256"):
        stage.batch([0], "mlm")


def test_fingerprints_tell_what_determines_the_rows(corpus, mixture, tmp_path):
    base = open_data(run_config(corpus))
    same = open_data(run_config(corpus, objective="clm", micro_batch_rows=4))
    others = [
        open_data(run_config(corpus, **change)) for change in ({"seed": 3}, {"piece_length": 60}, {"stage": "decay"})
    ]
    others += [open_data(run_config(mixture)), open_data(run_config(corpus, batch=BatchConfig(rows=16)))]
    assert base.fingerprint == same.fingerprint
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 6


def bad_mixtures():
    good = {"name": "a", "prefix": "full", "passes": 1}
    empty = {"name": "hole", "prefix": "empty", "tokens": 100}
    nan, infinite = float("nan"), float("inf")
    yield "no sources", {"sources": []}, "with some sources"
    yield "unknown field", {"sources": [good], "seed": 1}, "seed is not a field"
    yield "unknown source field", {"sources": [good | {"epochs": 2}]}, r"sources\[0\].epochs is not a field"
    yield "two measures", {"sources": [good | {"tokens": 5}]}, "exactly one of tokens, weight and passes"
    yield "no measure", {"sources": [{"name": "a", "prefix": "full"}]}, "exactly one of"
    yield "same name", {"sources": [good, good]}, "two sources are called 'a'"
    weighted = {"name": "b", "prefix": "full", "weight": 1}
    for value in (-1, 0, nan, infinite):
        yield f"weight {value}", {"sources": [weighted | {"weight": value}], "tokens": 5}, "positive finite"
    for value in ("1", True):
        yield f"weight {value!r}", {"sources": [weighted | {"weight": value}], "tokens": 5}, "must be of type float"
    yield "weight None", {"sources": [weighted | {"weight": None}], "tokens": 5}, "source 'b' must have exactly one of"
    yield "some weights", {"sources": [good, weighted], "tokens": 5}, "either all sources"
    yield "weights without total", {"sources": [weighted]}, "need the tokens of the whole"
    yield "total without weights", {"sources": [good], "tokens": 5}, "goes with weights"
    yield "absent corpus", {"sources": [{"name": "b", "prefix": "absent", "passes": 1}]}, "no such file"
    yield "empty source", {"sources": [good, empty]}, "source 'hole'.*only empty documents"
    yield "all held out", {"sources": [{"name": "b", "prefix": "one", "passes": 1}]}, "source 'b'.*empty or held out"
    other = {"name": "c", "prefix": "other", "passes": 1}
    yield "other tokenizer", {"sources": [good, other]}, "'a' and 'c'.*different tokenizers"
    yield "eod differs", {"sources": [good, {"name": "e", "prefix": "eod", "passes": 1}]}, "'a' and 'e'.*append-eod"
    yield "no specials", {"sources": [{"name": "n", "prefix": "bare", "passes": 1}]}, r"has no \[CLS\] \[SEP\]"


@pytest.fixture(scope="module")
def odd_corpora(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    write_corpus(folder / "full", [[1, 2, 3], [4] * 70])
    write_corpus(folder / "empty", [[], [], []])
    write_corpus(folder / "one", [[9, 9, 9]])
    write_corpus(folder / "other", [[1, 2, 3]], tokenizer="another")
    write_corpus(folder / "eod", [[1, 2, 3]], eod=250)
    write_corpus(folder / "bare", [[1, 2, 3]], special_ids={})
    return folder


@pytest.mark.parametrize("name,content,message", [pytest.param(*case, id=case[0]) for case in bad_mixtures()])
def test_a_bad_mixture_is_refused_with_its_source_and_rule(odd_corpora, name, content, message):
    path = odd_corpora / "mixture.json"
    path.write_text(json.dumps(content))
    share = 0.999999 if name == "all held out" else 0.0
    with pytest.raises(DataError, match=message):
        open_data(run_config(path, held_out_share=share))


@pytest.mark.parametrize("change,message", [
    ({"row_length": 2, "piece_length": 2}, "at least 3"),
    ({"piece_length": 65}, "at most"),
    ({"held_out_share": 1.0}, "below 1"),
])  # fmt: skip
def test_impossible_rows_are_refused(corpus, change, message):
    with pytest.raises(ConfigError, match=message):
        open_data(run_config(corpus, **change))


def test_missing_data_and_held_out_text_have_messages(corpus, odd_corpora):
    with pytest.raises(ConfigError, match="data.data is empty"):
        open_data(run_config(""))
    with pytest.raises(DataError, match="not a JSON file"):
        path = odd_corpora / "broken.json"
        path.write_text("{")
        open_data(run_config(path))
    with pytest.raises(ConfigError, match="held_out_share=0 holds nothing out"):
        open_data(run_config(corpus, held_out_share=0.0)).held_out("mlm", 3)
    with pytest.raises(DataError, match="none of the 2 documents is held out"):
        open_data(run_config(odd_corpora / "full", held_out_share=1e-6)).held_out("mlm", 3)
    config = run_config(corpus)
    with pytest.raises(ConfigError, match="model.vocabulary=100 is smaller"):
        open_data(replace(config, model=replace(config.model, vocabulary=100)))
