"""A model size of one's own, from a TOML file."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path

from megatron_ettin.config.codec import from_dict, to_dict
from megatron_ettin.config.recipes import SIZE_RECIPES, SizeRecipe, recipe, recipe_of
from megatron_ettin.config.run import ModelConfig, RunConfig
from megatron_ettin.config.shapes import PUBLISHED_SIZES, SHAPES
from megatron_ettin.errors import ConfigError, suggest

SECTIONS = ("name", "like", "model", "recipe")


def load_toml(path: str | Path) -> tuple[ModelConfig, SizeRecipe]:
    """Shape and figures of a file such as::

        name = "my_size"            # default: the file's name
        like = "68m"                # whose figures to follow; default: the published size nearest in parameters
        [model]
        layers = 13
        hidden = 640
        intermediate = 960
        heads = 10
        vocabulary = 0              # 0: the length of the tokenizer of the data
        [recipe]                    # optional: any figure of SizeRecipe
        peak_rate = 1e-3

    Raises ConfigError naming the file and the field.
    """
    path = Path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such size file; sizes without a file: {', '.join(SHAPES)}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from error
    for key in content:
        if key not in SECTIONS:
            raise ConfigError(f"{path}: {key} is not a part of a size file{suggest(key, list(SECTIONS))}")
    try:
        return decode_shape(path.stem, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def decode_shape(stem: str, content: dict[str, object]) -> tuple[ModelConfig, SizeRecipe]:
    """Shape and figures from the parsed file."""
    table = content.get("model", {})
    if not isinstance(table, dict) or "size" in table:
        raise ConfigError("[model] must be a table of fields without size; the name stands above it")
    model = from_dict(ModelConfig, {"vocabulary": 0} | table | {"size": content.get("name", stem)}, "model")
    if model.size in SHAPES:
        raise ConfigError(f"name={model.size!r} is taken by a built-in size; choose another")
    like = content.get("like", nearest_size(model))
    if like not in SIZE_RECIPES:
        raise ConfigError(f"like={like!r} is not a size{suggest(str(like), list(SIZE_RECIPES))}")
    figures = content.get("recipe", {})
    if not isinstance(figures, dict):
        raise ConfigError("[recipe] must be a table of fields")
    return model, from_dict(SizeRecipe, to_dict(SIZE_RECIPES[str(like)]) | figures, "recipe")


def nearest_size(model: ModelConfig) -> str:
    """The published size whose layers have most nearly as many parameters."""
    return min(PUBLISHED_SIZES, key=lambda size: abs(math.log(body(SHAPES[size]) / max(body(model), 1.0))))


def body(model: ModelConfig) -> float:
    """Size of the layers' matrices, for comparison only."""
    return model.layers * (4.0 * model.hidden**2 + 3.0 * model.hidden * model.intermediate)


def run_of(size: str, objective: str, stage: str, variant: str = "paper") -> RunConfig:
    """The run of a built-in size or of a ``.toml`` file."""
    if size.endswith(".toml"):
        return recipe_of(*load_toml(size), objective, stage, variant)
    return recipe(size, objective, stage, variant)
