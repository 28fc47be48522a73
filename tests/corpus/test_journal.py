"""The native builder writes the journal and Python reads it: both must mean the same words."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

from megatron_ettin import _native


def load_journal(root: Path) -> dict[str, Any]:
    """The module, executed anew."""
    return runpy.run_path(str(root / "megatron_ettin/corpus/build/journal.py"))



@pytest.mark.parametrize("name", ["JOURNAL_FIELDS", "JOURNAL_OUTPUT_FIELDS"])
@pytest.mark.parametrize("change", ["added", "swapped", "renamed"])
def test_other_fields_in_the_extension_are_noticed(
    name: str, change: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, *rest = getattr(_native, name)
    changed = {
        "added": (first, second, *rest, "lines_seen"),
        "swapped": (second, first, *rest),
        "renamed": ("x", second, *rest),
    }
    monkeypatch.setattr(_native, name, changed[change])
    with pytest.raises(ImportError, match="build the extension again with `pip install -e .`"):
        load_journal(root)


def test_another_number_of_words_is_noticed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = _native.journal_words
    monkeypatch.setattr(_native, "journal_words", lambda outputs: words(outputs) + 1)
    with pytest.raises(ImportError, match="are of different versions"):
        load_journal(root)


def test_the_extension_and_the_reader_agree(root: Path) -> None:
    state = load_journal(root)["empty_state"](2)
    assert len(state.outputs) == 2
    assert len(state.rejected) == len(_native.REJECT_KINDS)
