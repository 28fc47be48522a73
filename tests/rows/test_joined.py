"""Rows of a joined corpus are those of the merged one, bit for bit."""

import numpy as np
import pytest

from megatron_ettin import _native
from megatron_ettin.corpus.build.join import join_corpora
from megatron_ettin.corpus.build.merge import merge_corpora
from megatron_ettin.rows.run_data import open_data
from tests.rows.conftest import run_config
from tests.twins.corpus_writer import random_documents, write_corpus


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """Prefixes of a joined corpus and of the merged one, above a block of the pack index; parts of many sizes."""
    folder, source = tmp_path_factory.mktemp("parts"), np.random.default_rng(3)
    counts = (700, 1, 0, _native.BLOCK_DOCUMENTS - 300, 900)
    parts = [
        write_corpus(folder / f"part{i}", random_documents(source, count, mean=4, longest=90), eod=250)
        for i, count in enumerate(counts)
    ]
    return join_corpora(parts, folder / "joined").prefix, merge_corpora(parts, folder / "merged").prefix


@pytest.mark.parametrize("packing", ["best_fit", "concatenate"])
def test_packs_batches_and_held_out_documents_are_those_of_the_merged_corpus(both, packing):
    joined, merged = (open_data(run_config(prefix, packing=packing)) for prefix in both)
    for packs in ("packs", "held_out_packs"):
        files = [getattr(data, packs)[0].path for data in (joined, merged)]
        assert files[0].read_bytes() == files[1].read_bytes() and getattr(joined, packs)[0].rows > 0
    rows = np.random.default_rng(4).integers(0, joined.pool_rows, 64)
    for objective in ("mlm", "clm"):
        digests = {data.batch(rows, objective).digest() for data in (joined, merged)}
        assert len(digests) == 1
    whole = np.arange(joined.packs[0].rows)
    tokens = [data.packs[0].native.row_tokens(whole) for data in (joined, merged)]
    assert (tokens[0] == tokens[1]).all()
