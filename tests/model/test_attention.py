"""Attention is exact: the definition in fp64, whatever the pieces, the window and the direction."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_ettin.model.attention import native, sdpa
from megatron_ettin.model.attention.core import Attend
from megatron_ettin.model.build import build_model
from megatron_ettin.model.device_batch import DeviceBatch
from megatron_ettin.model.packed import PackedRows
from megatron_ettin.model.pattern import Reach
from megatron_ettin.parallel.groups import Groups
from tests.model.inputs import PIECES, batch_of, run_of
from tests.twins.attention import attention

FP64 = 1e-12
"""The back end in fp64 against the definition in fp64."""
FP32 = 2e-6
"""The back end in fp32 against the definition in fp64, of the largest value."""
BF16 = 1e-2
"""The same in bf16, whose numbers are rounded by 0.4 %: the output, the upstream gradient and the result."""

REACHES = {
    "encoder global": Reach(left=None, right=None),
    "decoder global": Reach(left=None, right=0),
    "encoder local": Reach(left=64, right=64),
    "decoder local": Reach(left=63, right=0),
    "three each way": Reach(left=3, right=3),
    "released decoder": Reach(left=64, right=0),
}


def packed_rows(pieces: tuple[int, ...]) -> PackedRows:
    bounds = [0, *torch.tensor(pieces).cumsum(0).tolist()]
    return PackedRows(
        cu_seqlens=tuple(bounds),
        positions_T=torch.cat([torch.arange(piece) for piece in pieces]),
        first_token=0,
    )


def both(
    attend: Attend, pieces: tuple[int, ...], reach: Reach, dtype: torch.dtype, head_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(ours, definition) of the output and of the gradient."""
    torch.manual_seed(sum(pieces))
    packed = packed_rows(pieces)
    qkv = torch.randn(sum(pieces), 2, 3, head_size, dtype=dtype)
    upstream = torch.randn(sum(pieces), 2, head_size, dtype=dtype)
    ours, twin = qkv.clone().requires_grad_(), qkv.double().requires_grad_()
    output = attend(ours, reach, packed, None)
    expected = attention(twin, list(packed.cu_seqlens), reach.left, reach.right)
    output.backward(upstream)
    expected.backward(upstream.double())
    yield output.detach(), expected.detach()
    assert ours.grad is not None and twin.grad is not None
    yield ours.grad, twin.grad


def assert_exact(
    attend: Attend, pieces: tuple[int, ...], reach: Reach, dtype: torch.dtype, tolerance: float, head_size: int = 16
) -> None:
    for got, expected in both(attend, pieces, reach, dtype, head_size):
        assert torch.isfinite(got).all()
        assert float((got - expected).abs().max() / expected.abs().max()) < tolerance


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
@pytest.mark.parametrize("pieces", [PIECES, (1,), (64,), (65, 1, 1, 300), (1,) * 70], ids=str)
def test_sdpa_equals_the_definition_with_its_gradient(pieces: tuple[int, ...], reach: Reach) -> None:
    assert_exact(sdpa.attend, pieces, reach, torch.float64, FP64)
    assert_exact(sdpa.attend, pieces, reach, torch.float32, FP32)


@pytest.mark.parametrize("reach", REACHES.values(), ids=REACHES)
@pytest.mark.parametrize("pieces", [PIECES, (1,), (64,), (65, 1, 1, 300), (1,) * 70, (59, 60, 61, 200)], ids=str)
def test_the_native_kernel_equals_the_definition_with_its_gradient(pieces: tuple[int, ...], reach: Reach) -> None:
    for head_size in (16, 64, 24, 10):
        assert_exact(native.attend, pieces, reach, torch.float32, FP32, head_size)
        assert_exact(native.attend, pieces, reach, torch.bfloat16, BF16, head_size)


@pytest.mark.parametrize("version", ["portable", "avx2"])
def test_the_native_kernel_is_exact_on_every_instruction_set(version: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "native_kernel_equals"]
    done = subprocess.run(command, env={**os.environ, "ETTIN_CPU_PATH": version}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "[100%]" in done.stdout


def test_the_native_kernel_gives_the_same_bits_on_any_number_of_threads() -> None:
    results = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        results.append(list(both(native.attend, (65, 1, 1, 300), REACHES["encoder local"], torch.float32, 64)))
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        assert torch.equal(one[0], other[0])


def test_the_native_kernel_refuses_types_that_it_does_not_compute() -> None:
    with pytest.raises(TypeError, match="float64"):
        native.attend(torch.zeros(4, 1, 3, 16, dtype=torch.float64), REACHES["three each way"], packed_rows((4,)), None)


@settings(max_examples=30, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 150), min_size=1, max_size=8).map(tuple),
    left=st.integers(0, 70),
    right=st.integers(0, 70),
)
def test_any_window_on_any_pieces_equals_the_definition(pieces: tuple[int, ...], left: int, right: int) -> None:
    assert_exact(sdpa.attend, pieces, Reach(left=left, right=right), torch.float64, FP64)
    assert_exact(native.attend, pieces, Reach(left=left, right=right), torch.float32, FP32)


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_no_attention_across_pieces(groups: Groups, objective: str) -> None:
    config = run_of(objective)
    model = build_model(config, groups)[0]
    batch = batch_of(PIECES, config.model.vocabulary)
    before = model.hidden(DeviceBatch.from_batch(batch, groups)).detach().clone()
    for piece in (2, 5):
        start, stop = batch.cu_seqlens_S[piece : piece + 2]
        changed = batch.input_ids_BT.copy()
        changed[0, start:stop] = (changed[0, start:stop] + 7) % config.model.vocabulary
        batch.input_ids_BT[:], kept = changed, batch.input_ids_BT.copy()
        after = model.hidden(DeviceBatch.from_batch(batch, groups)).detach()
        batch.input_ids_BT[:] = kept
        assert torch.equal(before[:start], after[:start])
        assert torch.equal(before[stop:], after[stop:])
        assert not torch.equal(before[start:stop], after[start:stop])


def test_a_decoder_never_sees_what_follows(groups: Groups) -> None:
    config = run_of("clm")
    model = build_model(config, groups)[0]
    batch = batch_of((512,), config.model.vocabulary)
    before = model.hidden(DeviceBatch.from_batch(batch, groups)).detach().clone()
    batch.input_ids_BT[0, 300:] = 1
    after = model.hidden(DeviceBatch.from_batch(batch, groups)).detach()
    assert torch.equal(before[:300], after[:300])
    assert not torch.equal(before[300:], after[300:])


class Largest(TorchDispatchMode):
    """Remembers the most elements of any tensor that an operation gave."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("objective", ["mlm", "clm"])
def test_no_tensor_grows_with_the_square_of_the_row(groups: Groups, objective: str) -> None:
    config = run_of(objective, row_length=4096)
    model = build_model(config, groups)[0]
    batch = DeviceBatch.from_batch(batch_of((4000, 96), config.model.vocabulary), groups)
    with Largest() as largest:
        model(batch).sum().backward()
    assert largest.elements < 4096 * 4096 / 8
