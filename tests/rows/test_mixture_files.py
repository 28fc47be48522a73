"""The mixtures of the three Ettin stages, as they ship."""

import json

import pytest

from megatron_ettin.config.run import DataConfig
from megatron_ettin.errors import DataError
from megatron_ettin.rows.mixture import mixture_of, read_mixture

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


def test_weights_are_raised_to_the_temperature_of_the_stage(tmp_path):
    path = tmp_path / "languages.json"
    tokens = {"en": 1e12, "sw": 1e9, "fo": 1e6}
    sources = [{"name": name, "prefix": name, "weight": weight} for name, weight in tokens.items()]
    path.write_text(json.dumps({"tokens": 1e9, "sources": sources}))
    for temperature in (1.0, 0.7, 0.3):
        mixture = mixture_of(DataConfig(data=str(path), temperature=temperature))
        wanted = [mixture.tokens_wanted(source) for source in mixture.sources]
        raised = [weight**temperature for weight in tokens.values()]
        assert wanted == pytest.approx([1e9 * part / sum(raised) for part in raised])


def test_a_temperature_without_weights_is_refused(tmp_path):
    path = tmp_path / "m.json"
    path.write_text(json.dumps({"sources": [{"name": "a", "prefix": "a", "tokens": 5}]}))
    for data in (str(path), "corpus"):
        with pytest.raises(DataError, match="data.temperature=0.7 raises weights to a power, but no source has one"):
            mixture_of(DataConfig(data=data, temperature=0.7))
