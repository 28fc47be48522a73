"""Rows of both kinds in one batch: each attends and predicts as a model of its own kind would, on every back end."""

from __future__ import annotations

import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from megatron_ettin.batch import Batch
from megatron_ettin.config.run import ComputeConfig, RunConfig
from megatron_ettin.model.attention.choice import Installed, attention_report, choices
from megatron_ettin.model.attention.core import Attend, attend_by
from megatron_ettin.model.build import build_model
from megatron_ettin.model.canonical import full_state, load_full_state
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.ettin import EttinModel
from megatron_ettin.model.packed import PackedRows, Wanted
from megatron_ettin.model.pattern import Reach, layer_kinds
from megatron_ettin.parallel.groups import Groups
from tests.model import stand_ins
from tests.model.huggingface import logits, peer
from tests.model.inputs import batch_of, run_of, small_model
from tests.twins.attention import attention

FP64 = 1e-12
"""fp64 against fp64."""
FP32 = 1e-5
"""fp32 against fp64, for outputs of about 3."""
BF16 = 3e-2
"""bf16 against fp64, of the largest value: output, gradient and result are rounded by 0.4 % each."""
LOGITS = 2e-6
"""fp32 rounding against transformers', of the largest logit."""

PIECES = (65, 1, 130, 200, 2, 63, 51)
KINDS = (False, True, True, False, True, True, False)
TOKENS = sum(PIECES)
CPU, HOPPER = Installed(cuda=False), Installed(cuda=True, hopper=True, varlen=True, flash=True, te=True)
BACKENDS = [("native", CPU), ("sdpa", CPU), ("varlen", HOPPER), ("flash", HOPPER), ("te", HOPPER)]


@pytest.fixture(autouse=True)
def gpu_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the kernels of a GPU."""
    calls: stand_ins.Calls = []
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", stand_ins.varlen(calls))
    monkeypatch.setitem(sys.modules, "flash_attn", stand_ins.flash_attn(calls))
    for name, module in stand_ins.attention_of_transformer_engine(calls).items():
        monkeypatch.setitem(sys.modules, name, module)


def config_of(**layout: int) -> RunConfig:
    """A mixed run whose windows differ on both sides."""
    return run_of("mixed", small_model(window=20, causal_window=31), **layout)


def functions(backend: str, has: Installed) -> list[tuple[Reach, Attend]]:
    """Reach and back end of a global and of a local layer."""
    config = replace(config_of(), compute=ComputeConfig(precision="bf16"))
    return [(kind.reach, attend_by(backend, kind, config, has)) for kind in layer_kinds(config)[:2]]


def packed_rows(start: int = 0, length: int = TOKENS, kinds: tuple[bool, ...] = KINDS) -> PackedRows:
    positions = torch.cat([torch.arange(piece) for piece in PIECES])
    bounds = [0, *torch.tensor(PIECES).cumsum(0).tolist()]
    return PackedRows(
        cu_seqlens=tuple(bounds), positions_T=positions[start : start + length], first_token=start, causal_S=kinds
    )


def defined(qkv_TN3D: Tensor, reach: Reach, kinds: tuple[bool, ...] = KINDS) -> Tensor:
    """Each segment by the definition, within the reach of its kind."""
    bounds = [0, *torch.tensor(PIECES).cumsum(0).tolist()]
    parts = []
    for (low, high), causal in zip(pairwise(bounds), kinds, strict=True):
        seen = reach.causal if causal else reach
        assert seen is not None
        parts.append(attention(qkv_TN3D[low:high], [0, high - low], seen.left, seen.right))
    return torch.cat(parts)


@pytest.mark.parametrize("kinds", [KINDS, (False,) * 7, (True,) * 7], ids=["both", "masked", "next"])
@pytest.mark.parametrize(("backend", "has"), BACKENDS, ids=[name for name, _ in BACKENDS])
def test_each_segment_attends_as_its_kind_on_every_back_end_with_its_gradient(
    backend: str, has: Installed, kinds: tuple[bool, ...]
) -> None:
    torch.manual_seed(0)
    dtypes = {torch.float32: FP32, torch.bfloat16: BF16} if backend == "native" else {torch.float64: FP64}
    for reach, attend in functions(backend, has):
        for dtype, tolerance in dtypes.items():
            qkv, upstream = torch.randn(TOKENS, 2, 3, 32, dtype=dtype), torch.randn(TOKENS, 2, 32, dtype=dtype)
            ours, twin = qkv.clone().requires_grad_(), qkv.double().requires_grad_()
            output, expected = attend(ours, reach, packed_rows(kinds=kinds), None), defined(twin, reach, kinds)
            output.backward(upstream)
            expected.backward(upstream.double())
            assert ours.grad is not None and twin.grad is not None
            for got, wanted in ((output, expected), (ours.grad, twin.grad)):
                assert float((got - wanted).abs().max() / wanted.abs().max()) < tolerance


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("backend", ["native", "varlen", "flash"])
def test_context_ranks_together_give_what_one_gives(groups: Groups, backend: str, ranks: int) -> None:
    torch.manual_seed(1)
    for reach, attend in functions(backend, CPU if backend == "native" else HOPPER):
        qkv = torch.randn(TOKENS, 2, 3, 32, dtype=torch.float32 if backend == "native" else torch.float64)
        expected = defined(qkv, reach)
        for start in range(0, TOKENS, TOKENS // ranks):
            own = slice(start, start + TOKENS // ranks)
            exchange = stand_ins.WholeStream(groups.context, qkv[:, :, 1:], start)
            output = attend(qkv[own], reach, packed_rows(start, TOKENS // ranks), exchange, None)  # type: ignore[arg-type]
            assert float((output - expected[own]).abs().max()) < (FP32 if backend == "native" else FP64)


@pytest.mark.parametrize("ranks", [1, 2])
def test_the_native_kernel_computes_chosen_queries_of_both_kinds(groups: Groups, ranks: int) -> None:
    """Of masked rows any, of rows of next tokens the first of each segment: what the last layer asks for."""
    torch.manual_seed(2)
    reach, attend = functions("native", CPU)[0]
    qkv, bounds = torch.randn(TOKENS, 2, 3, 32), [0, *np.cumsum(PIECES).tolist()]
    expected = defined(qkv, reach)
    pieces = zip(pairwise(bounds), KINDS, strict=True)
    ranges = [(low, high - 1, 1) if causal else (low, high, 3) for (low, high), causal in pieces]
    chosen = np.concatenate([np.arange(*piece) for piece in ranges])
    for start in range(0, TOKENS, TOKENS // ranks):
        own = slice(start, start + TOKENS // ranks)
        mine = chosen[(chosen >= own.start) & (chosen < own.stop)]
        counts = tuple(int(x) for x in np.searchsorted(mine, np.clip(bounds, own.start, own.stop)))
        wanted = Wanted(positions_L=torch.from_numpy(mine - start), bounds=counts)
        exchange = stand_ins.WholeStream(groups.context, qkv[:, :, 1:], start) if ranks > 1 else None
        output = attend(qkv[own], reach, packed_rows(start, TOKENS // ranks), exchange, wanted)  # type: ignore[arg-type]
        assert float((output - expected[torch.from_numpy(mine)]).abs().max()) < FP32


def two_rows(vocabulary: int, *, wrong: bool = False) -> Batch:
    """A masked row and a row of next tokens, of the same pieces."""
    batch = batch_of((150, 61, 1, 44), vocabulary, rows=2)
    length = batch.row_length
    masked = np.arange(0, length, 5)
    following = batch.label_positions_L[batch.label_positions_L >= length]
    positions = np.concatenate([masked, following[3:] if wrong else following])
    random = np.random.default_rng(3)
    ids = random.integers(0, vocabulary - 1, len(positions))
    return replace(
        batch, label_positions_L=positions.astype(np.int32), label_ids_L=ids.astype(np.int32),
        causal_B=np.array([False, True]),
    )  # fmt: skip


def model_of(config: RunConfig, groups: Groups, weights: dict[str, Tensor]) -> EttinModel:
    (model,) = build_model(config, groups)
    load_full_state([model], groups, weights)
    return model


def test_each_row_has_the_logits_of_transformers_encoder_or_decoder(groups: Groups) -> None:
    config = run_of("mixed", small_model(window=20, causal_window=19))  # transformers has one field for both
    (model,) = build_model(config, groups)
    torch.manual_seed(4)
    weights = {name: x + 0.05 * torch.randn_like(x) for name, x in full_state([model], groups).items()}
    model = model_of(config, groups, weights)
    batch = two_rows(config.model.vocabulary)
    with torch.no_grad():
        ours = model.logits(DeviceBatch.from_batch(batch, groups), torch.arange(2 * batch.row_length))
        for row, objective in enumerate(("mntp", "clm")):
            theirs = logits(peer(replace(config, objective=objective), weights), batch)
            rows = slice(row * batch.row_length, (row + 1) * batch.row_length)
            assert float((ours[rows] - theirs[rows]).abs().max() / theirs.abs().max()) < LOGITS


def test_loss_and_gradient_are_the_sums_of_those_of_the_rows_alone(groups: Groups) -> None:
    """With its last layer at labels only: of the two objectives, each trained on the rows of its kind."""
    config = config_of()
    (model,) = build_model(config, groups)
    assert model.narrows
    weights = full_state([model], groups)
    batch = two_rows(config.model.vocabulary)
    losses = model(DeviceBatch.from_batch(batch, groups))
    losses.sum().backward()
    got = full_state([model], groups, what="gradients")
    expected: dict[str, Tensor] = {}
    for row, objective in enumerate(("mntp", "clm")):
        alone = model_of(replace(config, objective=objective), groups, weights)
        mine = batch.label_positions_L // batch.row_length == row
        part = replace(
            batch, causal_B=None, label_positions_L=batch.label_positions_L[mine], label_ids_L=batch.label_ids_L[mine]
        )
        loss = alone(DeviceBatch.from_batch(part, groups))
        torch.testing.assert_close(loss, losses[torch.from_numpy(mine)], rtol=FP32, atol=0.0)
        loss.sum().backward()
        for name, gradient in full_state([alone], groups, what="gradients").items():
            expected[name] = expected.get(name, torch.zeros_like(gradient)) + gradient
    for name, gradient in expected.items():
        assert float((got[name] - gradient).norm() / gradient.norm()) < FP32, name


def test_labels_of_next_tokens_that_are_not_the_first_are_refused(groups: Groups) -> None:
    with pytest.raises(ValueError, match="must stand at its first positions"):
        DeviceBatch.from_batch(two_rows(250, wrong=True), groups)


def test_the_report_says_what_either_kind_of_row_sees() -> None:
    config = config_of()
    lines = attention_report(choices(config, CPU), layer_kinds(config), narrows=False)
    assert sorted(lines) == [
        f"attention of layers {layers} ({sees}): native, the exact kernel of a CPU"
        for layers, sees in (
            ("0, 3", "the whole piece; in rows of next tokens everything to the left"),
            ("1, 2", "20 to the left, 20 to the right; in rows of next tokens 31 to the left"),
        )
    ]
