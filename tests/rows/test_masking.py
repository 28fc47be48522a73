"""Masks: the published generator, the same on every instruction set, with the right shares."""

import numpy as np
import pytest

from megatron_ettin import _native
from megatron_ettin.config.run import DataConfig
from megatron_ettin.rows.assembly import mask_rule
from tests.twins.corpus_writer import SPECIAL_IDS
from tests.twins.randomness import philox, row_draw

DEVIATIONS = 5.0
"""Standard deviations of a count that are still chance."""
SETS = _native.instruction_sets()
FULL = 0xFFFFFFFF
KNOWN_ANSWERS = [  # kat_vectors of Random123, philox4x32 10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FULL, FULL, FULL, FULL), (FULL, FULL), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def rule(vocabulary=50_368, specials=None, **shares):
    return mask_rule(DataConfig(**shares), vocabulary, specials or SPECIAL_IDS, None)


def masked(rows, instructions=SETS[-1], first_row=0, pass_number=0, key=(1, 2), **shares):
    ids, positions, labels = _native.mask_rows(rows, rule(**shares), key, (3, 4), first_row, pass_number, instructions)
    return ids.reshape(rows.shape), positions, labels


@pytest.mark.parametrize("counter,key,expected", KNOWN_ANSWERS)
def test_philox_gives_the_published_values(counter, key, expected):
    assert tuple(_native.philox(counter, key)) == philox(counter, key) == expected


@pytest.mark.parametrize("instructions", SETS)
def test_draws_are_philox_words_on_every_instruction_set(instructions):
    cases = (1, 0, 0), (17, 5, 1), (64, 2**31 + 3, 7), (33, 2**32 + 9, 0), (500, 2**40, 2**32 - 1)
    for count, row, pass_number in cases:
        draws = _native.row_draws((7, 8), row, pass_number, count, instructions)
        assert draws.tolist() == [row_draw((7, 8), row, pass_number, token) for token in range(count)]


def test_masks_are_equal_on_every_instruction_set():
    rng = np.random.default_rng(0)
    for length in (1, 15, 16, 17, 64, 1000):
        rows = rng.integers(240, 262, (9, length)).astype(np.int32)
        results = [masked(rows, instructions, first_row=2**33, pass_number=3, mask_share=0.5) for instructions in SETS]
        for other in results[1:]:
            assert all((a == b).all() for a, b in zip(results[0], other, strict=True))


def test_labels_are_the_ids_before_the_change():
    rows = np.random.default_rng(1).integers(300, 50_000, (50, 512)).astype(np.int32)
    ids, positions, labels = masked(rows)
    assert (np.diff(positions) > 0).all()
    assert (rows.reshape(-1)[positions] == labels).all()
    untouched = np.ones(rows.size, bool)
    untouched[positions] = False
    assert (ids.reshape(-1)[untouched] == rows.reshape(-1)[untouched]).all()


@pytest.mark.parametrize("share", [0.05, 0.15, 0.30])
def test_shares_are_those_asked_for(share):
    rows = np.full((2000, 1024), 300, np.int32)
    ids, positions, _ = masked(rows, mask_share=share)
    chosen = ids.reshape(-1)[positions]
    to_mask, to_random = chosen == SPECIAL_IDS["[MASK]"], (chosen != SPECIAL_IDS["[MASK]"]) & (chosen != 300)
    for found, total, wanted in (
        (len(positions), rows.size, share),
        (to_mask.sum(), len(positions), 0.8),
        (to_random.sum(), len(positions), 0.1),
    ):
        # One in 50,368 random ids is [MASK] or the token itself: below a tenth of a standard deviation here.
        assert abs(found - total * wanted) < DEVIATIONS * np.sqrt(total * wanted * (1 - wanted))


def test_random_ids_are_uniform_over_the_vocabulary():
    rows = np.full((3000, 1024), 5, np.int32)
    specials = {"[MASK]": 3}
    ids, positions, _ = _native.mask_rows(
        rows,
        rule(vocabulary=200, specials=specials, mask_share=0.5, mask_token_share=0.0, random_token_share=1.0),
        (1, 2), (3, 4), 0, 0,
    )  # fmt: skip
    counts = np.bincount(ids[positions], minlength=200)
    expected = len(positions) / 200
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert len(counts) == 200 and abs(statistic - 199) < DEVIATIONS * np.sqrt(2 * 199)


def test_special_tokens_are_never_chosen():
    rng = np.random.default_rng(2)
    rows = rng.integers(245, 260, (500, 200)).astype(np.int32)
    protected = np.isin(rows, list(SPECIAL_IDS.values()))
    for instructions in SETS:
        ids, positions, _ = masked(rows, instructions, mask_share=0.9)
        assert (ids[protected] == rows[protected]).all()
        assert not protected.reshape(-1)[positions].any()
        assert len(positions) / (~protected).sum() > 0.89


def test_choices_of_rows_passes_and_keys_are_independent():
    rows = np.full((400, 1000), 300, np.int32)

    def choices(**arguments):
        flags = np.zeros(rows.size)
        flags[masked(rows, **arguments)[1]] = 1
        return flags

    first = choices()
    tolerance = DEVIATIONS / np.sqrt(rows.size)
    others = choices(first_row=400), choices(pass_number=1), choices(key=(1, 3)), np.roll(first, 1), np.roll(first, 16)
    for other in others:
        assert abs(np.corrcoef(first, other)[0, 1]) < tolerance
    assert (choices(first_row=1)[: 399 * 1000] == first[1000:]).all()


@pytest.mark.parametrize("share,expected", [(0.0, 0.0), (1.0, 1.0)])
def test_the_extreme_shares_choose_nothing_and_everything(share, expected):
    rows = np.full((20, 512), 300, np.int32)
    _, positions, _ = masked(rows, mask_share=share)
    assert len(positions) / rows.size == expected
