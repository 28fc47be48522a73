"""A toy corpus for every test of training."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.train.runs import write_toy


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prefix of a corpus with a rule to learn."""
    return write_toy(tmp_path_factory.mktemp("corpus"))
