"""Every flag in ``flags.txt`` stays: what a user's scripts call is not taken away."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from megatron_ettin.cli import VERBS, main

KNOWN = [line.rpartition(" ") for line in Path(__file__).with_name("flags.txt").read_text().splitlines()]
"""``verb and its names``, blank, ``--flag``: a line a flag."""


@pytest.mark.parametrize("words", sorted({words for words, _, _ in KNOWN}))
def test_every_flag_is_still_there(
    words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "250")
    with pytest.raises(SystemExit) as caught:
        main([*words.split(), "--help"])
    assert caught.value.code == 0
    shown = {flag.rstrip(".-") for flag in re.findall(r"--[a-z][a-zA-Z0-9._-]*", capsys.readouterr().out)}
    assert {flag for known, _, flag in KNOWN if known == words} <= shown


def test_every_verb_is_still_there() -> None:
    assert {words.split()[0] for words, _, _ in KNOWN} <= set(VERBS)
