"""Fixtures for all tests: paths and the optional folder of real text and tokenizers."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """No search for garbage while a million objects of torch and others are imported with the tests."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Nor among them while the tests run."""
    gc.freeze()
    gc.enable()


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
