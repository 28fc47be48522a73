"""Token counts as people write them: 250B."""

from __future__ import annotations

import re

COUNT = re.compile(r"(\d+(?:\.\d+)?)([KMBT])")
COUNT_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


def counts_tokens(name: str) -> bool:
    """Whether a flag or field holds a number of tokens; the names of such fields end so."""
    return re.split("[.-]", name.replace("_", "-"))[-1] == "tokens"


def token_count(value: str) -> str:
    """A number of tokens with its unit written out: 1.5K is 1500; anything else as it is."""
    count = COUNT.fullmatch(value)
    return str(round(float(count[1]) * COUNT_UNITS[count[2]])) if count else value
