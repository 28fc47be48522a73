"""A check and a start judge the model that weights come from by one list."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from megatron_ettin.check.run import start_findings
from megatron_ettin.config.codec import to_json
from megatron_ettin.config.compatible import MAY_CHANGE, SHAPE_FIELDS, refuse_other_shape, start_line
from megatron_ettin.config.derived import with_vocabulary
from megatron_ettin.config.recipes import recipe
from megatron_ettin.config.run import ModelConfig
from megatron_ettin.errors import CheckpointError

RUN = with_vocabulary(recipe("tiny", "clm", "pretrain"), 512)
OURS = replace(RUN, stage="extension")
NUMBERS = [item.name for item in fields(ModelConfig) if item.name != "size"]


def refused(model: ModelConfig) -> bool:
    """Whether a start refuses weights of this model."""
    try:
        refuse_other_shape(OURS.model, model, "there")
    except CheckpointError:
        return True
    return False


@pytest.mark.parametrize("name", NUMBERS)
def test_check_and_start_give_one_verdict_for_every_field(name: str, tmp_path: Path) -> None:
    other = replace(RUN.model, **{name: getattr(RUN.model, name) * 2})
    (tmp_path / "checkpoints" / "step-00000120").mkdir(parents=True)
    (tmp_path / "config.json").write_text(to_json(replace(RUN, model=other)))
    checked = replace(OURS, start=replace(OURS.start, from_run=str(tmp_path)))
    if name in SHAPE_FIELDS:
        with pytest.raises(CheckpointError, match=f"{name} .* there"):
            list(start_findings(checked))
    else:
        (finding,) = start_findings(checked)
        assert finding.state == "ok"
        assert (" -> " in finding.text) == (name in MAY_CHANGE)
    assert refused(other) == (name in SHAPE_FIELDS)


def test_the_start_of_a_run_refuses_by_the_same_function() -> None:
    start = pytest.importorskip("megatron_ettin.train.start")
    store = pytest.importorskip("megatron_ettin.train.store")
    assert start.refuse_other_shape is store.refuse_other_shape is refuse_other_shape


def test_a_vocabulary_that_is_not_known_is_not_compared() -> None:
    assert not refused(replace(RUN.model, vocabulary=0))
    assert refused(replace(RUN.model, vocabulary=0, global_every=RUN.model.global_every + 1))


def test_a_start_shows_bases_window_and_vocabulary() -> None:
    ours = replace(RUN.model, rope_base_global=160_000.0, rope_base_local=160_000.0, window=64, causal_window=63)
    theirs = replace(ours, rope_base_global=10_000.0, rope_base_local=10_000.0)
    assert start_line(ours, theirs, causal=False) == "rope 10k -> 160k, window 64 -> 64, vocabulary 512 -> 512"
    mixed = replace(theirs, rope_base_global=160_000.0)
    shown = start_line(ours, mixed, causal=True)
    assert shown.startswith("global rope 160k -> 160k, local rope 10k -> 160k, window 63 -> 63")
