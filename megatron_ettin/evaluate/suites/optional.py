"""Libraries that only some suites need: imported when they are used, missed with one line."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from megatron_ettin.errors import ConfigError


def library(module: str, extra: str) -> Any:  # noqa: ANN401 - a module
    """The module, imported. Raises ConfigError with the pip command where its library is not installed."""
    require(module, extra)
    return importlib.import_module(module)


def require(module: str, extra: str) -> None:
    """Raise ConfigError unless the module's library is installed; imports nothing."""
    if importlib.util.find_spec(module.split(".")[0]) is None:
        raise ConfigError(
            f"{module.split('.')[0]} is not installed, and this suite needs it; "
            f"run: pip install 'megatron-ettin[{extra}]'"
        )
