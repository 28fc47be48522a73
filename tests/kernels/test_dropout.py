"""Dropout's bits are the named generator's, the same by the extension, by torch and by the definition."""

from __future__ import annotations

import pytest
import torch

from megatron_ettin.kernels.dropout import Dropout, add_dropped, kept
from tests.twins import dropout as twin

KEY = 0x0123456789ABCDEF
PLACES = [0, 1, 1023, 2**31 + 5, 2**32 - 1, 2**32 + 7, 2816 * 8192]
GOLDEN = "0000001010111101011111111101000101000111100100001011001001111111"
"""Of the first 64 channels of place 1,023 in step 5, layer 3, at one half: 1 is kept."""


def dropout_of(share: float = 0.1, step: int = 5, layer: int = 3, places: list[int] | None = None) -> Dropout:
    return Dropout(share=share, key=KEY, step=step, layer=layer, places_T=torch.tensor(places or PLACES))


def native_bits(dropout: Dropout, channels: int) -> torch.Tensor:
    x = torch.ones(len(dropout.places_T), channels)
    return add_dropped(torch.zeros_like(x), x, dropout) != 0


def test_the_bits_are_golden() -> None:
    dropout = dropout_of(share=0.5, places=[1023])
    assert "".join(str(int(bit)) for bit in native_bits(dropout, 64)[0]) == GOLDEN


@pytest.mark.parametrize("channels", [1, 16, 64, 100, 768])
@pytest.mark.parametrize(("step", "layer"), [(0, 0), (5, 3), (2**32 - 1, 27)])
def test_extension_torch_and_definition_keep_the_same_numbers(channels: int, step: int, layer: int) -> None:
    dropout = dropout_of(step=step, layer=layer)
    bits = native_bits(dropout, channels)
    assert bits.equal(kept(dropout, channels))
    few = sorted({0, channels // 2, channels - 1})
    for row, place in enumerate(PLACES):
        expected = [twin.kept(KEY, step, layer, place, channel, dropout.dropped_below) for channel in few]
        assert bits[row, few].tolist() == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_of_the_extension_are_those_of_torch(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    residual, x, upstream = (torch.randn(len(PLACES), 1, 700).to(dtype) for _ in range(3))
    results = []
    for kind in (dtype, torch.float64):
        leaves = [tensor.to(kind, copy=True).requires_grad_() for tensor in (residual, x)]
        output = add_dropped(*leaves, dropout_of())
        output.backward(upstream.to(kind))
        results.append([output.detach(), *(leaf.grad for leaf in leaves)])
    rounding = 1e-6 if dtype == torch.float32 else 2.0**-8
    for got, expected in zip(*results, strict=True):
        assert got is not None and expected is not None and got.dtype == dtype
        assert got.eq(0).equal(expected.eq(0))
        assert torch.allclose(got.double(), expected, rtol=rounding, atol=1e-6)


def test_the_bits_do_not_depend_on_the_number_of_threads_or_on_the_tokens_beside() -> None:
    dropout, before = dropout_of(), torch.get_num_threads()
    whole = native_bits(dropout, 128)
    try:
        torch.set_num_threads(3)
        assert native_bits(dropout, 128).equal(whole)
    finally:
        torch.set_num_threads(before)
    assert native_bits(dropout_of(places=PLACES[2:5]), 128).equal(whole[2:5])


def test_dropout_zeroes_its_share_and_keeps_the_mean() -> None:
    x = torch.ones(1_000, 1_000)
    dropout = dropout_of(places=list(range(1_000)))
    dropped = add_dropped(torch.zeros_like(x), x, dropout)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.9])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.1, abs=1e-3)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("change", [{"step": 6}, {"layer": 4}, {"places": [place + 1 for place in PLACES]}])
def test_other_steps_layers_and_places_drop_other_numbers(change: dict[str, object]) -> None:
    one, other = native_bits(dropout_of(0.5), 256), native_bits(dropout_of(0.5, **change), 256)  # type: ignore[arg-type]
    assert float((one == other).float().mean()) == pytest.approx(0.5, abs=0.05)
