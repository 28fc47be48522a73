"""Libraries that only some suites need: imported when they are used, missed with one line."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Sequence
from typing import Any

from megatron_ettin.errors import ConfigError, DataError, first_line


def library(module: str, extra: str) -> Any:  # noqa: ANN401 - a module
    """The module, imported. Raises ConfigError with the pip command where its library is not installed."""
    require(module, extra)
    return importlib.import_module(module)


def hub_rows(path: str, config: str, split: str, extra: str) -> Any:  # noqa: ANN401 - datasets has no types
    """A split of a data set of the hub, which is fetched where it is not here. Raises DataError, ConfigError."""
    try:
        return library("datasets", extra).load_dataset(path, config, split=split)
    except (OSError, ValueError) as error:
        raise not_fetched(f"{path} {config}", error) from error


def not_fetched(what: str, error: BaseException) -> DataError:
    """For data of the hub that cannot be had: what to do about it."""
    return DataError(
        f"{what} cannot be fetched ({first_line(error)}); check the network and HF_HUB_OFFLINE, or give files with "
        "--local FOLDER"
    )


def quiet(extra: str, names: Sequence[str]) -> None:
    """Keep what some libraries, datasets and transformers say about themselves out of the output."""
    for name in (*names, "datasets", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)
    library("datasets", extra).disable_progress_bars()
    library("transformers.utils.logging", extra).disable_progress_bar()


def require(module: str, extra: str) -> None:
    """Raise ConfigError unless the module's library is installed; imports nothing."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        raise ConfigError(
            f"{module.split('.')[0]} is not installed, and this suite needs it; "
            f"run: pip install 'megatron-ettin[{extra}]'"
        )
