"""A size of one's own from a TOML file."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_ettin.config.named_run import load_toml, run_of
from megatron_ettin.config.recipes import SIZE_RECIPES, recipe
from megatron_ettin.errors import ConfigError

SHAPE = "[model]\nlayers = 13\nhidden = 640\nintermediate = 960\nheads = 10\n"


def test_a_shape_follows_the_nearest_published_recipe(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(SHAPE)
    run = run_of(str(path), "clm", "extension")
    assert (run.model.size, run.model.layers, run.model.hidden, run.model.vocabulary) == ("mine", 13, 640, 0)
    nearest = recipe("68m", "clm", "extension")
    assert (run.schedule, run.batch, run.data) == (nearest.schedule, nearest.batch, nearest.data)


def test_a_file_names_whose_recipe_it_follows_and_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "other"\nlike = "1b"\n' + SHAPE + "vocabulary = 3000\n[recipe]\npeak_rate = 1e-3\n")
    model, figures = load_toml(path)
    assert model.size == "other" and model.vocabulary == 3000 and figures.peak_rate == 1e-3
    assert figures.weight_decay == SIZE_RECIPES["1b"].weight_decay
    assert run_of(str(path), "mlm", "decay").schedule.peak_rate == 5e-4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[model\n", "not a readable TOML file"),
        (SHAPE + "[model2]\n", "model2 is not a part of a size file; did you mean 'model'?"),
        (SHAPE.replace("hidden", "hiden"), "model.hiden is not a field; did you mean 'hidden'?"),
        (SHAPE.replace("640", '"640"'), "model.hidden='640' must be of type int"),
        ("[model]\nlayers = 3\n", "model: missing"),
        ('name = "17m"\n' + SHAPE, "taken by a built-in size"),
        ('like = "70m"\n' + SHAPE, "like='70m' is not a size; did you mean '17m'?"),
        (SHAPE + "[recipe]\npeak = 1\n", "recipe.peak is not a field; did you mean 'peak_rate'?"),
        (SHAPE + "size = 'x'\n", "without size"),
        ("model = 3\n", "[model] must be a table"),
        (SHAPE.replace("[model]", "[model]\nlayers = 0").replace("layers = 13\n", ""), None),
    ],
)
def test_a_wrong_file_is_named_with_its_field(tmp_path: Path, text: str, message: str | None) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    if message is None:
        from megatron_ettin.config.rules import check

        with pytest.raises(ConfigError, match="model.layers=0 must be positive"):
            check(run_of(str(path), "mlm", "pretrain"))
        return
    with pytest.raises(ConfigError) as caught:
        run_of(str(path), "mlm", "pretrain")
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
