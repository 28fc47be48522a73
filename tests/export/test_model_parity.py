"""Our model and transformers compute the same logits and gradients from the same weights."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from megatron_ettin.batch import packed_pieces
from megatron_ettin.config.objective import OBJECTIVES
from megatron_ettin.config.shapes import PUBLISHED_SIZES, SHAPES
from megatron_ettin.errors import CheckpointError
from megatron_ettin.export import parity, read_folder
from megatron_ettin.export.mapping import from_huggingface
from megatron_ettin.export.parity import load_ours, packed_logits
from megatron_ettin.model.canonical import full_state
from megatron_ettin.model.device_batch import DeviceBatch

GRADIENT_TOLERANCE = 1e-4
"""Largest difference of a gradient relative to its tensor's norm; float32 rounding over five layers is a tenth."""

WINDOWS = {"window": 64, "causal_window": 63}


def shape(size: str, **changes: object) -> dict[str, object]:
    """The fields of a published shape, with a short vocabulary."""
    facts = ("layers", "hidden", "intermediate", "heads")
    return {name: getattr(SHAPES[size], name) for name in facts} | WINDOWS | changes


def compared(folder, export) -> parity.Parity:
    return parity.compare(folder, packed_logits(export.model, export.objective, export.tensors))


@pytest.mark.parametrize("bases", [(10_000.0, 10_000.0), (160_000.0, 160_000.0), (160_000.0, 10_000.0)])
@pytest.mark.parametrize("objective", ["mlm", "clm", "mntp"])
def test_logits_of_packed_rows_equal_transformers(objective, bases, make_folder, make_export):
    changes = {"rope_base_global": bases[0], "rope_base_local": bases[1]}
    result = compared(make_folder(objective, **changes), make_export(objective, **changes))
    assert result.met, result


@pytest.mark.parametrize("window", [1, 20])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_logits_are_equal_for_any_window(objective, window, make_folder, make_export):
    changes = {"window": window, "causal_window": window}
    assert compared(make_folder(objective, **changes), make_export(objective, **changes)).met


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_logits_of_the_smallest_published_shape_equal_transformers(objective, make_folder, make_export):
    changes = shape("17m")
    result = compared(make_folder(objective, **changes), make_export(objective, **changes))
    assert result.met, result
    assert max(result.cases[0].lengths) > 3 * 64


@pytest.mark.parametrize("size", PUBLISHED_SIZES[1:])
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_logits_at_every_published_depth_equal_transformers(objective, size, make_folder, make_export):
    changes = shape(size, hidden=64, heads=2, intermediate=96, window=16, causal_window=15)
    assert compared(make_folder(objective, **changes), make_export(objective, **changes)).met


@pytest.mark.slow
@pytest.mark.parametrize("size", PUBLISHED_SIZES)
@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_logits_of_every_published_shape_equal_transformers(objective, size, make_folder, make_export):
    changes = shape(size)
    assert compared(make_folder(objective, **changes), make_export(objective, **changes)).met


def test_a_missing_tensor_does_not_load(make_export):
    export = make_export("mlm")
    tensors = {name: tensor for name, tensor in export.tensors.items() if name != "head.bias"}
    with pytest.raises(CheckpointError, match="head.bias"):
        load_ours(export.model, export.objective, tensors)


def pieces_and_labels(objective: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Pieces around the window of 8, and for each the positions that predict."""
    generator = torch.Generator().manual_seed(5)
    pieces = [torch.randint(301, (length,), generator=generator) for length in (5, 9, 31)]
    if objective == "clm":
        return pieces, [torch.arange(len(piece) - 1) for piece in pieces]
    return pieces, [torch.arange(1, len(piece), 3) for piece in pieces]


def our_gradients(export, pieces, labels) -> tuple[float, dict[str, torch.Tensor]]:
    model, groups = load_ours(export.model, export.objective, export.tensors)
    row = packed_pieces([piece.numpy() for piece in pieces])
    starts = row.cu_seqlens_S[:-1]
    targets = [predicted(piece, at, export.objective.name) for piece, at in zip(pieces, labels, strict=True)]
    row = replace(
        row,
        label_positions_L=np.concatenate([at.numpy() + start for at, start in zip(labels, starts, strict=True)]).astype(
            np.int32
        ),
        label_ids_L=torch.cat(targets).numpy().astype(np.int32),
    )
    loss = model(DeviceBatch.from_batch(row, groups)).sum()
    loss.backward()
    return loss.item(), full_state([model], groups, "gradients")


def predicted(piece: torch.Tensor, at: torch.Tensor, objective: str) -> torch.Tensor:
    return piece[at + 1] if objective == "clm" else (piece[at] + 7) % 301


def their_gradients(folder, pieces, labels, objective: str) -> tuple[float, dict[str, torch.Tensor]]:
    read = read_folder(folder)
    model = parity.load_transformers(folder, read.config)
    chosen = []
    for piece, at in zip(pieces, labels, strict=True):
        logits = model(input_ids=piece[None]).logits[0, at]
        chosen.append(torch.nn.functional.cross_entropy(logits, predicted(piece, at, objective), reduction="none"))
    loss = torch.cat(chosen).sum()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if name != "decoder.weight"}
    return loss.item(), from_huggingface(gradients, read.config.model, read.config.kind)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_gradients_of_packed_rows_equal_transformers(objective, make_folder, make_export):
    pieces, labels = pieces_and_labels(objective)
    loss, ours = our_gradients(make_export(objective), pieces, labels)
    expected, theirs = their_gradients(make_folder(objective), pieces, labels, objective)
    assert math.isclose(loss, expected, rel_tol=1e-5)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        difference = (ours[name] - gradient).abs().max() / gradient.norm()
        assert difference < GRADIENT_TOLERANCE, (name, difference.item())


def test_the_names_and_shapes_are_those_of_the_model(make_export):
    from megatron_ettin.config.weights import shapes
    from megatron_ettin.model.canonical import canonical_parameters

    export = make_export("mlm")
    ours, _ = load_ours(export.model, export.objective, export.tensors)
    expected = shapes(export.model)
    found = {entry.name: entry.parameter.shape for entry in canonical_parameters([ours])}
    assert found.keys() == expected.keys()
    assert all(found[name][1:] == shape[1:] and found[name][0] >= shape[0] for name, shape in expected.items())
    assert set(OBJECTIVES) == {"mlm", "clm", "mntp", "mixed"}
