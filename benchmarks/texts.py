"""The text that tokenizer and builder are measured on: given files, and this machine's source code."""

from __future__ import annotations

import gzip
import json
import os
import sysconfig
from collections.abc import Iterator
from pathlib import Path

SHARED = Path(os.environ.get("ETTIN_SHARED", Path(__file__).resolve().parents[2] / "shared"))
"""Where the given files are: `text/` and `tokenizers/`."""
NOVELS, MULTILINGUAL = "english_novels.jsonl.gz", "multilingual.jsonl.gz"


def given_texts(name: str) -> Iterator[str]:
    """Texts of a given file; none where it is absent."""
    path = SHARED / "text" / name
    if path.exists():
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)["text"]


def code_texts() -> Iterator[str]:
    """Source files of the running Python and its packages, each once."""
    for folder in (sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["purelib"]):
        for path in sorted(Path(folder).rglob("*.py")):
            if folder.endswith("site-packages") or "site-packages" not in path.parts:
                yield path.read_text(encoding="utf-8", errors="replace")


def other_text(repeated: bool = False) -> str:
    """What follows the name of a claim that is not about the given text; empty when all of that is there.

    Ratios differ from text to text: what is known of one says nothing of another.
    """
    missing = [name for name in (NOVELS, MULTILINGUAL) if not (SHARED / "text" / name).exists()]
    if not missing and not repeated:
        return ""
    text = "Python sources" if len(missing) == 2 else f"without {missing[0]}" if missing else "given text"
    return f" [{text}{', repeated' if repeated else ''}]"
