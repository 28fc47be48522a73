"""The last layer restricted to labels computes what the whole layer gives there, in every back end that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor

from megatron_ettin.batch import Batch
from megatron_ettin.config.run import RunConfig
from megatron_ettin.model import build
from megatron_ettin.model.attention import native
from megatron_ettin.model.attention import varlen as kernels
from megatron_ettin.model.attention.choice import Choice, Installed, attention_report, choices, last_layer_narrows
from megatron_ettin.model.attention.core import Attend
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.packed import Wanted
from megatron_ettin.model.pattern import Reach, layer_kinds
from megatron_ettin.parallel.groups import Groups
from tests.model import stand_ins
from tests.model.inputs import PIECES, batch_of, run_of, small_model
from tests.model.test_backends import CPU, HOPPER, asked, rows_of

CLOSE = 2e-6
"""Of a tensor's largest value: sums over other numbers of rows, in fp32."""
WHOLE = Reach(left=None, right=None)


def labelled(positions: Sequence[int], pieces: tuple[int, ...] = PIECES) -> Batch:
    """The batch of the pieces with labels at some positions."""
    batch = batch_of(pieces, small_model().vocabulary)
    chosen = np.array(positions, dtype=np.int32)
    ids = batch.input_ids_BT.reshape(-1)
    return replace(batch, label_positions_L=chosen, label_ids_L=ids[chosen])


def outcome(groups: Groups, config: RunConfig, batch: Batch, narrows: bool) -> dict[str, Tensor]:
    """Logits, loss and every gradient of a model whose last layer narrows or not."""
    with mock.patch.object(build, "last_layer_narrows", lambda *_: narrows):
        (model,) = build_model(config, groups)
    on_device = DeviceBatch.from_batch(batch, groups)
    losses = model(on_device)
    losses.sum().backward()
    gradients = full_state([model], groups, what="gradients")
    with torch.no_grad():
        return {"loss": losses.detach(), "logits": model.logits(on_device), **gradients}


@pytest.mark.parametrize(
    "positions",
    [(5, 70, 71, 200, 511), tuple(range(0, 512, 3)), tuple(range(512)), (0,)],
    ids=["some pieces", "all pieces", "everything", "one"],
)
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_loss_logits_and_gradients_are_those_of_the_whole_layer(
    groups: Groups, positions: tuple[int, ...], recompute: str
) -> None:
    config = run_of("mlm", recompute=recompute)
    narrow, whole = (outcome(groups, config, labelled(positions), narrows) for narrows in (True, False))
    assert narrow.keys() == whole.keys()
    for name, expected in whole.items():
        assert float((narrow[name] - expected).abs().max()) <= CLOSE * max(1.0, float(expected.abs().max())), name


def test_without_any_label_all_gradients_are_zero(groups: Groups) -> None:
    found = outcome(groups, run_of("mlm"), labelled(()), narrows=True)
    assert found["loss"].shape == (0,)
    assert not any(value.any() for value in found.values())


def test_hidden_states_of_all_positions_can_still_be_asked_for(groups: Groups) -> None:
    (model,) = build_model(run_of("mlm"), groups)
    assert model.narrows
    batch = DeviceBatch.from_batch(labelled((3, 500)), groups)
    assert model.hidden(batch).shape[0] == 512
    everywhere = model.logits(batch, torch.arange(512))
    assert torch.allclose(everywhere[[3, 500]], model.logits(batch), atol=1e-5)


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("backend", ["native", "varlen"])
def test_attention_of_some_queries_is_their_part_of_the_whole_on_every_context_rank(
    groups: Groups, monkeypatch: pytest.MonkeyPatch, backend: str, ranks: int
) -> None:
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_ins.varlen([]))
    attend: Attend = native.attend if backend == "native" else partial(kernels.attend, kernels.varlen_kernel())
    pieces, torch_type = (200, 1, 61, 250), torch.float32 if backend == "native" else torch.float64
    tokens = sum(pieces)
    qkv = torch.randn(tokens, 2, 3, 32, dtype=torch_type)
    chosen = torch.tensor([0, 3, 199, 200, 262, 263, 400])  # none in the piece of 61 tokens, none behind 400
    for start in range(0, tokens, tokens // ranks):
        stop = start + tokens // ranks
        mine = chosen[(chosen >= start) & (chosen < stop)]
        packed = rows_of(pieces, start, tokens // ranks)
        bounds = torch.searchsorted(mine, torch.tensor(packed.cu_seqlens))
        wanted = Wanted(positions_L=mine - start, bounds=tuple(bounds.tolist()))
        results = []
        for some in (wanted, None):
            own = qkv[start:stop].clone().requires_grad_()
            exchange = (
                stand_ins.WholeStream(groups.context, qkv[:, :, 1:].contiguous(), start, ranks) if ranks > 1 else None
            )
            output = attend(own, WHOLE, packed, exchange, some)  # type: ignore[arg-type]
            rows = output if some else output[mine - start]
            (rows * torch.arange(1, 33)).sum().backward()
            assert own.grad is not None
            results.append((rows.detach(), own.grad))
        for got, expected in zip(*results, strict=True):
            assert got.shape == expected.shape
            assert torch.allclose(got, expected, atol=1e-4 if backend == "native" else 1e-10)


def narrows(config: RunConfig, has: Installed = CPU, layers: int = 1) -> bool:
    return last_layer_narrows(config, choices(config, has)[-1], layers)


def test_only_a_last_layer_that_sees_whole_pieces_both_ways_narrows() -> None:
    assert narrows(run_of("mlm"))
    assert not narrows(run_of("clm"))
    assert not narrows(run_of("mlm", small_model(layers=5)))  # a local one


def test_layouts_and_kernels_that_need_all_rows_keep_them() -> None:
    assert not narrows(run_of("mlm", tensor=2))
    assert not narrows(run_of("mlm"), layers=0)
    assert not narrows(asked(run_of("mlm"), "te", "bf16"), HOPPER)
    assert not narrows(asked(run_of("mlm"), "sdpa", "bf16"), HOPPER)
    assert not narrows(asked(run_of("mlm"), "auto", "fp8"), HOPPER)
    assert narrows(asked(run_of("mlm"), "auto", "bf16"), HOPPER)
    assert narrows(run_of("mlm", pipeline=2, context=2))


def test_the_report_says_that_the_last_layer_narrows() -> None:
    config = run_of("mlm")
    made = [Choice(layer=kind.index, backend="native", reason="asked for") for kind in layer_kinds(config)]
    line = "layer 3 computes queries and MLP at labels only"
    assert attention_report(made, layer_kinds(config), narrows=True)[-1] == line
    assert line not in attention_report(made, layer_kinds(config), narrows=False)
