"""The mixtures of the three Ettin stages, as they ship."""

import pytest

from megatron_ettin.rows.mixture import read_mixture

TOTALS = {"pretrain": 1704.7, "extension": 249.3, "decay": 76.3}
"""Billions of tokens, as the recipe states them."""
ROUNDING = 0.05 * 13
"""Each of up to 13 sources is stated to a tenth of a billion."""


@pytest.mark.parametrize("stage", TOTALS)
def test_the_ettin_mixtures_ship_as_data(root, stage):
    mixture = read_mixture(root / "examples" / "mixtures" / f"{stage}.json")
    assert {source.measure for source in mixture.sources} == {"tokens"}
    assert abs(sum(source.amount for source in mixture.sources) / 1e9 - TOTALS[stage]) <= ROUNDING
    assert all(source.prefix.name == source.name for source in mixture.sources)
