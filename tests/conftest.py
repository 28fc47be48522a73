"""Fixtures for all tests: paths and the optional folder of real text and tokenizers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real tokenizers and text beside the checkout; tests that want it skip where it is absent."""
    folder = Path(os.environ.get("ETTIN_SHARED", ROOT.parent / "shared"))
    if not (folder / "tokenizers").is_dir():
        pytest.skip(f"no real tokenizers and text at {folder}; set ETTIN_SHARED")
    return folder
