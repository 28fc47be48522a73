"""Process groups of one process, shared by all model tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from megatron_ettin.config.run import LayoutConfig
from megatron_ettin.parallel.groups import Groups, finish, initialize


@pytest.fixture(scope="session")
def groups() -> Iterator[Groups]:
    """A world of one."""
    yield initialize(LayoutConfig())
    finish()
