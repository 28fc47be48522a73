"""Transformers computes, from our folders, exactly the model that we mean."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from megatron_ettin.errors import CheckpointError
from megatron_ettin.export import Export, parity, read_folder
from megatron_ettin.export.huggingface import objective_of
from tests.export.reference import reference_logits

OFF_BY_ONE = 1e-2
"""A wrong window or base moves some logit by more than this share of the largest: 100 times the tolerance."""


def reference(export: Export) -> parity.LogitsOfPieces:
    return lambda pieces: [
        reference_logits(export.model, export.tensors, piece, export.objective.causal) for piece in pieces
    ]


@pytest.mark.parametrize("bases", [(10_000.0, 10_000.0), (160_000.0, 160_000.0), (160_000.0, 10_000.0)])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_logits_of_an_exported_folder_equal_a_plain_float64_forward(objective, bases, make_folder, make_export):
    changes = {"rope_base_global": bases[0], "rope_base_local": bases[1]}
    result = parity.compare(make_folder(objective, **changes), reference(make_export(objective, **changes)))
    assert result.met, result
    assert all(max(case.lengths) > 3 * 8 for case in result.cases), "pieces reach beyond the window"


@pytest.mark.parametrize("window", [7, 8, 1, 20])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_every_window_has_an_exact_export(objective, window, make_folder, make_export):
    changes = {"window": window, "causal_window": window}
    assert parity.compare(make_folder(objective, **changes), reference(make_export(objective, **changes))).met


@pytest.mark.parametrize("change", [{"window": 9, "causal_window": 8}, {"rope_base_local": 10_000.0}])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_parity_sees_one_key_more_and_another_base(objective, change, make_folder, make_export):
    result = parity.compare(make_folder(objective), reference(make_export(objective, **change)))
    assert all(case.largest_difference > OFF_BY_ONE * case.largest_logit for case in result.cases), result


def test_a_failed_parity_is_an_error_and_a_met_one_is_written(make_folder, make_export, tmp_path):
    folder = make_folder("mlm")
    good = parity.compare(folder, reference(make_export("mlm")))
    parity.write_parity(folder, good)
    assert json.loads((folder / "parity.json").read_text())["met"] is True
    bad = parity.compare(folder, reference(make_export("mlm", seed=1)))
    with pytest.raises(CheckpointError, match="does not compute the same logits"):
        parity.write_parity(folder, bad)


def test_parity_counts_a_nan_as_a_difference(make_folder, make_export):
    ours = reference(make_export("mlm"))
    broken = lambda pieces: [torch.full_like(logits, float("nan")) for logits in ours(pieces)]  # noqa: E731
    assert not parity.compare(make_folder("mlm"), broken).met


def test_generation_with_the_cache_follows_the_plain_forward(make_folder, make_export):
    """Token by token beyond the window: the decoder's own cache must not change the window."""
    folder, export = make_folder("clm"), make_export("clm")
    model = parity.load_transformers(folder, read_folder(folder).config)
    ids = torch.randint(256, (1, 5), generator=torch.Generator().manual_seed(3))
    written = model.generate(ids, max_new_tokens=25, min_new_tokens=25, do_sample=False)[0]
    logits = reference_logits(export.model, export.tensors, written[:-1], causal=True)
    logits[:, 258] = float("-inf")  # min_new_tokens forbids the end token
    assert torch.equal(written[5:], logits[4:].argmax(-1))


def test_each_kind_names_the_objective_that_trained_it(make_folder: Callable[..., Path]):
    for name in ("mlm", "clm", "mntp"):
        assert objective_of(read_folder(make_folder(name)).config).name == name
