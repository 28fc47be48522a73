"""The order: a permutation, invertible, uniform, the same for ever."""

import numpy as np
import pytest

from megatron_ettin import _native
from megatron_ettin.rows.order import Permutation, StageOrder, Stream, permutation_keys, philox_words
from tests.twins import randomness

CHI_SQUARE_DEVIATIONS = 5.0
"""Standard deviations of a chi-square statistic above its mean that are still chance."""


def keyed(size, seed=21, stage=0, epoch=0):
    return Permutation(size, permutation_keys(seed, Stream.ORDER, stage, epoch))


def chi_square(counts, expected):
    """Deviations of the statistic from its mean, in standard deviations."""
    statistic, freedom = ((counts - expected) ** 2 / expected).sum(), counts.size - 1
    return (statistic - freedom) / np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000, 1024, 1025, 5000, 65_537])
def test_every_row_comes_once_and_the_inverse_finds_it(size):
    positions = np.arange(size)
    values = keyed(size).at(positions)
    assert (np.sort(values) == positions).all()
    assert (keyed(size).position_of(values) == positions).all()


@pytest.mark.parametrize("size", [7, 1025, 10**6, 2**31 + 11, 2**32 + 15, 2**40 + 1, 2**61 - 1])
def test_the_plain_twin_agrees_and_positions_invert_at_any_size(size):
    rng = np.random.default_rng(size % 1000)
    positions = np.unique(np.concatenate((rng.integers(0, size, 300), [0, size - 1])))
    twin = randomness.Permutation(size, permutation_keys(21, Stream.ORDER, 0, 0))
    values = keyed(size).at(positions)
    assert values.tolist() == [twin.at(int(position)) for position in positions]
    native = _native.Permutation(size, permutation_keys(21, Stream.ORDER, 0, 0))
    for instructions in _native.instruction_sets():
        assert (native.at(positions, instructions) == values).all()
        assert (native.position_of(values, instructions) == positions).all()
    assert (keyed(size).position_of(values) == positions).all()
    assert (values < size).all() and (size < 1000 or values.max() > size // 2)


def test_seed_stage_and_epoch_each_give_another_order():
    positions = np.arange(1000)
    orders = [keyed(1000, *key).at(positions).tolist() for key in ((21, 0, 0), (22, 0, 0), (21, 1, 0), (21, 0, 1))]
    assert len({tuple(order) for order in orders}) == 4
    assert (np.mean(np.array(orders[0]) == np.array(orders[1]))) < 0.02


def test_places_are_uniform():
    """Where a row lands, over many keys, and which rows land in a slice of the order."""
    size, keys = 50, 20_000
    places = np.zeros((3, size))
    for seed in range(keys):
        for i, place in enumerate(keyed(size, seed).position_of([0, 1, size - 1])):
            places[i, place] += 1
    for counts in places:
        assert abs(chi_square(counts, keys / size)) < CHI_SQUARE_DEVIATIONS
    size = 100_000_007  # so large that drawing without replacement makes no difference
    for start in (0, 50_000_000):
        values = keyed(size).at(np.arange(start, start + 200_000))
        counts = np.bincount(values * 1000 // size, minlength=1000)
        assert abs(chi_square(counts, 200)) < CHI_SQUARE_DEVIATIONS


def test_neighbours_are_independent():
    """Steps between neighbours, and the pairs of cells that neighbours fall into."""
    for size in (1_000_003, 2**20, 3_000_000):
        values = keyed(size).at(np.arange(400_000))
        steps = np.diff(values) % size
        assert abs(chi_square(np.bincount(steps * 500 // size, minlength=500), 399_999 / 500)) < CHI_SQUARE_DEVIATIONS
        for lag in (1, 2, 7):
            pairs = (values[:-lag] * 30 // size) * 30 + values[lag:] * 30 // size
            counts = np.bincount(pairs, minlength=900)
            assert abs(chi_square(counts, len(pairs) / 900)) < CHI_SQUARE_DEVIATIONS
        low_bits = np.bincount((values[:-1] % 16) * 16 + values[1:] % 16, minlength=256)
        assert abs(chi_square(low_bits, 399_999 / 256)) < CHI_SQUARE_DEVIATIONS


def test_epochs_follow_each_other_with_orders_of_their_own():
    order = StageOrder(100, 21, 2)
    rows = order.at(50, 200)
    assert (np.sort(order.at(0, 100)) == np.arange(100)).all()
    assert (np.sort(order.at(100, 100)) == np.arange(100, 200)).all()
    assert (rows[50:150] - 100 != order.at(0, 100)).any()
    assert (order.position_of(rows) == np.arange(50, 250)).all()


@pytest.mark.parametrize("values", [[-1], [10], [3, 2**40]])
def test_rows_outside_are_refused(values):
    with pytest.raises(IndexError, match=r"is not in \[0, 10\)"):
        keyed(10).at(values)


def test_golden_values_never_change():
    assert philox_words(21, Stream.ORDER, 0, 0, 0) == GOLDEN_WORDS
    for size, values in GOLDEN_ORDERS.items():
        assert keyed(size).at(np.arange(6) * (size // 6)).tolist() == values


GOLDEN_WORDS = (31767624, 1021342684, 1923479135, 768117806)
GOLDEN_ORDERS = {
    10: [0, 6, 4, 2, 1, 7],
    1_000_000: [4858, 488343, 797839, 885500, 243916, 460642],
    2_000_000_000: [393375126, 758904024, 1277695832, 1096144404, 1104661362, 685119395],
    1_099_511_627_776: [926971743153, 178184171806, 890108578301, 611509567988, 396153148863, 719553413106],
}
