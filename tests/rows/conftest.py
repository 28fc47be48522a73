"""Small corpora and runs for the tests of the data side."""

import json

import numpy as np
import pytest

from megatron_ettin.config.run import BatchConfig, DataConfig, LayoutConfig, ModelConfig, RunConfig, ScheduleConfig
from tests.twins.corpus_writer import VOCABULARY, random_documents, write_corpus


def run_config(data, stage="pretrain", objective="mlm", batch=None, micro_batch_rows=1, **fields) -> RunConfig:
    """A run on some data; other fields go to its DataConfig."""
    settings = {"row_length": 64, "piece_length": 64, "held_out_share": 0.05} | fields
    return RunConfig(
        objective=objective,
        stage=stage,
        model=ModelConfig(size="tiny", layers=4, hidden=8, intermediate=8, heads=1, vocabulary=VOCABULARY),
        schedule=ScheduleConfig(tokens=10**6, peak_rate=1e-3),
        data=DataConfig(data=str(data), **settings),
        batch=batch or BatchConfig(rows=8),
        layout=LayoutConfig(micro_batch_rows=micro_batch_rows),
    )


@pytest.fixture(scope="session")
def documents():
    """Some documents, long, short and empty."""
    return random_documents(np.random.default_rng(0), 400)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory, documents):
    """Prefix of a corpus of ``documents``."""
    return write_corpus(tmp_path_factory.mktemp("corpus") / "text", documents)


def write_mixture(path, sources, **fields):
    """A mixture file."""
    path.write_text(json.dumps({"sources": sources, **fields}))
    return path
