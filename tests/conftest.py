"""Fixtures for all tests: paths and the optional folder of real text and tokenizers."""

from __future__ import annotations

import gc
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

if shutil.which("nvidia-smi") is None:
    os.environ["TRITON_INTERPRET"] = "1"  # Triton reads it when it is first imported, which torch does at times


def pytest_configure() -> None:
    """No search for garbage while a million objects of torch and others are imported with the tests."""
    gc.disable()


LONGEST = (
    "tests/readme/test_quickstart.py", "tests/layouts/test_layouts.py", "tests/benchmarks/test_gpu.py",
    "tests/readme/test_readme.py", "tests/evaluate/test_page.py", "tests/train/test_ranks.py",
)  # fmt: skip
"""Files whose tests take a minute or more: they begin first, so that no worker is left with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others in their order."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(LONGEST)))


def pytest_collection_finish() -> None:
    """Nor among them while the tests run."""
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True)
def no_watchdog_left() -> Iterator[None]:
    """A run that ended in any way has stopped its watchdog, which would end this whole process minutes later."""
    yield
    watching = [thread for thread in threading.enumerate() if thread.name == "watchdog"]
    for thread in watching:
        thread.join(timeout=5)
    assert not any(thread.is_alive() for thread in watching)


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
